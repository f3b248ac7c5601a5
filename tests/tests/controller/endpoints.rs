//! What clusters announce, in the Federation API.

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::ShardState;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::world::{AMERICA, EUROPE, SERVICE, create, in_world};

#[test]
fn endpoints_are_mirrored_counted_and_removed() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        world.announce(EUROPE, &[(&EUROPE.pod(1), true), (&EUROPE.pod(2), false)]).await?;
        world.announce(AMERICA, &[(&AMERICA.pod(1), true)]).await?;
        world.mirrored_becomes(EUROPE, &[EUROPE.pod(1), EUROPE.pod(2)]).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(1)]).await?;
        let slices = world.hub::<EndpointSlice>().list(&ListParams::default()).await?.items;
        let slice = slices
            .iter()
            .find(|slice| slice.name_any() == "europe-west1-d.my-service-x")
            .context("a slice")?;
        for (label, value) in [
            ("kubernetes.io/service-name", SERVICE),
            ("federation.dev/cluster", EUROPE.name),
            ("app.kubernetes.io/managed-by", "federation-agent"),
        ] {
            assert_eq!(slice.labels().get(label).map(String::as_str), Some(value), "{label}");
        }
        let ready: Vec<_> =
            slice.endpoints.iter().map(|endpoint| endpoint.conditions.as_ref()?.ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        assert_eq!(slice.endpoints[0].node_name.as_deref(), Some("n1"));

        let counted = async || {
            let status = world.status().await?;
            ensure!(status.shard_summary.as_deref() == Some("2/2"), "{status:?}");
            ensure!(status.endpoint_summary.as_deref() == Some("2/3"), "{status:?}");
            Ok(())
        };
        world.wait("both shards are counted", counted).await?;
        world.service_says("Ready", "True", "Serving").await?;

        world.announce(AMERICA, &[(&AMERICA.pod(1), false)]).await?;
        let unhealthy = async || {
            let status = world.status().await?;
            ensure!(status.shards[1].state == ShardState::Unhealthy, "{:?}", status.shards);
            Ok(())
        };
        world.wait("a shard without a ready endpoint is unhealthy", unhealthy).await?;

        world.site::<EndpointSlice>(AMERICA).delete("my-service-x", &DeleteParams::default()).await?;
        world.mirrored_becomes(AMERICA, &[]).await?;
        world.delete_service().await?;
        world.mirrored_becomes(EUROPE, &[]).await
    })
}

#[test]
fn a_cluster_cannot_announce_what_is_not_its_own() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        let stolen = [AMERICA.pod(1), "192.0.2.1".to_owned(), "198.18.0.7".to_owned()];
        let mut endpoints = vec![(EUROPE.pod(1), true)];
        endpoints.extend(stolen.iter().map(|address| (address.clone(), true)));
        let endpoints: Vec<_> = endpoints.iter().map(|(address, ready)| (address.as_str(), *ready)).collect();
        world.announce(EUROPE, &endpoints).await?;
        world.mirrored_becomes(EUROPE, &[EUROPE.pod(1)]).await?;
        let message = world.cluster_says(EUROPE, "EndpointsAdmitted", "False", "EndpointsRefused").await?;
        let expected = "3 endpoints are left out, as of my-namespace/my-service 10.9.0.1: it lies outside the \
                        cluster's networks";
        assert_eq!(message, expected);
        assert_eq!(world.event("default", "Cluster", "EndpointsRefused").await?, expected);
        world.cluster_says(AMERICA, "EndpointsAdmitted", "True", "Admitted").await?;

        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        world.cluster_says(EUROPE, "EndpointsAdmitted", "True", "Admitted").await?;
        Ok(())
    })
}

#[test]
fn endpoints_of_services_that_are_not_shards_are_nobodys_business() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_namespace_in(EUROPE).await?;
        let theirs = json!({ "metadata": { "name": SERVICE }, "spec": { "ports": [{ "port": 7 }] } });
        create(&world.site::<Service>(EUROPE), theirs).await?;
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        create(&world.hub::<Service>(), crate::world::service()).await?;
        world.service_says("Propagated", "False", "Conflict").await?;
        world.announce(AMERICA, &[(&AMERICA.pod(1), true)]).await?;
        world.mirrored_becomes(AMERICA, &[AMERICA.pod(1)]).await?;
        assert_eq!(world.mirrored(EUROPE).await?, Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn a_slice_that_comes_again_with_addresses_of_the_other_family_is_mirrored_anew() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16")?;
        let mut cluster = EUROPE.cluster();
        cluster["spec"]["networks"] = json!(["10.8.0.0/16", "fd00:8::/48"]);
        world.write_secret(EUROPE.name, &[("kubeconfig", &world.kubeconfig(EUROPE)?)]).await?;
        create(&world.clusters(), cluster).await?;
        create(&world.hub::<Service>(), crate::world::service()).await?;
        world.shard(EUROPE).await?;
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        world.mirrored_becomes(EUROPE, &[EUROPE.pod(1)]).await?;
        // While nobody watches, so that only the end of it is seen.
        let controller = world.lab.process("controller")?;
        controller.kill();
        let slices = world.site::<EndpointSlice>(EUROPE);
        slices.delete("my-service-x", &DeleteParams::default()).await?;
        let other = json!({
            "metadata": { "name": "my-service-x", "labels": { "kubernetes.io/service-name": SERVICE } },
            "addressType": "IPv6", "endpoints": [{ "addresses": ["fd00:8::1"] }],
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        });
        create(&slices, other).await?;
        world.start_controller("198.18.0.0/16")?;
        world.mirrored_becomes(EUROPE, &["fd00:8::1".to_owned()]).await
    })
}

#[test]
fn endpoints_of_a_cluster_that_leaves_go_with_it() -> Result<()> {
    in_world(async |world| {
        let controller = world.start().await?;
        world.create_service().await?;
        for site in [EUROPE, AMERICA] {
            world.announce(site, &[(&site.pod(1), true)]).await?;
            world.mirrored_becomes(site, &[site.pod(1)]).await?;
        }
        world.clusters().delete(EUROPE.name, &DeleteParams::default()).await?;
        world.mirrored_becomes(EUROPE, &[]).await?;
        assert_eq!(world.mirrored(AMERICA).await?, [AMERICA.pod(1)]);

        // Also one that leaves while nobody looks.
        controller.kill();
        world.clusters().delete(AMERICA.name, &DeleteParams::default()).await?;
        world.start_controller("198.18.0.0/16")?;
        world.mirrored_becomes(AMERICA, &[]).await
    })
}
