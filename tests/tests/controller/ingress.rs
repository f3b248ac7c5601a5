//! Where shards are met from outside, as their clusters' load balancers report it.

use anyhow::{Result, ensure};
use federation_agent::api::IngressStatus;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::world::{AMERICA, EUROPE, SERVICE, Site, World, in_world, merge};

/// What a cluster's load balancer controller says of a Service.
async fn balance(world: &World, site: Site, name: &str, ingress: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": ingress } } }));
    world.site::<Service>(site).patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn ingress_becomes(world: &World, site: Site, expected: &[IngressStatus]) -> Result<()> {
    let reported = async || {
        let status = world.status().await?;
        let shard = status.shards.iter().find(|shard| shard.cluster == site.name);
        let found = shard.map(|shard| shard.ingress.clone()).unwrap_or_default();
        ensure!(found == expected, "{found:?}");
        Ok(())
    };
    world.wait(&format!("the ingress of {} is {expected:?}", site.name), reported).await
}

#[test]
fn what_a_cluster_reports_of_its_load_balancers_is_reported_of_the_shard() -> Result<()> {
    in_world(async |world| {
        world.start().await?;
        world.create_service().await?;
        merge(&world.hub::<Service>(), SERVICE, json!({ "spec": { "type": "LoadBalancer" } })).await?;
        for site in [EUROPE, AMERICA] {
            let balanced = async || {
                let type_ = world.site::<Service>(site).get(SERVICE).await?.spec.and_then(|spec| spec.type_);
                ensure!(type_.as_deref() == Some("LoadBalancer"), "{type_:?}");
                Ok(())
            };
            world.wait("the shard asks for a load balancer", balanced).await?;
        }
        world.announce(EUROPE, &[(&EUROPE.pod(1), true)]).await?;
        world.announce(AMERICA, &[(&AMERICA.pod(1), true)]).await?;

        let address = IngressStatus { ip: Some("192.0.2.1".parse()?), hostname: None };
        let name = IngressStatus { ip: None, hostname: Some("lb.example.net".to_owned()) };
        balance(world, EUROPE, SERVICE, &json!([{ "ip": "192.0.2.1" }])).await?;
        balance(world, AMERICA, SERVICE, &json!([{ "hostname": "lb.example.net" }, { "ip": "192.0.2.1" }]))
            .await?;
        ingress_becomes(world, EUROPE, std::slice::from_ref(&address)).await?;
        ingress_becomes(world, AMERICA, &[name, address]).await?;

        balance(world, AMERICA, SERVICE, &json!([])).await?;
        ingress_becomes(world, AMERICA, &[]).await?;
        // Whoever takes a shard away takes its load balancer with it.
        world.site::<Service>(EUROPE).delete(SERVICE, &DeleteParams::default()).await?;
        ingress_becomes(world, EUROPE, &[]).await
    })
}
