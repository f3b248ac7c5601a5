//! Names of the federation, answered with authority. Inside the node's role, or alone.
//!
//! What is answered is in [`names`], how in [`server`]. Nothing here depends on health: a VIP keeps its name.

mod names;
mod server;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use tracing::info;

pub use server::{Dns, NEGATIVE_TTL_SECONDS, VIP_TTL_SECONDS};

use crate::{client, settings::FederationSettings, shutdown, watch};

#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    federation: FederationSettings,

    /// Kubeconfig of the Federation API; read access is enough
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,

    /// Address to answer at, over UDP and TCP; may be given more than once
    #[arg(
        long,
        env = "FEDERATION_DNS_LISTEN",
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        required = true
    )]
    listen: Vec<SocketAddr>,
}

/// Runs until the process is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// It cannot listen as asked, or cannot log in at the Federation API with the kubeconfig.
pub async fn run(args: Args) -> Result<()> {
    args.federation.validate()?;
    let shutdown = shutdown::requested()?;
    let client = client::from_kubeconfig(&args.kubeconfig).await?;
    let dns = Dns::bind(&args.listen, &args.federation).await?;
    tokio::select! {
        result = follow(client, &dns) => result,
        result = dns.serve() => result,
        () = shutdown => Ok(()),
    }
}

/// Tells `dns` of every change of the federation.
async fn follow(client: kube::Client, dns: &Dns) -> Result<()> {
    let mut federation = watch::watch(client);
    let mut known = false;
    loop {
        federation.changed().await.context("the watch of the Federation API has ended")?;
        if let Some(federation) = federation.borrow_and_update().as_deref() {
            dns.update(federation);
            if !known {
                known = true;
                info!(services = federation.services.len(), "the federation is known");
            }
        }
    }
}
