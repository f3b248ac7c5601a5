//! Clients in the node's own network, as pods with `hostNetwork`: their sockets are told of a backend.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::dataplane::{Mode, view::View};
use federation_tests::{
    client,
    federation::{PATIENCE, SERVICE_ECHO_PORT, SERVICE_HTTP_PORT},
};
use tokio::{io::AsyncReadExt as _, net::UdpSocket, time::timeout};

use super::world::{FAR, NEAR, NEXT, REQUEST, World, any};

/// The address as a socket of IPv6 has it that talks to either family.
fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

/// The names of the pod that answered a datagram, and where its answer came from.
async fn exchange(socket: &UdpSocket, server: SocketAddr) -> Result<(String, SocketAddr)> {
    let mut answer = [0; 512];
    let exchange = async {
        socket.send_to(b"?", server).await?;
        socket.recv_from(&mut answer).await
    };
    let (length, sender) = timeout(REQUEST, exchange).await??;
    Ok((String::from_utf8_lossy(&answer[..length]).into_owned(), sender))
}

fn refused<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

impl World {
    /// VIPs as sockets know them: of each family, and of IPv4 through a socket of IPv6.
    fn ways(&self) -> [IpAddr; 3] {
        [self.vips[0], self.vips[1], mapped(self.vips[0])]
    }

    /// Waits until a connection from the node itself is answered by `cluster`.
    async fn host_is_led_to(&self, vip: IpAddr, cluster: &str) -> Result<()> {
        self.leads_from(self.node.namespace(), vip, cluster).await
    }
}

