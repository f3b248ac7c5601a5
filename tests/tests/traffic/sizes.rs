//! Paths that carry less, datagrams that are larger than any path, and transfers that are segmented late.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use federation_ebpf::outcome::Outcome;
use federation_tests::{
    federation::{PATIENCE, SERVICE_ECHO_PORT},
    lab::Pod,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::world::{NEAR, NEXT, STREAM, World, any, node_of};

/// Many segments, so that offloads are at work.
const LARGE: usize = 8 << 20;
const NARROW: u32 = 1400;

#[tokio::test]
async fn much_goes_through_a_vip_and_adapts_to_a_narrow_path() -> Result<()> {
    let world = World::new(2, 1).await?;
    let [server] = &world.member(NEXT)?.servers()[..] else { anyhow::bail!("one server") };
    world.leave(NEAR, NEXT).await?;
    for vip in world.vips {
        transfer(&world.client, server, vip).await?;
    }
    // From here on a router on the way has to tell the client, which knows nothing of the backend.
    node_of(world.member(NEXT)?)?.host().set_mtu(NARROW)?;
    for vip in world.vips {
        transfer(&world.client, server, vip).await?;
        let route = world.client.namespace().execute("ip", &["route", "get", &vip.to_string()])?;
        ensure!(route.contains(&format!("mtu {NARROW}")), "the client was told nothing: {route}");
    }
    ensure!(world.count(Outcome::ErrorTranslated)? > 0, "errors were translated");
    Ok(())
}

#[tokio::test]
async fn datagrams_larger_than_the_path_arrive_whole_and_are_answered() -> Result<()> {
    let world = World::new(2, 1).await?;
    world.leave(NEAR, NEXT).await?;
    for vip in world.vips {
        let socket = world.client.namespace().udp((any(vip), 0).into())?;
        socket.connect((vip, SERVICE_ECHO_PORT)).await?;
        let datagram = vec![b'x'; 8000];
        let mut answer = vec![0; 10_000];
        let exchange = async {
            socket.send(&datagram).await?;
            socket.recv(&mut answer).await
        };
        let length = timeout(PATIENCE, exchange).await.context("no answer")??;
        ensure!(answer[..length].ends_with(&datagram), "the datagram was changed");
    }
    ensure!(world.count(Outcome::FragmentTranslated)? > 0, "fragments were translated");
    Ok(())
}

/// Sends much to the VIP's stream port, behind which `to` listens.
async fn transfer(from: &Pod, to: &Pod, vip: IpAddr) -> Result<()> {
    let address: IpAddr = if vip.is_ipv4() { to.address().into() } else { to.address_v6().into() };
    let listener = to.namespace().run(|| std::net::TcpListener::bind((address, STREAM)))??;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let receive = async {
        // Health probes connect too, and say nothing.
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap_or_default();
            if !all.is_empty() {
                return Ok(all.len());
            }
        }
    };
    let server = SocketAddr::new(vip, STREAM);
    let send = async {
        let mut stream = loop {
            // Until probes have found the listener.
            match from.namespace().connect(server).await {
                Ok(stream) => break stream,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        };
        stream.write_all(&vec![7; LARGE]).await?;
        stream.shutdown().await
    };
    let both = async { tokio::try_join!(receive, send) };
    let (received, ()) =
        timeout(PATIENCE, both).await.with_context(|| format!("a transfer to {server} hangs"))??;
    ensure!(received == LARGE, "{received} bytes arrived");
    Ok(())
}
