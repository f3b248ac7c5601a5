//! Control planes that die or hang: what is known of them stays, and nobody else waits.

use anyhow::{Result, ensure};
use federation_agent::api::ShardState;
use k8s_openapi::api::core::v1::Service;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::world::{AMERICA, EUROPE, SERVICE, Site, World, in_world, merge};

/// The port of a site's shard becomes this.
async fn port_becomes(world: &World, site: Site, expected: i32) -> Result<()> {
    let same = async || {
        let shard = world.site::<Service>(site).get(SERVICE).await?;
        let ports: Vec<_> =
            shard.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port).collect();
        ensure!(ports == [expected], "{ports:?}");
        Ok(())
    };
    world.wait(&format!("the shard of {} has port {expected}", site.name), same).await
}

async fn set_port(world: &World, port: i32) -> Result<()> {
    let ports = json!({ "spec": { "ports": [{ "name": "http", "port": port, "targetPort": 8080 }] } });
    merge(&world.hub::<Service>(), SERVICE, ports).await
}

#[test]
fn endpoints_of_a_dead_control_plane_stay_also_over_a_restart_of_ours() -> Result<()> {
    in_world(async |world| {
        let controller = world.start().await?;
        world.create_service().await?;
        for site in [EUROPE, AMERICA] {
            world.announce(site, &[(&site.pod(1), true)]).await?;
            world.mirrored_becomes(site, &[site.pod(1)]).await?;
        }
        world.service_says("Propagated", "True", "InPlace").await?;
        world.lab.process(EUROPE.name)?.kill();
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "False", "Silent").await?;
        world.cluster_says(EUROPE, "Accepted", "True", "Accepted").await?;
        world.service_says("Propagated", "False", "ClusterSilent").await?;
        world.service_says("Ready", "True", "Serving").await?;
        assert_eq!(world.status().await?.shards[0].state, ShardState::Unknown);
        assert_eq!(world.mirrored(EUROPE).await?, [EUROPE.pod(1)]);

        controller.kill();
        world.start_controller("198.18.0.0/16")?;
        // The other one is served by the new controller, so it has looked at everything.
        world.announce(AMERICA, &[(&AMERICA.pod(2), true)]).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(2)]).await?;
        set_port(world, 81).await?;
        port_becomes(world, AMERICA, 81).await?;
        assert_eq!(world.mirrored(EUROPE).await?, [EUROPE.pod(1)]);

        world.start_site(EUROPE).await?;
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "True", "Answers").await?;
        port_becomes(world, EUROPE, 81).await?;
        world.announce(EUROPE, &[(&EUROPE.pod(3), true)]).await?;
        world.mirrored_becomes(EUROPE, &[EUROPE.pod(3)]).await
    })
}

#[test]
fn a_service_ends_when_the_last_cluster_has_given_up_its_shard() -> Result<()> {
    in_world(async |world| {
        let controller = world.start().await?;
        world.create_service().await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        world.lab.process(EUROPE.name)?.kill();
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "False", "Silent").await?;
        // A controller that has never seen that cluster must not forget it either.
        controller.kill();
        world.start_controller("198.18.0.0/16")?;
        world.delete_service().await?;
        world.is_gone(world.site::<Service>(AMERICA), SERVICE).await?;
        world.service_says("Propagated", "False", "Deleting").await?;
        let service = world.hub::<Service>().get(SERVICE).await?;
        assert_eq!(service.metadata.finalizers.unwrap_or_default(), ["federation.dev/shards"]);

        world.start_site(EUROPE).await?;
        world.is_gone(world.hub::<Service>(), SERVICE).await?;
        world.is_gone(world.site::<Service>(EUROPE), SERVICE).await
    })
}

#[test]
fn a_cluster_that_hangs_delays_no_other() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        world.announce(AMERICA, &[(&AMERICA.pod(1), true)]).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(1)]).await?;
        let europe = world.lab.process(EUROPE.name)?;
        // It accepts connections and never answers.
        europe.signal(Signal::SIGSTOP)?;
        set_port(world, 81).await?;
        port_becomes(world, AMERICA, 81).await?;
        world.announce(AMERICA, &[(&AMERICA.pod(2), true)]).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(2)]).await?;
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "False", "Silent").await?;
        europe.signal(Signal::SIGCONT)?;
        world.cluster_says(EUROPE, "ControlPlaneHealthy", "True", "Answers").await?;
        port_becomes(world, EUROPE, 81).await
    })
}