#[tokio::test]
async fn sockets_of_the_node_itself_talk_to_virtual_ips_and_believe_so() -> Result<()> {
    let world = World::new(2, 1).await?;
    world.node.host().take_in_this_process()?;
    for vip in world.ways() {
        world.host_is_led_to(vip, NEAR).await?;
        let stream = world.node.namespace().connect(SocketAddr::new(vip, SERVICE_HTTP_PORT)).await?;
        assert_eq!(stream.peer_addr()?, SocketAddr::new(vip, SERVICE_HTTP_PORT));
        let listed = world.node.namespace().run(|| world.view()?.sockets())??;
        let own = listed.iter().find(|socket| socket.client.port() == stream.local_addr().unwrap().port());
        let own = own.with_context(|| format!("{listed:?}"))?;
        assert_eq!(own.vip, SocketAddr::new(vip.to_canonical(), SERVICE_HTTP_PORT));

        let server = SocketAddr::new(vip, SERVICE_ECHO_PORT);
        let socket = world.node.namespace().udp(SocketAddr::new(any(vip), 0))?;
        for _ in 0..3 {
            let (names, sender) = exchange(&socket, server).await?;
            assert!(names.starts_with(NEAR), "{names}");
            assert_eq!(sender, server);
        }
        let socket = world.node.namespace().udp(SocketAddr::new(any(vip), 0))?;
        socket.connect(server).await?;
        assert_eq!(socket.peer_addr()?, server);
        socket.send(b"?").await?;
        let mut answer = [0; 512];
        let (_, sender) = timeout(REQUEST, socket.recv_from(&mut answer)).await??;
        assert_eq!(sender, server);
    }
    world.leave(NEAR, NEXT).await?;
    for vip in world.ways() {
        world.host_is_led_to(vip, NEXT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn sockets_of_the_node_itself_are_refused_at_once() -> Result<()> {
    const NOBODYS: u16 = 4;
    let world = World::new(1, 1).await?;
    world.node.host().take_in_this_process()?;
    let namespace = world.node.namespace();
    for vip in world.ways() {
        let nowhere = SocketAddr::new(vip, NOBODYS);
        assert_eq!(refused(namespace.connect(nowhere).await), Some(ErrorKind::ConnectionRefused));
        let socket = namespace.udp(SocketAddr::new(any(vip), 0))?;
        assert_eq!(refused(socket.send_to(b"?", nowhere).await), Some(ErrorKind::ConnectionRefused));
    }
    world.member(NEAR)?.set_all_ready(false).await?;
    for vip in world.ways() {
        let server = SocketAddr::new(vip, SERVICE_HTTP_PORT);
        let nobody = async || {
            let kind = refused(namespace.connect(server).await);
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "{kind:?}");
            Ok(())
        };
        world.lab().wait_for(format!("{server} refuses the node"), PATIENCE, nobody).await?;
    }
    Ok(())
}

#[tokio::test]
async fn sockets_of_other_networks_are_left_alone() -> Result<()> {
    let world = World::new(1, 1).await?;
    world.node.host().take_in_this_process()?;
    // This process is below the cgroup of the node, but these sockets are of a pod: as those of all pods of a real node.
    let server = SocketAddr::new(world.vips[0], SERVICE_HTTP_PORT);
    let sockets = || fill(&world.view()?, "SOCKETS");
    client::get(world.client.namespace(), server, REQUEST).await?;
    assert_eq!(sockets()?, 0);
    client::get(world.node.namespace(), server, REQUEST).await?;
    assert_eq!(sockets()?, 1);
    Ok(())
}

fn fill(view: &View, map: &str) -> Result<usize> {
    let fills = view.fills()?;
    Ok(fills.iter().find(|fill| fill.map == map).and_then(|fill| fill.used).unwrap_or_default())
}

#[tokio::test]
async fn a_socket_of_the_node_keeps_its_backend_whatever_becomes_of_the_agent() -> Result<()> {
    let world = World::new(1, 8).await?;
    world.node.host().take_in_this_process()?;
    let namespace = world.node.namespace();
    let server = SocketAddr::new(world.vips[0], SERVICE_ECHO_PORT);
    let socket = namespace.udp(SocketAddr::new(any(server.ip()), 0))?;
    let (names, _) = exchange(&socket, server).await?;
    let member = world.member(NEAR)?;
    world.federation.agent(member, &world.node)?.kill();
    assert_eq!(exchange(&socket, server).await?, (names.clone(), server));
    world.host_is_led_to(server.ip(), NEAR).await?;

    world.federation.start_agent(member, &world.node)?;
    member.agent_ready(world.lab(), &world.node).await?;
    assert_eq!(exchange(&socket, server).await?, (names, server));
    let links = world.view()?.links()?;
    assert_eq!(links.iter().filter(|link| link.mode == Mode::Cgroup).count(), 8, "{links:?}");
    Ok(())
}

#[tokio::test]
async fn a_socket_of_the_node_is_ended_when_its_backend_dies() -> Result<()> {
    let world = World::new(3, 1).await?;
    world.node.host().take_in_this_process()?;
    world.leave(NEAR, NEXT).await?;
    let namespace = world.node.namespace();
    let mut sockets = Vec::new();
    for vip in world.ways() {
        let stream = namespace.connect(SocketAddr::new(vip, SERVICE_HTTP_PORT)).await?;
        let datagrams = namespace.udp(SocketAddr::new(any(vip), 0))?;
        datagrams.connect(SocketAddr::new(vip, SERVICE_ECHO_PORT)).await?;
        let loose = namespace.udp(SocketAddr::new(any(vip), 0))?;
        exchange(&loose, SocketAddr::new(vip, SERVICE_ECHO_PORT)).await?;
        sockets.push((vip, stream, datagrams, loose));
    }
    world.member(NEXT)?.cluster().power_off()?;
    for (vip, mut stream, datagrams, loose) in sockets {
        // Nobody sends anything: whoever reads would wait for ever.
        let read = timeout(PATIENCE, stream.read_u8()).await.with_context(|| world.lab().logs())?;
        let error = read.expect_err("the connection is ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let error = timeout(PATIENCE, datagrams.recv(&mut [0])).await?.expect_err("the socket is ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let (names, _) = exchange(&loose, SocketAddr::new(vip, SERVICE_ECHO_PORT)).await?;
        assert!(!names.starts_with(NEXT), "{names}");
        world.host_is_led_to(vip, FAR).await?;
    }
    Ok(())
}
