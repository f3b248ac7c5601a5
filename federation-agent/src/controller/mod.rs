//! Registers clusters, shards Services into them, allocates VIPs and mirrors endpoints into the Federation API.

use anyhow::Result;
use clap::Args as ClapArgs;

#[derive(ClapArgs, Debug)]
pub struct Args {}

/// Runs until the process is told to end (SIGTERM, SIGINT).
pub async fn run(_args: Args) -> Result<()> {
    anyhow::bail!("not here yet")
}
