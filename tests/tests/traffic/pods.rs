//! Pods: one that is its own backend, and a thousand that come and go.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use federation_ebpf::outcome::Outcome;
use federation_tests::{
    client,
    federation::{PATIENCE, SERVICE_ECHO_PORT, SERVICE_HTTP_PORT},
    lab::Pod,
};

use super::world::{NEAR, REQUEST, World};

const CROWDS: usize = 10;
const CROWD: usize = 100;

#[tokio::test]
async fn a_pod_that_is_its_own_backend_reaches_itself() -> Result<()> {
    let world = World::new(1, 1).await?;
    let [pod] = &world.member(NEAR)?.servers()[..] else { anyhow::bail!("one server") };
    for vip in world.vips {
        let answer = client::get(pod.namespace(), (vip, SERVICE_HTTP_PORT).into(), PATIENCE).await?;
        assert_eq!(answer.pod, pod.name());
        let answer = client::echo(pod.namespace(), (vip, SERVICE_ECHO_PORT).into(), PATIENCE).await?;
        assert_eq!(answer.pod, pod.name());
    }
    ensure!(world.count(Outcome::Hairpinned)? > 0, "packets went back");
    Ok(())
}

#[tokio::test]
async fn a_thousand_pods_come_and_go_and_each_reaches_the_vip() -> Result<()> {
    let world = World::new(1, 1).await?;
    let links = || -> Result<usize> { Ok(world.view()?.links()?.len()) };
    let before = links()?;
    for crowd in 0..CROWDS {
        let pods = world.node.add_pods((0..CROWD).map(|pod| format!("crowd{crowd}-{pod}")))?;
        let attached = async || {
            let now = links()?;
            ensure!(now == before + 2 * CROWD, "{now} programs are attached");
            Ok(())
        };
        world.lab().wait_for(format!("crowd {crowd} is attached"), PATIENCE, attached).await?;
        for pod in &pods {
            reaches(&world, pod).await?;
        }
        world.node.remove_pods(&pods)?;
    }
    let detached = async || {
        let now = links()?;
        ensure!(now == before, "{now} programs are attached");
        Ok(())
    };
    world.lab().wait_for("the last crowd is forgotten", PATIENCE, detached).await?;
    reaches(&world, &world.client).await
}

async fn reaches(world: &World, pod: &Pod) -> Result<()> {
    for vip in world.vips {
        let server = SocketAddr::new(vip, SERVICE_HTTP_PORT);
        client::get(pod.namespace(), server, REQUEST)
            .await
            .with_context(|| format!("{} does not reach {server}", pod.name()))?;
    }
    Ok(())
}
