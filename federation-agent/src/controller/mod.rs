//! Registers clusters, shards Services into them, allocates VIPs and mirrors endpoints into the Federation API.
//!
//! Level-triggered: every reconciliation looks at all that is there and makes it right, whatever happened meanwhile.
//! It talks to the Federation API and to the clusters' APIs, never to a node.

mod admit;
mod clusters;
mod conditions;
mod member;
mod mirror;
mod names;
mod services;
mod shard;
mod sharding;
mod summary;
mod vips;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use kube::Client;
use tokio::sync::{Mutex, RwLock};

use crate::{client, model::ClusterName, settings::FederationSettings, shutdown};
use member::Members;
use mirror::Refusals;
use sharding::Sharding;
use vips::Allocator;

#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    federation: FederationSettings,

    /// Kubeconfig of the Federation API, with the right to write
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,
}

/// How long one request to a cluster may take: a cluster that hangs delays nobody but itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What the reconcilers share.
struct Context {
    client: Client,
    settings: FederationSettings,
    members: RwLock<Members>,
    sharding: Sharding,
    vips: Mutex<Allocator>,
    /// Of each cluster, the endpoints that were left out.
    refusals: std::sync::Mutex<BTreeMap<ClusterName, Refusals>>,
}

/// A reconciliation that failed and will be tried again.
#[derive(Debug)]
struct Failure(anyhow::Error);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

/// Deleting what is not there has done what was wanted.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result,
    }
}

/// Runs until the process is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// The settings are wrong, or the Federation API cannot be reached when it starts.
pub async fn run(args: Args) -> Result<()> {
    args.federation.validate()?;
    let shutdown = shutdown::requested()?;
    let client = client::from_kubeconfig(&args.kubeconfig).await?;
    // All VIPs that are held must be known before the first is given.
    let vips = vips::load(&client, &args.federation).await.context("read the VIPs that services hold")?;
    let context = Arc::new(Context {
        client,
        settings: args.federation,
        members: RwLock::default(),
        sharding: Sharding::default(),
        vips: Mutex::new(vips),
        refusals: std::sync::Mutex::default(),
    });
    tokio::select! {
        () = clusters::run(context.clone()) => Ok(()),
        () = services::run(context) => Ok(()),
        () = shutdown => Ok(()),
    }
}
