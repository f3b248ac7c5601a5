//! How an agent starts where not everything is there yet, and what it tells a kubelet meanwhile.

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    client,
    federation::{FEDERATION, PATIENCE},
    lab::Process,
};
use hickory_proto::rr::RecordType;
use serde_json::json;

use crate::world::{CLUSTER, DNS, World, ZONE};

fn log(process: &Process) -> Result<String> {
    Ok(process.tail(usize::MAX)?.join("\n"))
}

#[tokio::test]
async fn an_agent_waits_for_what_comes_by_itself_and_says_for_what() -> Result<()> {
    let world = World::new().await?;
    let (yes, said) = world.probe("live")?;
    assert!(!yes && said.contains("is it running"), "{said}");

    world.register_node(json!({ "topology.kubernetes.io/zone": ZONE })).await?;
    let agent = world.start_agent()?;
    let missing = format!("read the kubeconfig {}", world.kubeconfig.display());
    world.probed("ready", Some(&missing)).await?;
    world.probed("live", None).await?;

    world.give_kubeconfig()?;
    world.probed("ready", Some(&format!("the federation has no cluster {CLUSTER}"))).await?;
    world.probed("live", None).await?;

    world.member.register(world.federation.api()).await?;
    world.probed("ready", None).await?;
    world.probed("live", None).await?;
    assert!(agent.ended()?.is_none());

    // At an address that is the same on every node, and leads nowhere else.
    let pod = world.node.add_pod("client")?;
    let answer = client::query(pod.namespace(), DNS.parse()?, FEDERATION, RecordType::SOA, PATIENCE).await?;
    assert_eq!(answer.answers.len(), 1, "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_waits_for_a_federation_api_that_does_not_answer() -> Result<()> {
    let world = World::new().await?;
    world.give_kubeconfig()?;
    world.register_node(json!({})).await?;
    world.member.register(world.federation.api()).await?;
    world.federation.hub().power_off()?;
    world.start_agent()?;
    world.probed("ready", Some("has not told the federation yet")).await?;
    world.probed("live", None).await?;
    world.federation.hub().power_on()?;
    world.probed("ready", None).await
}

#[tokio::test]
async fn a_frozen_agent_is_not_alive_and_a_thawed_one_is() -> Result<()> {
    let world = World::new().await?;
    let agent = world.serving().await?;
    world.probed("live", None).await?;
    agent.freeze()?;
    world.probed("live", Some("has not answered within")).await?;
    agent.thaw()?;
    world.probed("live", None).await?;
    world.probed("ready", None).await?;
    assert!(agent.terminate().await?.success());
    world.probed("ready", Some("is it running")).await
}

#[tokio::test]
async fn a_node_stands_where_its_label_says_also_when_its_own_api_is_gone() -> Result<()> {
    const LABELLED: &str = "europe-west1-c";
    let world = World::new().await?;
    world.give_kubeconfig()?;
    world.member.register(world.federation.api()).await?;

    // A name that no Node has ends it: nothing would make it right by itself.
    let nameless = world.start_agent()?;
    let status = nameless.end(PATIENCE).await?;
    assert_eq!(status.code(), Some(1));
    let said = log(&nameless)?;
    assert!(said.contains(&format!("no Node {}", world.node.name())), "{said}");

    world
        .register_node(json!({
            "topology.kubernetes.io/zone": LABELLED, "topology.kubernetes.io/region": "europe-west2",
        }))
        .await?;
    let agent = world.start_agent()?;
    world.probed("ready", None).await?;
    let said = log(&agent)?;
    for part in [
        &format!("zone={LABELLED}"),
        &format!("does not list ({ZONE})"),
        "of region europe-west2, but the Cluster europe-west1-d is of europe-west1",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(agent.terminate().await?.success());

    let api = world.member.cluster().control_plane().name();
    world.lab().process(&format!("{api}-apiserver"))?.kill();
    let agent = world.start_agent()?;
    world.probed("ready", None).await?;
    let said = log(&agent)?;
    let again = said.split("what was known last").nth(1).context(said.clone())?;
    ensure!(again.contains(&format!("zone={LABELLED}")), "{said}");
    Ok(())
}
