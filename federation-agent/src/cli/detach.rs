//! `detach`: takes from a node what its agents have left there on purpose.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use super::show;
use crate::{dataplane, network, node, shutdown};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Where the node's maps and links are pinned
    #[arg(long, env = "FEDERATION_BPF_DIR", value_name = "DIR", default_value = dataplane::DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,

    /// Where the node's agent keeps what outlives it
    #[arg(long, env = "FEDERATION_STATE_DIR", value_name = "DIR", default_value = node::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,

    /// Remove the agent's files in the state folder as well: the last known federation, where the node stands
    #[arg(long)]
    remove_state: bool,

    /// Stay after that, until told to end, as what runs on every node of a cluster has to
    #[arg(long)]
    stay: bool,
}

/// Takes programs off their interfaces, drops maps, and takes the addresses from `lo` that agents have added.
pub(super) async fn run(args: Args) -> Result<()> {
    let shutdown = shutdown::requested()?;
    if let Some(holder) = node::running(&args.state_dir)? {
        bail!(
            "this node's agent runs (process {holder}) and would go on with what is taken from it: end it first, as by \
             deleting the DaemonSet"
        );
    }
    let links = dataplane::links(&args.bpf_dir)?.len();
    dataplane::detach_all(&args.bpf_dir)?;
    let mut said =
        format!("nothing is pinned under {} any more ({links} programs detached)\n", args.bpf_dir.display());
    for address in network::take_addresses().await? {
        writeln!(said, "{address} is taken from the interface lo")?;
    }
    if args.remove_state {
        let files = node::forget(&args.state_dir)?;
        writeln!(said, "{files} files are removed from {}", args.state_dir.display())?;
    }
    show::print(&said)?;
    if args.stay {
        shutdown.await;
    }
    Ok(())
}
