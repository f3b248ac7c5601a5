//! `federation-agent check`: whether a node has what its agent needs, before there is one, as a table of findings.
//!
//! It changes nothing on the node. `FAIL` is what an agent would end at, or what packets would suffer from; `warn` is
//! what an agent waits for, or does without. So the check can stand before the agent of every start: a node that
//! starts while an API is away still comes up.

mod apis;
mod capabilities;
mod dns;
mod kernel;
mod network;
mod ranges;
mod report;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args as ClapArgs;
use ipnet::IpNet;

use crate::{node::NodeSettings, settings::FederationSettings};
use report::{Report, Row};

/// The settings of `node`, none of which is required: what is not told is not looked at.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Name of the federation
    #[arg(long, env = "FEDERATION_NAME", value_name = "NAME")]
    federation: Option<String>,

    /// DNS domain of the federation's hierarchical names
    #[arg(long, env = "FEDERATION_DOMAIN", value_name = "DOMAIN")]
    domain: Option<String>,

    /// Range that virtual IPs are taken from; at most one for each IP family
    #[arg(long = "vip-range", env = "FEDERATION_VIP_RANGES", value_name = "CIDR", value_delimiter = ',')]
    vip_ranges: Vec<IpNet>,

    /// Kubeconfig of the Federation API
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Kubeconfig of this node's own cluster; in a pod, by default, its service account
    #[arg(long, env = "FEDERATION_NODE_KUBECONFIG", value_name = "FILE")]
    node_kubeconfig: Option<PathBuf>,

    /// The cluster that this node belongs to, by the name of its Cluster object
    #[arg(long, env = "FEDERATION_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,

    /// This node's name in its cluster
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,

    #[command(flatten)]
    node: NodeSettings,

    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Prints what it finds; a failure when anything fails.
///
/// # Errors
/// The findings cannot be printed.
pub async fn run(args: Args) -> Result<ExitCode> {
    let mut report = Report::default();
    report.extend(settings(&args));
    report.extend(kernel::rows(&args));
    report.extend(network::rows(&args).await);
    let apis = apis::look(&args).await;
    report.extend(ranges::rows(&args.vip_ranges, apis.clusters.as_deref(), service_address()).await);
    report.extend(apis.rows);
    report.extend(dns::rows(&args).await);
    report.print(args.json)?;
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What `node` would refuse before it looks at anything.
fn settings(args: &Args) -> [Row; 1] {
    const WHAT: &str = "settings";
    let (Some(federation), Some(domain), false) =
        (&args.federation, &args.domain, args.vip_ranges.is_empty())
    else {
        return [Row::skip(WHAT, "--federation, --domain and --vip-range are not all given")];
    };
    let settings = FederationSettings {
        federation: federation.clone(),
        domain: domain.clone(),
        vip_ranges: args.vip_ranges.clone(),
    };
    let ranges: Vec<_> = args.vip_ranges.iter().map(IpNet::to_string).collect();
    let found = format!("federation {federation}, domain {domain}, virtual IPs {}", ranges.join(", "));
    [settings
        .validate()
        .map_or_else(|error| Row::fail(WHAT, format!("{error:#}"), ""), |()| Row::pass(WHAT, found))]
}

/// The one address of this cluster's Service range that every pod is told.
fn service_address() -> Option<std::net::IpAddr> {
    env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
}
