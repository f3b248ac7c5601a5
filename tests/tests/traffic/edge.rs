//! A client outside of all nodes: served, refused and answered by the node that it enters through.

use std::{io::ErrorKind, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    client,
    federation::{PATIENCE, SERVICE_ECHO_PORT, SERVICE_HTTP_PORT, VIP_RANGE, VIP_RANGE_V6},
};
use tokio::time::timeout;

use super::world::{NEAR, World};

#[tokio::test]
async fn a_client_outside_is_served_refused_and_answered_in_both_families() -> Result<()> {
    let world = World::new(1, 1).await?;
    let outside = world.lab().host("outside")?;
    outside.complete_checksums()?;
    for range in [VIP_RANGE, VIP_RANGE_V6] {
        world.lab().route_via(range.parse()?, &world.node)?;
    }
    let from = outside.namespace();
    for vip in world.vips {
        let served = async || client::get(from, (vip, SERVICE_HTTP_PORT).into(), PATIENCE).await;
        let answer = world.lab().wait_for(format!("{vip} answers"), PATIENCE, served).await?;
        assert_eq!(answer.cluster, NEAR);
        client::echo(from, (vip, SERVICE_ECHO_PORT).into(), PATIENCE).await?;
        client::ping(from, vip, PATIENCE).await?;

        let nobody = SocketAddr::new(vip, 81);
        let connected = timeout(PATIENCE, from.connect(nobody)).await.context("silence")?;
        let kind = connected.err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{nobody}: {kind:?}");
    }
    Ok(())
}
