//! What is lost without a power cut: one way, between two only, or by a process that does nothing any more.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use federation_tests::{
    client::get,
    lab::{Lab, Namespace, Pod, eventually},
};

use super::{PATIENCE, PORT, SHORT, answers, counted, far, near, serve, server, servers, serving_pod};

/// A host hears nothing from the pod, not even a refusal.
async fn is_silent(from: &Namespace, to: SocketAddr) {
    let error = get(from, to, SHORT).await.expect_err("nothing comes back");
    assert!(format!("{error:#}").contains("no answer"), "neither refused nor unreachable: {error:#}");
}

#[tokio::test]
async fn what_a_muted_host_sends_is_lost_and_what_is_sent_to_it_arrives() -> Result<()> {
    let lab = Lab::new()?;
    let (client, cluster) = (serving_pod(&lab, near())?, lab.cluster(far())?);
    let node = cluster.add_node()?;
    let pod = node.add_pod("pod1")?;
    serve(&pod)?;
    for server in servers(&pod) {
        answers(&lab, &client, server).await?;
    }
    lab.mute(&[node.host().clone()])?;
    let before = counted(&pod, "TcpPassiveOpens")?;
    let asked = counted(&pod, "TcpInSegs")?;
    for server in servers(&pod) {
        is_silent(client.namespace(), server).await;
    }
    assert!(counted(&pod, "TcpInSegs")? > asked, "requests arrive");
    assert_eq!(counted(&pod, "TcpPassiveOpens")?, before, "handshakes do not end");
    lab.end_losses()?;
    for server in servers(&pod) {
        answers(&lab, &client, server).await?;
    }
    Ok(())
}

#[tokio::test]
async fn hosts_that_are_parted_reach_everybody_else() -> Result<()> {
    let lab = Lab::new()?;
    let outside = lab.host("outside")?;
    let serving = lab.cluster(near())?.add_node()?;
    let pod = serving.add_pod("pod1")?;
    serve(&pod)?;
    let node = lab.cluster(far())?.add_node()?;
    let client = node.add_pod("client")?;
    let from_outside = async || get(outside.namespace(), server(&pod), SHORT).await;
    lab.wait_for("the pod answers", PATIENCE, from_outside).await?;
    lab.part(node.host(), &[serving.host().clone()])?;
    for server in servers(&pod) {
        is_silent(client.namespace(), server).await;
        get(outside.namespace(), server, PATIENCE).await?;
    }
    lab.end_losses()?;
    for server in servers(&pod) {
        answers(&lab, &client, server).await?;
    }
    Ok(())
}

#[tokio::test]
async fn power_is_cut_from_several_hosts_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let client = serving_pod(&lab, near())?;
    let cluster = lab.cluster(far())?;
    let pods: Vec<Pod> = (0..2).map(|_| cluster.add_node()?.add_pod("pod1")).collect::<Result<_>>()?;
    for pod in &pods {
        serve(pod)?;
        answers(&lab, &client, server(pod)).await?;
    }
    lab.power_off(&cluster.hosts())?;
    for pod in &pods {
        is_silent(client.namespace(), server(pod)).await;
    }
    cluster.power_on()?;
    for pod in &pods {
        answers(&lab, &client, server(pod)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_frozen_server_takes_connections_and_answers_once_it_is_thawed() -> Result<()> {
    let lab = Lab::new()?;
    let pod = serving_pod(&lab, near())?;
    answers(&lab, &pod, server(&pod)).await?;
    let process = pod.process()?;
    process.freeze()?;
    is_silent(pod.namespace(), server(&pod)).await;
    pod.namespace().connect(server(&pod)).await?;
    process.thaw()?;
    answers(&lab, &pod, server(&pod)).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_answers_at_every_address_that_it_is_given() -> Result<()> {
    let lab = Lab::new()?;
    let client = serving_pod(&lab, near())?;
    let node = lab.cluster(far())?.add_node()?;
    let pod = node.add_pod("pod1")?;
    serve(&pod)?;
    let more = node.add_addresses(&pod, 20)?;
    ensure!(!more.contains(&pod.address()), "{more:?} has its first address");
    for address in [more[0], more[19]] {
        let answered = async || get(client.namespace(), (address, PORT).into(), SHORT).await;
        let answer = eventually(format!("{address} answers"), PATIENCE, answered).await?;
        assert_eq!((answer.cluster.as_str(), answer.pod.as_str()), ("far", "pod1"));
    }
    let other = node.add_pod("pod2")?;
    assert!(!more.contains(&other.address()), "{} is taken", other.address());
    let error = node.add_addresses(&pod, 253).map(drop).expect_err("more than there are");
    assert!(error.to_string().contains("not 253"), "{error:#}");
    Ok(())
}
