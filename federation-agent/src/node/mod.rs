//! The agent of one node: watches the Federation API, probes, plans and keeps the data plane true.

pub mod interfaces;

use anyhow::Result;
use clap::Args as ClapArgs;

#[derive(ClapArgs, Debug)]
pub struct Args {}

/// Runs until the process is told to end (SIGTERM, SIGINT).
pub async fn run(_args: Args) -> Result<()> {
    anyhow::bail!("not here yet")
}
