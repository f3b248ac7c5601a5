//! The end: a table, the same as JSON, and how to look inside a lab that stays.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use federation_ebpf::maps::SCHEMA;
use serde::Serialize;

use super::tally::Tally;
use crate::{
    federation::{FEDERATION, Federation, NAMESPACE, SERVICE},
    lab::{Node, Pod},
};

#[derive(Debug, Serialize)]
pub struct Report {
    events: Vec<EventReport>,
    requests: u64,
    by_cluster: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct EventReport {
    name: String,
    seconds_to_recover: f64,
    failed_requests: u64,
}

impl Report {
    pub fn new(tally: Tally) -> Self {
        let events = tally
            .events
            .into_iter()
            .map(|event| EventReport {
                seconds_to_recover: event.seconds_to_recover().unwrap_or(f64::NAN),
                failed_requests: event.failed,
                name: event.name,
            })
            .collect();
        Self { events, requests: tally.requests, by_cluster: tally.by_cluster }
    }

    pub fn print(&self) {
        println!();
        println!("{:<34} {:>22} {:>16}", "EVENT", "FIRST SUCCESS AFTER", "FAILED REQUESTS");
        for event in &self.events {
            let after = format!("{:.3} s", event.seconds_to_recover);
            println!("{:<34} {after:>22} {:>16}", event.name, event.failed_requests);
        }
        let clusters: Vec<_> =
            self.by_cluster.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("\n{} requests, answered by {}", self.requests, clusters.join(", "));
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("write the report as JSON")?;
        std::fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))
    }
}

/// # Errors
/// The programs cannot be found.
pub fn print_how_to_look_inside(
    federation: &Federation,
    node: &Node,
    client: &Pod,
    vip: Ipv4Addr,
) -> Result<()> {
    let agent = crate::lab::program("federation-agent")?;
    let agent = agent.display();
    let hub = federation.hub().namespace().name().to_owned();
    let inside = node.namespace().name();
    let client = client.namespace().name();
    let bpf_dir = federation.lab().id().bpf_folder().join(node.host().name());
    let bpf_dir = bpf_dir.display();
    let kubeconfigs = federation.kubeconfigs()?;
    println!(
        "\nThe lab stays. A shell in which kubectl knows the federation and, by --context, its clusters:\n"
    );
    println!(
        "  nsenter --net={}/{hub} env KUBECONFIG={} bash",
        crate::lab::NETNS_FOLDER,
        kubeconfigs.display()
    );
    println!("\nthere, to begin with\n");
    println!("  kubectl get clusters");
    println!("  kubectl describe federatedservice {SERVICE} --namespace {NAMESPACE}");
    println!("\nand from anywhere\n");
    // Not by `ip netns exec`, which hides the BPF file system behind a /sys of its own.
    let on_node = format!("nsenter --net={}/{inside} {agent}", crate::lab::NETNS_FOLDER);
    for command in ["status", "services", "backends", "flows"] {
        println!("  {on_node} {command} --bpf-dir {bpf_dir}");
    }
    println!("  bpftool map dump pinned {bpf_dir}/v{SCHEMA}/maps/FLOWS_V4");
    println!("  ip netns exec {inside} dig @{} {SERVICE}.{NAMESPACE}.{FEDERATION} +short", node.gateway());
    println!("  ip netns exec {client} curl --silent http://{vip}/");
    println!("\nand to remove every trace:\n\n  cargo xtask down");
    Ok(())
}
