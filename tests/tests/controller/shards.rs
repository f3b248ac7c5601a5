//! One Service, in every cluster that it shall be in, and nothing of anybody else touched.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{FederatedService, ShardState};
use k8s_openapi::api::core::v1::Service;
use kube::{ResourceExt as _, api::DeleteParams};
use serde_json::json;

use crate::world::{AMERICA, EUROPE, FEDERATION, NAMESPACE, SERVICE, create, in_world, merge, service};

#[test]
fn a_service_is_in_every_cluster_follows_its_changes_and_leaves_nothing_behind() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        let shard = world.shard(EUROPE).await?;
        let labels = [
            ("app", "web"),
            ("app.kubernetes.io/managed-by", "federation-agent"),
            ("federation.dev/federation", FEDERATION),
        ];
        assert_eq!(*shard.labels(), labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(*shard.annotations(), BTreeMap::from([("team".to_owned(), "shop".to_owned())]));

        let ports = json!([{ "name": "http", "port": 81, "targetPort": 8080 }]);
        let changed = json!({ "spec": { "ports": ports, "internalTrafficPolicy": "Local" } });
        merge(&world.hub::<Service>(), SERVICE, changed).await?;
        for site in [EUROPE, AMERICA] {
            world.shard_has_port(site, 81).await?;
            let spec = world.shard(site).await?.spec.context("a spec")?;
            assert_eq!(spec.internal_traffic_policy.as_deref(), Some("Local"));
        }

        let other = json!({ "metadata": { "name": "other" }, "spec": { "ports": [{ "port": 80 }] } });
        create(&world.site::<Service>(EUROPE), other).await?;
        world.delete_service().await?;
        world.is_gone(world.hub::<Service>(), SERVICE).await?;
        world.is_gone(world.hub::<FederatedService>(), SERVICE).await?;
        for site in [EUROPE, AMERICA] {
            world.is_gone(world.site::<Service>(site), SERVICE).await?;
        }
        world.site::<Service>(EUROPE).get("other").await?;
        Ok(())
    })
}

#[test]
fn a_service_that_was_there_before_is_never_overwritten_but_may_be_adopted_and_given_back() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_namespace_in(EUROPE).await?;
        let theirs = json!({ "metadata": { "name": SERVICE }, "spec": { "ports": [{ "name": "theirs", "port": 7 }] } });
        create(&world.site::<Service>(EUROPE), theirs).await?;
        create(&world.hub::<Service>(), service()).await?;
        let message = world.service_says("Propagated", "False", "Conflict").await?;
        let expected = "europe-west1-d: Conflict: a Service of this name was there before; annotate it \
                        federation.dev/adopt=true to let the federation have it, or delete it";
        assert_eq!(message, expected);
        assert_eq!(world.event(NAMESPACE, "Service", "Conflict").await?, expected);
        world.shard(AMERICA).await?;
        let shards = world.status().await?.shards;
        assert_eq!(shards[0].state, ShardState::Unhealthy);
        assert!(shards[0].message.starts_with("Conflict"), "{shards:?}");
        let ports = |service: &Service| -> Vec<_> {
            service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port).collect()
        };
        assert_eq!(ports(&world.site::<Service>(EUROPE).get(SERVICE).await?), [7]);

        let adopt = json!({ "metadata": { "annotations": { "federation.dev/adopt": "true" } } });
        merge(&world.site::<Service>(EUROPE), SERVICE, adopt).await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        assert!(ports(&world.shard(EUROPE).await?).contains(&80));

        world.delete_service().await?;
        world.is_gone(world.hub::<Service>(), SERVICE).await?;
        world.is_gone(world.site::<Service>(AMERICA), SERVICE).await?;
        let given_back = world.site::<Service>(EUROPE).get(SERVICE).await?;
        assert!(!given_back.labels().contains_key("federation.dev/federation"));
        Ok(())
    })
}

#[test]
fn shards_of_an_orphaning_service_stay_and_are_taken_back() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        let orphan = json!({ "metadata": { "annotations": { "federation.dev/orphan": "true" } } });
        merge(&world.hub::<Service>(), SERVICE, orphan).await?;
        world.delete_service().await?;
        world.is_gone(world.hub::<Service>(), SERVICE).await?;
        for site in [EUROPE, AMERICA] {
            world.shard(site).await?;
        }
        world.create_service().await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        Ok(())
    })
}

