//! What clients from outside are told: the shards' own ingress addresses, as Federation v1 did.

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::DeleteParams};
use serde_json::{Value, json};

use crate::world::{DNS, VIPS, World, create_cluster_in, create_service, in_world, set_status};

const EXTERNAL: &str = "127.0.0.1:5300";

const NAME: &str = "my-service.my-namespace.my-federation.svc";

struct Names {
    zone: String,
    region: String,
    global: String,
}

fn names() -> Names {
    let name = |place: &str| format!("{NAME}.{place}example.com");
    Names { zone: name("d.west."), region: name("west."), global: name("") }
}

/// Two zones in one region, one in another; the first cluster spans two zones.
async fn start(world: &World, extra: &[&str]) -> Result<Client> {
    let client = world.client().await?;
    create_cluster_in(&client, "d", "west", &["d", "d2"]).await?;
    create_cluster_in(&client, "b", "west", &["b"]).await?;
    create_cluster_in(&client, "e", "east", &["e"]).await?;
    create_service(&client, "my-service", &VIPS).await?;
    world.start_dns_with("dns", &[&["--listen", DNS, "--dns-external", EXTERNAL], extra].concat())?;
    Ok(client)
}

/// What the controller reports of shards: cluster, state, ingress.
async fn report(client: &Client, shards: &[(&str, &str, Value)]) -> Result<()> {
    let shards = shards.iter().map(|(cluster, state, ingress)| {
        json!({
            "cluster": cluster, "region": "-", "zone": "-", "state": state, "readyEndpoints": 1, "endpoints": 1,
            "ingress": ingress,
        })
    });
    set_status(client, "my-service", &json!({ "shards": shards.collect::<Vec<_>>() })).await
}

/// Asked from outside, it comes to this: `(record type, data)` of each record, with the names that aliases have.
async fn told(world: &World, name: &str, records: &[(&str, &str, &str)]) -> Result<()> {
    let records: Vec<_> =
        records.iter().map(|(owner, kind, data)| format!("{owner}. 30 IN {kind} {data}")).collect();
    let records: Vec<_> = records.iter().map(String::as_str).collect();
    world.eventually_is(&["-p", "5300", name], "NOERROR", &records).await
}

#[test]
fn each_name_follows_the_health_of_its_shards_and_a_deleted_service_leaves_nothing() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = start(world, &[]).await?;
        let Names { zone, region, global } = names();
        let (d, b, e) =
            (json!([{ "ip": "192.0.2.1" }]), json!([{ "ip": "192.0.2.2" }]), json!([{ "ip": "192.0.2.3" }]));

        report(
            &client,
            &[("d", "Healthy", d.clone()), ("b", "Healthy", b.clone()), ("e", "Healthy", e.clone())],
        )
        .await?;
        told(world, &zone, &[(&zone, "A", "192.0.2.1")]).await?;
        told(world, &region, &[(&region, "A", "192.0.2.1"), (&region, "A", "192.0.2.2")]).await?;
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| (global.as_str(), "A", ip));
        told(world, &global, &all).await?;
        // Unlike Federation v1: all zones of a cluster.
        let second = format!("{NAME}.d2.west.example.com");
        told(world, &second, &[(&second, "A", "192.0.2.1")]).await?;

        report(
            &client,
            &[("d", "Unhealthy", d.clone()), ("b", "Healthy", b.clone()), ("e", "Healthy", e.clone())],
        )
        .await?;
        let to_region = format!("{region}.");
        told(world, &zone, &[(&zone, "CNAME", &to_region), (&region, "A", "192.0.2.2")]).await?;
        told(world, &region, &[(&region, "A", "192.0.2.2")]).await?;

        report(&client, &[("d", "Unhealthy", d.clone()), ("b", "Unhealthy", b.clone()), ("e", "Healthy", e)])
            .await?;
        let to_global = format!("{global}.");
        let chain = [
            (zone.as_str(), "CNAME", to_region.as_str()),
            (&region, "CNAME", &to_global),
            (&global, "A", "192.0.2.3"),
        ];
        told(world, &zone, &chain).await?;

        report(&client, &[("d", "Unhealthy", d), ("b", "Unhealthy", b)]).await?;
        told(world, &zone, &chain[..2]).await?;
        told(world, &global, &[]).await?;
        // Inside, nothing of this is seen.
        world.eventually_is(&[&global], "NOERROR", &[&format!("{global}. 300 IN A 198.18.0.2")]).await?;

        Api::<Service>::namespaced(client, "my-namespace")
            .delete("my-service", &DeleteParams::default())
            .await?;
        for name in [&zone, &region, &global, &second] {
            world.eventually_is(&["-p", "5300", name], "NXDOMAIN", &[]).await?;
        }
        Ok(())
    })
}

#[test]
fn both_families_ports_and_the_names_of_load_balancers_are_told() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = start(world, &[]).await?;
        let Names { zone, region, global } = names();
        let both = json!([{ "ip": "192.0.2.1" }, { "ip": "192.0.2.11" }, { "ip": "2001:db8::1" }]);
        // What the machine's own resolver knows without asking anybody.
        report(&client, &[("d", "Healthy", both), ("b", "Healthy", json!([{ "hostname": "localhost" }]))])
            .await?;

        told(world, &zone, &[(&zone, "A", "192.0.2.1"), (&zone, "A", "192.0.2.11")]).await?;
        let v6 = format!("{zone}. 30 IN AAAA 2001:db8::1");
        world.eventually_is(&["-p", "5300", &zone, "AAAA"], "NOERROR", &[&v6]).await?;
        let srv = format!("_http._tcp.{zone}. 30 IN SRV 0 100 80 {zone}.");
        world
            .eventually_is(&["-p", "5300", &format!("_http._tcp.{zone}"), "SRV"], "NOERROR", &[&srv])
            .await?;
        let b = format!("{NAME}.b.west.example.com");
        told(world, &b, &[(&b, "CNAME", "localhost.")]).await?;
        // Beside others, its addresses stand for it.
        let three = ["127.0.0.1", "192.0.2.1", "192.0.2.11"];
        for name in [&region, &global] {
            told(world, name, &three.map(|ip| (name.as_str(), "A", ip))).await?;
        }
        Ok(())
    })
}

#[test]
fn a_federation_may_be_told_outside_alone_and_for_as_long_as_is_said() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster_in(&client, "d", "west", &["d"]).await?;
        create_service(&client, "my-service", &VIPS).await?;
        report(&client, &[("d", "Healthy", json!([{ "ip": "192.0.2.1" }]))]).await?;
        let arguments =
            ["--dns-external", EXTERNAL, "--dns-external-ttl", "60", "--dns-server-name", "ns1.example.net"];
        world.start_dns_with("dns", &arguments)?;
        let Names { zone, .. } = names();
        world
            .eventually_is(&["-p", "5300", &zone], "NOERROR", &[&format!("{zone}. 60 IN A 192.0.2.1")])
            .await?;
        let ns = "example.com. 300 IN NS ns1.example.net.";
        world.eventually_is(&["-p", "5300", "example.com", "NS"], "NOERROR", &[ns]).await?;
        world.eventually_is(&["-p", "5300", "ns.example.com"], "NXDOMAIN", &[]).await
    })
}
