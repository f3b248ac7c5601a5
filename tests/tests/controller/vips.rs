//! Virtual IPs: given once, kept for the service's life, and told when there are no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{FederatedService, VipStatus};
use k8s_openapi::api::core::v1::Service;
use kube::api::DeleteParams;
use serde_json::json;

use crate::world::{AMERICA, EUROPE, NAMESPACE, SERVICE, World, create, in_world};

const NAMES: [&str; 6] = [
    "my-service.my-namespace.my-federation",
    "my-service.my-namespace.my-federation.svc.example.com",
    "my-service.my-namespace.my-federation.svc.europe-west1-d.example.com",
    "my-service.my-namespace.my-federation.svc.europe-west1.example.com",
    "my-service.my-namespace.my-federation.svc.us-east1-b.example.com",
    "my-service.my-namespace.my-federation.svc.us-east1.example.com",
];

/// The VIPs of the service once there are as many.
async fn vips(world: &World, count: usize) -> Result<Vec<VipStatus>> {
    let given = async || {
        let vips = world.status().await?.vips;
        ensure!(vips.len() == count, "{vips:?}");
        Ok(vips)
    };
    world.wait(&format!("the service has {count} VIPs"), given).await
}

#[test]
fn each_scope_has_a_vip_that_never_moves_while_the_service_lives() -> Result<()> {
    in_world(async |world| {
        let controller = world.start().await?;
        world.create_service().await?;
        let first = vips(world, 6).await?;
        let names: BTreeSet<_> = first.iter().map(|vip| vip.name.as_str()).collect();
        assert_eq!(names, NAMES.into());
        let addresses: BTreeSet<_> = first.iter().flat_map(|vip| &vip.ips).collect();
        assert_eq!(addresses.len(), 6);

        controller.kill();
        // With this one there is another service, which must not take what is held.
        create(
            &world.hub::<Service>(),
            json!({ "metadata": { "name": "other" }, "spec": { "ports": [{ "port": 80 }] } }),
        )
        .await?;
        world.start_controller("198.18.0.0/16")?;
        let other = async || {
            let status = world.hub::<FederatedService>().get("other").await?.status.context("no status")?;
            ensure!(status.vips.len() == 6, "{:?}", status.vips);
            Ok(status.vips)
        };
        let other = world.wait("the other service has its VIPs", other).await?;
        assert!(other.iter().flat_map(|vip| &vip.ips).all(|ip| !addresses.contains(ip)));
        assert_eq!(vips(world, 6).await?, first);

        // The places of a cluster that leaves keep their VIPs.
        world.clusters().delete(AMERICA.name, &DeleteParams::default()).await?;
        let left = async || {
            ensure!(world.status().await?.shards.len() == 1, "both shards are reported");
            Ok(())
        };
        world.wait("the cluster has left", left).await?;
        assert_eq!(world.status().await?.vips, first);

        // Whoever deletes the FederatedService alone gets the same ones again.
        world.hub::<FederatedService>().delete(SERVICE, &DeleteParams::default()).await?;
        let again: BTreeMap<_, _> =
            vips(world, 6).await?.into_iter().map(|vip| (vip.name.clone(), vip.ips)).collect();
        assert_eq!(again, first.into_iter().map(|vip| (vip.name.clone(), vip.ips)).collect());
        Ok(())
    })
}

