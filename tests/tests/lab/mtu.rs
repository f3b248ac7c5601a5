//! Links that carry less than their neighbours: who says so, and that senders adapt.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use federation_tests::lab::{Host, Lab, Node, Pod, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::{PATIENCE, PORT, counted, far, near};

/// Enough for every packet to be as large as it may.
const LARGE: usize = 1 << 20;

/// What the narrow link carries, and what less the pod behind it takes.
const NARROW: u32 = 1400;
const NARROWER: u32 = 1300;

struct World {
    _lab: Lab,
    client: Pod,
    /// Where the server is, whose link will be narrow.
    node: Node,
    server: Pod,
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let client = lab.cluster(near())?.add_node()?.add_pod("client")?;
        let node = lab.cluster(far())?.add_node()?;
        let server = node.add_pod("server")?;
        Ok(Self { _lab: lab, client, node, server })
    }
}

#[tokio::test]
async fn the_backbone_says_what_a_narrow_link_carries_and_tcp_adapts() -> Result<()> {
    let World { client, node, server, .. } = &World::new()?;
    node.host().set_mtu(NARROW)?;
    for (_, address) in both_families(client, server) {
        transfer(client, server, address).await?;
        told(client, address, NARROW)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_says_what_its_own_links_carry() -> Result<()> {
    let World { client, node, server, .. } = &World::new()?;
    node.host().set_mtu(NARROW)?;
    for (address, _) in both_families(client, server) {
        learns(server, address, NARROW).await?;
    }
    server.set_mtu(NARROWER)?;
    for (_, address) in both_families(client, server) {
        // First of the link, then of the pod behind it.
        learns(client, address, NARROW).await?;
        learns(client, address, NARROWER).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_link_can_be_wide_and_slow() -> Result<()> {
    let lab = Lab::new()?;
    let delayed = far().delayed_by(std::time::Duration::from_millis(1));
    let ends = [near(), delayed].map(|spec| -> Result<Pod> {
        let node = lab.cluster(spec)?.add_node()?;
        node.host().set_mtu(9000)?;
        let pod = node.add_pod("pod1")?;
        pod.set_mtu(9000)?;
        Ok(pod)
    });
    let [client, server] = ends;
    let (client, server) = (client?, server?);
    for (_, other) in both_families(&client, &server) {
        transfer(&client, &server, other).await?;
        // One datagram in one packet: nothing on the way may cut it.
        let socket = client.namespace().udp(SocketAddr::new(unspecified(other), 0))?;
        let receiver = server.namespace().udp(SocketAddr::new(other, PORT))?;
        socket.send_to(&[7; 8900], receiver.local_addr()?).await?;
        let (length, _) = timeout(PATIENCE, receiver.recv_from(&mut [0; 9000])).await??;
        assert_eq!(length, 8900);
    }
    for counter in ["IpReasmReqds", "Ip6ReasmReqds"] {
        assert_eq!(counted(&server, counter)?, 0, "{counter}: fragments came");
    }
    Ok(())
}

#[test]
fn a_link_too_small_for_ipv6_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let host: Host = lab.host("hub")?;
    let error = format!("{:#}", host.set_mtu(1279).expect_err("no IPv6"));
    assert!(error.contains("hub") && error.contains("1279") && error.contains("1280"), "{error}");
    Ok(())
}

fn both_families(client: &Pod, server: &Pod) -> [(IpAddr, IpAddr); 2] {
    [
        (client.address().into(), server.address().into()),
        (client.address_v6().into(), server.address_v6().into()),
    ]
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

/// Sends much from one pod to the other, over TCP.
async fn transfer(from: &Pod, to: &Pod, address: IpAddr) -> Result<()> {
    let server = SocketAddr::new(address, PORT);
    let listener = to.namespace().run(|| std::net::TcpListener::bind(server))??;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let receive = async {
        let (mut stream, _) = listener.accept().await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok(all.len())
    };
    let send = async {
        let mut stream = from.namespace().connect(server).await?;
        stream.write_all(&vec![7; LARGE]).await?;
        stream.shutdown().await
    };
    let both = async { tokio::try_join!(receive, send) };
    let (received, ()) =
        timeout(PATIENCE, both).await.with_context(|| format!("a transfer to {server} hangs"))??;
    ensure!(received == LARGE, "{received} bytes arrived");
    Ok(())
}

/// Sends datagrams that are a little too large until somebody has said so.
async fn learns(from: &Pod, address: IpAddr, mtu: u32) -> Result<()> {
    let socket = from.namespace().udp(SocketAddr::new(unspecified(address), 0))?;
    // With its headers: more than that, yet no more than the path before the link carries, for the sender would cut it.
    let datagram = vec![7; usize::try_from(mtu)?];
    let learnt = async || {
        socket.send_to(&datagram, SocketAddr::new(address, PORT)).await?;
        told(from, address, mtu)
    };
    eventually("the sender learns the MTU of its path", PATIENCE, learnt).await
}

/// Whether an ICMP error has told this pod how large packets to `address` may be.
fn told(pod: &Pod, address: IpAddr, mtu: u32) -> Result<()> {
    let route = pod.namespace().execute("ip", &["route", "get", &address.to_string()])?;
    ensure!(route.contains(&format!("mtu {mtu}")), "{} was told nothing of {mtu}: {route}", pod.name());
    Ok(())
}
