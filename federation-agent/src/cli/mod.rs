//! The command line: which role to play, or what to show.

mod agent;
mod check;
mod crds;
mod detach;
mod explain;
mod probe;
mod show;
mod table;

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    apiserver, controller, dns,
    membership::{join, leave},
    memory, node,
};

/// What is logged without `FEDERATION_LOG`. The DNS library would tell of each question, the Kubernetes client of each
/// failed request beside the one who made it.
const DEFAULT_LOG: &str = "info,hickory_server=warn,kube_client=off";

#[derive(Parser, Debug)]
#[command(
    name = "federation-agent",
    version,
    about = "Node-level service router for federated Kubernetes clusters"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve the Federation API from an embedded store
    Apiserver(apiserver::Args),
    /// Register clusters, shard Services into them, allocate VIPs
    Controller(controller::Args),
    /// Route this node's packets for the federation's VIPs
    Node(node::Args),
    /// Answer for the federation's names
    Dns(dns::Args),
    /// Make a cluster a member of the federation, or update its registration
    Join(join::Args),
    /// Take a cluster out of the federation, with its shards
    Leave(leave::Args),
    /// Show what is attached, how full the maps are and what became of packets on this node
    Status(show::Args),
    /// Show every VIP and port with its backends
    Services(show::Args),
    /// Show every backend that this node's kernel knows
    Backends(show::Args),
    /// Show every connection through a VIP
    Flows(show::Args),
    /// Tell why connections to a service or VIP go where they go
    Explain(explain::Args),
    /// Look whether this node has what its agent needs, and change nothing
    Check(check::Args),
    /// Tell a kubelet whether the node's agent lives, or is ready
    Probe(probe::Args),
    /// Take from this node what its agent leaves there: programs, maps, the address of its DNS
    Detach(detach::Args),
    /// Print the definitions of the federation's kinds, for a kube-apiserver that shall serve them
    Crds(crds::Args),
}

/// Parses the command line and does what it says. A command that answers no ends with a failure and no error.
///
/// # Errors
/// A sentence for a person: what failed, on what, and what to do.
pub fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("FEDERATION_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    memory::keep_together();
    let runtime = tokio::runtime::Runtime::new().context("start the async runtime")?;
    runtime.block_on(async {
        match cli.command {
            Command::Apiserver(args) => apiserver::run(args).await,
            Command::Controller(args) => controller::run(args).await,
            Command::Node(args) => node::run(args).await,
            Command::Dns(args) => dns::run(args).await,
            Command::Join(args) => join::run(args).await,
            Command::Leave(args) => leave::run(args).await,
            Command::Status(args) => show::status(&args),
            Command::Services(args) => show::services(&args),
            Command::Backends(args) => show::backends(&args),
            Command::Flows(args) => show::flows(&args),
            Command::Explain(args) => explain::run(args).await,
            Command::Check(args) => return check::run(args).await,
            Command::Probe(args) => return probe::run(args).await,
            Command::Detach(args) => detach::run(args).await,
            Command::Crds(args) => crds::run(&args),
        }
        .map(|()| ExitCode::SUCCESS)
    })
}
