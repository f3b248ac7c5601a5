//! How connections end when their backend does.

use std::{io::ErrorKind, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use federation_tests::federation::{PATIENCE, SERVICE_HTTP_PORT};
use tokio::{io::AsyncReadExt as _, time::timeout};

use super::world::{NEAR, NEXT, World};

#[tokio::test]
async fn clients_that_only_wait_are_freed_when_their_backend_dies() -> Result<()> {
    let world = World::new(2, 1).await?;
    world.leave(NEAR, NEXT).await?;
    let mut waiting = Vec::new();
    for vip in world.vips {
        for _ in 0..5 {
            let server = SocketAddr::new(vip, SERVICE_HTTP_PORT);
            waiting.push(world.client.namespace().connect(server).await?);
        }
    }
    world.member(NEXT)?.cluster().power_off()?;
    for mut stream in waiting {
        // It sends nothing: only somebody else can tell it.
        let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await.context("a client waits for ever")?;
        let kind = read.err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::ConnectionReset), "{kind:?}");
    }
    Ok(())
}