#[test]
fn what_somebody_does_to_a_shard_is_put_right_and_who_takes_the_marks_off_keeps_it() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        world.service_says("Propagated", "True", "InPlace").await?;
        let shards = world.site::<Service>(EUROPE);
        let is_whole = async || {
            let shard = shards.get(SERVICE).await?;
            let spec = shard.spec.context("a spec")?;
            let ports: Vec<_> =
                spec.ports.iter().flatten().map(|port| (port.port, port.name.as_deref())).collect();
            ensure!(ports == [(80, Some("http"))], "{ports:?}");
            ensure!(
                spec.selector.is_some_and(|selector| selector.get("app").is_some_and(|app| app == "web"))
            );
            Ok(())
        };
        let ports =
            json!({ "spec": { "selector": { "app": "mine" }, "ports": [{ "name": "http", "port": 81 }] } });
        merge(&shards, SERVICE, ports).await?;
        world.wait("the ports and the selector are as they were", is_whole).await?;
        shards.delete(SERVICE, &DeleteParams::default()).await?;
        world.wait("the shard is there again", is_whole).await?;

        let unmarked = json!({ "metadata": { "labels": { "federation.dev/federation": null } } });
        merge(&shards, SERVICE, unmarked).await?;
        world.service_says("Propagated", "False", "Conflict").await?;
        assert!(!shards.get(SERVICE).await?.labels().contains_key("federation.dev/federation"));
        Ok(())
    })
}

#[test]
fn clusters_are_selected_and_an_unknown_one_is_named() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        let select =
            |name: &str| json!({ "spec": { "clusterSelector": { "matchLabels": { "site": name } } } });
        let federated = world.hub::<FederatedService>();
        merge(&federated, SERVICE, select(EUROPE.name)).await?;
        world.is_gone(world.site::<Service>(AMERICA), SERVICE).await?;
        let one = async || {
            let status = world.status().await?;
            let clusters: Vec<_> = status.shards.iter().map(|shard| shard.cluster.as_str()).collect();
            ensure!(clusters == [EUROPE.name], "{clusters:?}");
            Ok(())
        };
        world.wait("one shard is reported", one).await?;
        merge(&federated, SERVICE, json!({ "spec": { "clusterSelector": null } })).await?;
        world.shard(AMERICA).await?;

        merge(&federated, SERVICE, json!({ "spec": { "weights": [{ "cluster": "mars", "weight": 1 }] } }))
            .await?;
        let message = world.service_says("Accepted", "False", "UnknownCluster").await?;
        let expected =
            "spec.weights names \"mars\", which no Cluster is called; known: europe-west1-d, us-east1-b";
        assert_eq!(message, expected);
        assert_eq!(world.event(NAMESPACE, "Service", "UnknownCluster").await?, expected);

        let by_name = json!({ "spec": { "weights": null, "clusterSelector": { "matchLabels": {
            "federation.dev/cluster": "mars" } } } });
        merge(&federated, SERVICE, by_name).await?;
        let named = async || {
            let message = world.service_says("Accepted", "False", "UnknownCluster").await?;
            ensure!(message.starts_with("spec.clusterSelector names \"mars\""), "{message}");
            Ok(())
        };
        world.wait("the selector's mistake is told", named).await?;
        for site in [EUROPE, AMERICA] {
            world.site::<Service>(site).get(SERVICE).await?;
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_federated_is_told_on_the_service() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_hub_namespace(FEDERATION).await?;
        let cases = [
            (FEDERATION, json!({ "ports": [{ "port": 80 }] }), "NamespaceShadowed"),
            (
                NAMESPACE,
                json!({ "type": "ExternalName", "externalName": "example.com" }),
                "ServiceUnsupported",
            ),
            ("headless", json!({ "clusterIP": "None", "ports": [{ "port": 80 }] }), "ServiceUnsupported"),
        ];
        world.create_hub_namespace("headless").await?;
        for (namespace, spec, reason) in cases {
            let services = world.hub_in::<Service>(namespace);
            create(&services, json!({ "metadata": { "name": "odd" }, "spec": spec })).await?;
            world.event(namespace, "Service", reason).await?;
            let federated = world.hub_in::<FederatedService>(namespace).get("odd").await?;
            assert!(
                federated.status.is_some_and(|status| status.vips.is_empty() && status.shards.is_empty())
            );
        }
        let alone = json!({ "metadata": { "name": SERVICE }, "spec": {} });
        create(&world.hub::<FederatedService>(), alone).await?;
        let message = world.service_says("Accepted", "False", "ServiceMissing").await?;
        assert!(
            message.contains("there is no federated Service my-namespace/my-service; create it"),
            "{message}"
        );
        // The user's own FederatedService is taken as it is.
        world.create_service().await?;
        world.service_says("Accepted", "True", "Accepted").await?;
        Ok(())
    })
}
