//! DNS inside of a node's agent: what clients outside are told follows what the node itself has seen.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    client,
    federation::{DOMAIN, FEDERATION, Federation, NAMESPACE, PATIENCE, SERVICE, my_service, three_clusters},
    lab::{Lab, Namespace},
};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

const HOME: &str = "europe-west1-d";
const DEAD: &str = "europe-west1-b";

/// Where each cluster's shard is met, in the order of the clusters.
const INGRESS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3)];

#[tokio::test(flavor = "multi_thread")]
async fn clients_outside_are_told_what_the_node_has_seen_and_after_a_start_without_the_api_what_it_knew()
-> Result<()> {
    let mut federation = Federation::start(Lab::new()?).await?;
    for spec in three_clusters() {
        federation.add_cluster(spec, 1).await?;
    }
    federation.register_all().await?;
    let member = federation.member(HOME)?;
    let node = member.cluster().nodes().pop().context("the cluster has a node")?;
    let external = SocketAddr::from((node.host().address(), 5300));
    let listen = external.to_string();
    let options = [
        ("--cluster", HOME),
        ("--node-name", node.name()),
        ("--uplink", "eth0"),
        ("--dns-external", listen.as_str()),
    ];
    let (pins, state) =
        (member.bpf_folder(federation.lab(), &node), federation.lab().folder().join("names-state"));
    let start = || {
        let command = federation.agent_command(node.host(), &options, &pins, &state)?;
        node.host().spawn("names", command)
    };
    let agent = start()?;

    let mut service = my_service()?;
    service.spec.get_or_insert_default().type_ = Some("LoadBalancer".to_owned());
    federation.create(&service).await?;
    federation.publish_all().await?;
    for (member, ip) in federation.members().iter().zip(INGRESS) {
        let shards = Api::<Service>::namespaced(member.api().clone(), NAMESPACE);
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": ip }] } } });
        shards.patch_status(SERVICE, &PatchParams::default(), &Patch::Merge(status)).await?;
    }

    let name = |place: &str| format!("{SERVICE}.{NAMESPACE}.{FEDERATION}.svc.{place}{DOMAIN}");
    let (global, region, zone) = (name(""), name("europe-west1."), name("europe-west1-b.europe-west1."));
    let told = async |name: &str, expected: &[Ipv4Addr]| {
        let asked = async || same(node.namespace(), external, name, expected).await;
        federation.lab().wait_for(format!("{name} is {expected:?}"), PATIENCE, asked).await
    };
    let [home, dead, far] = INGRESS;
    told(&global, &INGRESS).await?;
    told(&zone, &[dead]).await?;

    // No API says a word of it: only the node's probes do.
    federation.member(DEAD)?.cluster().power_off()?;
    told(&global, &[home, far]).await?;
    told(&region, &[home]).await?;
    // An alias of the region's name.
    told(&zone, &[home]).await?;

    federation.member(DEAD)?.cluster().power_on()?;
    told(&global, &INGRESS).await?;
    told(&zone, &[dead]).await?;

    // A node that starts while the Federation API is gone comes up with what it knew last.
    let saved = async || {
        let text = std::fs::read_to_string(state.join("federation")).context("nothing is saved")?;
        ensure!(INGRESS.iter().all(|ip| text.contains(&ip.to_string())), "{text}");
        Ok(())
    };
    federation.lab().wait_for("the last known federation is saved", PATIENCE, saved).await?;
    let [api, _] = federation.processes()?;
    api.kill();
    agent.kill();
    start()?;
    told(&global, &INGRESS).await?;
    let ready = async || state.join("ready").metadata().map(drop).context("it is not ready");
    federation.lab().wait_for("the node is ready without the Federation API", PATIENCE, ready).await
}

async fn same(from: &Namespace, server: SocketAddr, name: &str, expected: &[Ipv4Addr]) -> Result<()> {
    let mut found = client::resolve(from, server, name, Duration::from_secs(1)).await?;
    found.sort();
    ensure!(found == expected, "{name} is {found:?}");
    Ok(())
}
