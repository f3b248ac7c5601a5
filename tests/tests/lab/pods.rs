//! Pods come and go, many at a time, and nothing of them stays.

use std::{net::IpAddr, process::Command};

use anyhow::Result;
use federation_tests::{
    client::get,
    lab::{Lab, Node, Pod, eventually},
};

use super::{PATIENCE, PORT, SHORT, near, refuses, serve};

const CROWD: usize = 100;

#[tokio::test]
async fn crowds_of_pods_come_and_go() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.cluster(near())?.add_node()?;
    let resident = node.add_pod("resident")?;
    serve(&resident)?;
    let before = (interfaces(&node)?, namespaces(&node));
    for _ in 0..3 {
        let crowd = node.add_pods((0..CROWD).map(|number| format!("crowd{number}")))?;
        assert_eq!((crowd.len(), node.pods().len()), (CROWD, CROWD + 1));
        // The first try counts: whoever is made is there at once.
        for pod in [&crowd[0], &crowd[CROWD - 1]] {
            for address in [IpAddr::from(node.gateway()), node.gateway_v6().into()] {
                refuses(pod, (address, PORT).into()).await?;
            }
            for address in addresses(&resident) {
                get(pod.namespace(), (address, PORT).into(), PATIENCE).await?;
            }
        }
        node.remove_pods(&crowd)?;
        assert_eq!((interfaces(&node)?, namespaces(&node)), before);
    }
    for address in addresses(&resident) {
        get(resident.namespace(), (address, PORT).into(), PATIENCE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_removed_ends_and_its_addresses_are_given_again() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.cluster(near())?.add_node()?;
    let [first, second] = [node.add_pod("first")?, node.add_pod("second")?];
    let server = serve(&first)?;
    for address in addresses(&first) {
        let answers = async || get(second.namespace(), (address, PORT).into(), SHORT).await;
        eventually("the pod answers", PATIENCE, answers).await?;
    }
    node.remove_pod(&first)?;
    assert!(server.ended()?.is_some());
    for address in addresses(&first) {
        get(second.namespace(), (address, PORT).into(), SHORT).await.expect_err("nobody is there");
    }

    let third = node.add_pod("third")?;
    assert_eq!(addresses(&third), addresses(&first));
    refuses(&second, (third.address_v6(), PORT).into()).await?;
    let error = format!("{:#}", node.remove_pod(&first).expect_err("it is gone"));
    assert!(error.contains("first"), "{error}");
    Ok(())
}

#[test]
fn a_node_that_is_full_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.cluster(near())?.add_node()?;
    let error = node.add_pods((0..254).map(|number| format!("crowd{number}"))).map(drop);
    let error = format!("{:#}", error.expect_err("one too many"));
    assert!(error.contains("crowd253"), "{error}");
    assert_eq!(node.pods().len(), 0);
    Ok(())
}

fn addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.address().into(), pod.address_v6().into()]
}

/// The names of the node's interfaces.
fn interfaces(node: &Node) -> Result<Vec<String>> {
    let links = node.namespace().execute("ip", &["-brief", "link"])?;
    Ok(links.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// The namespaces of the node and its pods, as `ip` lists them.
fn namespaces(node: &Node) -> Vec<String> {
    let all = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    let all = String::from_utf8(all.stdout).expect("names are text");
    let names = all.lines().filter_map(|line| line.split_whitespace().next());
    let mut names: Vec<_> =
        names.filter(|name| name.starts_with(node.namespace().name())).map(str::to_owned).collect();
    names.sort();
    names
}
