//! Names of the federation, answered with authority. Inside the node's role, or alone.
//!
//! What a name means is in [`names`], what is said to a question in [`answers`] and, to clients from outside, in
//! [`external`]; [`responder`] makes messages of it, [`packet_cache`] remembers them and [`server`] listens. Answers to
//! clients of the federation do not depend on health: a VIP keeps its name.

mod answers;
mod external;
#[cfg(test)]
mod fixtures;
mod hosts;
mod names;
mod packet_cache;
mod responder;
mod server;
mod settings;
mod transfer;
mod udp;
mod zones;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use tracing::info;

pub use answers::{NEGATIVE_TTL_SECONDS, VIP_TTL_SECONDS};
pub use server::Dns;
pub use settings::DnsSettings;

use crate::{
    client,
    settings::FederationSettings,
    shutdown,
    watch::{self, Saved},
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    federation: FederationSettings,

    /// Kubeconfig of the Federation API; read access is enough
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,

    /// Address to answer clients of the federation at, over UDP and TCP; may be given more than once
    #[arg(
        long,
        env = "FEDERATION_DNS_LISTEN",
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        required_unless_present = "external"
    )]
    listen: Vec<SocketAddr>,

    #[command(flatten)]
    dns: DnsSettings,

    /// Where to keep the last known federation, to answer from it after a start without the Federation API; nowhere when
    /// not given
    #[arg(long, env = "FEDERATION_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Runs until the process is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// It cannot listen as asked, or cannot log in at the Federation API with the kubeconfig.
pub async fn run(args: Args) -> Result<()> {
    args.federation.validate()?;
    let shutdown = shutdown::requested()?;
    let client = client::from_kubeconfig(&args.kubeconfig).await?;
    let saved = args.state_dir.as_deref().map(|folder| Saved::in_folder(folder, &args.federation.federation));
    let saved = saved.transpose()?;
    let dns = Dns::bind(&args.listen, &args.dns, &args.federation).await?;
    tokio::select! {
        result = follow(client, saved, &dns) => result,
        result = dns.serve() => result,
        () = shutdown => Ok(()),
    }
}

/// Tells `dns` of every change of the federation.
async fn follow(client: kube::Client, saved: Option<Saved>, dns: &Dns) -> Result<()> {
    let mut federation = watch::watch(client, saved).federation;
    let mut known = false;
    loop {
        federation.changed().await.context("the watch of the Federation API has ended")?;
        if let Some(federation) = federation.borrow_and_update().as_deref() {
            dns.update(federation, None);
            if !known {
                known = true;
                info!(services = federation.services.len(), "the federation is known");
            }
        }
    }
}
