//! The embedded Federation API: a Kubernetes API server for the kinds that a federation needs, on one machine.

use anyhow::Result;
use clap::Args as ClapArgs;

#[derive(ClapArgs, Debug)]
pub struct Args {}

/// Runs until the process is told to end (SIGTERM, SIGINT).
pub async fn run(_args: Args) -> Result<()> {
    anyhow::bail!("not here yet")
}