#[test]
fn no_vip_moves_when_the_federation_api_comes_back_with_an_older_store() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        let first = vips(world, 6).await?;
        let hub = world.lab.process("hub")?;
        let data = world.lab.folder().join("hub/data");
        let backup = world.lab.folder().join("backup");
        assert!(hub.terminate().await?.success());
        copy(&data, &backup)?;
        world.restart_hub().await?;
        let late = json!({ "metadata": { "name": "late" }, "spec": { "ports": [{ "port": 80 }] } });
        create(&world.hub::<Service>(), late).await?;
        let federated = world.hub::<FederatedService>();
        let given = async || {
            let status = federated.get("late").await?.status.context("no status")?;
            ensure!(status.vips.len() == 6, "{:?}", status.vips);
            Ok(())
        };
        world.wait("the later service has its VIPs", given).await?;

        world.lab.process("hub")?.kill();
        std::fs::remove_dir_all(&data)?;
        copy(&backup, &data)?;
        world.restart_hub().await?;
        // The controller that ran on has looked at what there is now: it serves a new one.
        let newest = json!({ "metadata": { "name": "newest" }, "spec": { "ports": [{ "port": 80 }] } });
        create(&world.hub::<Service>(), newest).await?;
        let given = async || {
            let status = world.hub::<FederatedService>().get("newest").await?.status.context("no status")?;
            ensure!(status.vips.len() == 6, "{:?}", status.vips);
            Ok(status.vips)
        };
        let newest = world.wait("the newest service has its VIPs", given).await?;
        assert_eq!(vips(world, 6).await?, first);
        let held: BTreeSet<_> = first.iter().flat_map(|vip| &vip.ips).collect();
        assert!(newest.iter().flat_map(|vip| &vip.ips).all(|ip| !held.contains(ip)));
        Ok(())
    })
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[test]
fn an_exhausted_range_is_told_and_used_again_once_there_is_room() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        // Two addresses, for four scopes.
        world.start_controller("198.18.0.0/30")?;
        world.register(EUROPE).await?;
        world.cluster_says(EUROPE, "Accepted", "True", "Accepted").await?;
        create(&world.hub::<Service>(), crate::world::service()).await?;
        let message = world.service_says("Accepted", "False", "VIPRangeExhausted").await?;
        assert!(message.contains("the VIP range 198.18.0.0/30 has no address left for scope"), "{message}");
        assert_eq!(world.event(NAMESPACE, "Service", "VIPRangeExhausted").await?, message);
        assert_eq!(vips(world, 2).await?.len(), 2);
        world.shard(EUROPE).await?;

        create(
            &world.hub::<Service>(),
            json!({ "metadata": { "name": "late" }, "spec": { "ports": [{ "port": 80 }] } }),
        )
        .await?;
        world.delete_service().await?;
        world.is_gone(world.hub::<Service>(), SERVICE).await?;
        let has_room = async || {
            let status = world.hub::<FederatedService>().get("late").await?.status.context("no status")?;
            ensure!(status.vips.len() == 2, "{:?}", status.vips);
            Ok(())
        };
        world.wait("the other service has what became free", has_room).await
    })
}

#[test]
fn a_cluster_whose_service_range_overlaps_the_vips_is_told() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_namespace_in(EUROPE).await?;
        // As its allocator would, had it the federation's range.
        let theirs = json!({
            "metadata": { "name": SERVICE, "annotations": { "federation.dev/adopt": "true" } },
            "spec": { "clusterIP": "198.18.3.4", "clusterIPs": ["198.18.3.4"], "ports": [{ "name": "http", "port": 80 }] },
        });
        create(&world.site::<Service>(EUROPE), theirs).await?;
        world.create_service().await?;
        let message =
            world.cluster_says(EUROPE, "ServiceRangeApart", "False", "ServiceRangeOverlaps").await?;
        let expected = "its Service my-namespace/my-service has the address 198.18.3.4 of the VIP range 198.18.0.0/16: \
                        connections to such addresses would go to either; give the federation another --vip-range";
        assert_eq!(message, expected);
        assert_eq!(world.event("default", "Cluster", "ServiceRangeOverlaps").await?, expected);
        Ok(())
    })
}

#[test]
fn two_families_where_the_service_asks_for_both() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        world.start_site(EUROPE).await?;
        world.start_controller("198.18.0.0/16,fd00:fed::/64")?;
        world.register(EUROPE).await?;
        world.cluster_says(EUROPE, "Accepted", "True", "Accepted").await?;
        let mut service = crate::world::service();
        service["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
        create(&world.hub::<Service>(), service).await?;
        for vip in vips(world, 4).await? {
            let families: Vec<_> = vip.ips.iter().map(std::net::IpAddr::is_ipv4).collect();
            assert_eq!(families, [true, false], "{vip:?}");
        }
        Ok(())
    })
}
