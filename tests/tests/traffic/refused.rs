//! Whom nobody serves is told so, by every protocol's own means.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use federation_ebpf::outcome::Outcome;
use federation_tests::{
    client,
    federation::{NAMESPACE, PATIENCE, SERVICE, SERVICE_ECHO_PORT, SERVICE_HTTP_PORT},
    lab::Namespace,
};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::world::{NEAR, NEXT, World, any};

/// A port that the service has not.
const NO_PORT: u16 = 81;

/// In the ranges of VIPs, but nobody's.
const NOBODYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 255, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd98, 0x18, 0, 0, 0, 0, 0, 0xfffe)),
];

#[tokio::test]
async fn a_port_or_an_address_that_is_nobodys_refuses() -> Result<()> {
    let world = World::new(1, 1).await?;
    // With checksums that the kernel has yet to complete, and with complete ones.
    for offload in ["on", "off"] {
        world.client.namespace().execute("ethtool", &["--offload", "eth0", "tx", offload])?;
        for address in world.vips.into_iter().chain(NOBODYS) {
            tcp_is_refused(world.client.namespace(), (address, NO_PORT).into()).await?;
            udp_is_refused(&world, (address, NO_PORT).into()).await?;
        }
    }
    ensure!(world.count(Outcome::NoFrontend)? >= 16, "the refusals are counted");
    Ok(())
}

#[tokio::test]
async fn a_service_without_backends_refuses_and_answers_no_echo() -> Result<()> {
    let world = World::new(1, 1).await?;
    for vip in world.vips {
        client::ping(world.client.namespace(), vip, PATIENCE).await?;
    }
    world.member(NEAR)?.set_all_ready(false).await?;
    for vip in world.vips {
        let server = SocketAddr::new(vip, SERVICE_HTTP_PORT);
        let refused = async || tcp_is_refused(world.client.namespace(), server).await;
        world.lab().wait_for(format!("{vip} refuses"), PATIENCE, refused).await?;
        udp_is_refused(&world, (vip, SERVICE_ECHO_PORT).into()).await?;
        let error = client::ping(world.client.namespace(), vip, PATIENCE).await.expect_err("nobody is there");
        ensure!(format!("{error:#}").contains("unreachable"), "{error:#}");
    }
    world.member(NEAR)?.set_all_ready(true).await?;
    for vip in world.vips {
        world.leads_to(vip, NEAR).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_service_that_keeps_to_the_node_refuses_although_others_could_serve() -> Result<()> {
    let world = World::new(2, 1).await?;
    world.node.host().take_in_this_process()?;
    world.leave(NEAR, NEXT).await?;
    let services = Api::<Service>::namespaced(world.federation.api().clone(), NAMESPACE);
    let local = Patch::Merge(json!({ "spec": { "internalTrafficPolicy": "Local" } }));
    services.patch(SERVICE, &PatchParams::default(), &local).await?;
    for vip in world.vips {
        let server = SocketAddr::new(vip, SERVICE_HTTP_PORT);
        let refused = async || tcp_is_refused(world.client.namespace(), server).await;
        world.lab().wait_for(format!("{vip} refuses"), PATIENCE, refused).await?;
        udp_is_refused(&world, (vip, SERVICE_ECHO_PORT).into()).await?;
        tcp_is_refused(world.node.namespace(), server).await?;
    }
    world.member(NEAR)?.set_all_ready(true).await?;
    for vip in world.vips {
        world.leads_to(vip, NEAR).await?;
    }
    Ok(())
}

async fn tcp_is_refused(from: &Namespace, server: SocketAddr) -> Result<()> {
    let connected = timeout(PATIENCE, from.connect(server)).await;
    let error = connected.with_context(|| format!("{server} is silent"))?.err();
    let kind = error.map(|error| error.kind());
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "{server}: {kind:?}");
    Ok(())
}

async fn udp_is_refused(world: &World, server: SocketAddr) -> Result<()> {
    let socket = world.client.namespace().udp((any(server.ip()), 0).into())?;
    socket.connect(server).await?;
    socket.send(b"are you there?").await?;
    let received = timeout(PATIENCE, socket.recv(&mut [0; 64])).await;
    let error = received.with_context(|| format!("{server} is silent"))?.err();
    let kind = error.map(|error| error.kind());
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "{server}: {kind:?}");
    Ok(())
}
