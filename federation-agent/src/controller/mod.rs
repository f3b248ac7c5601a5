//! Registers clusters, shards Services into them, allocates VIPs and mirrors endpoints into the Federation API.
//!
//! Small reconcilers, each with one output, level-triggered and woken by [`context`]:
//!
//! | who | for each | writes |
//! | --- | --- | --- |
//! | [`clusters`] | `Cluster` | its status; connects and disconnects members |
//! | [`services`] | `Service` | its `FederatedService` and its finalizer |
//! | [`propagate`] | member and `Service` | the shard, in the member |
//! | [`mirror`] | member and `Service` | the mirrored `EndpointSlice`s |
//! | [`report`] | `FederatedService` | its status: VIPs, shards, conditions |
//! | [`mcs`] | name that members export | the Service of what they export; imports, in the members |
//! | [`sweep`] | mirrored `EndpointSlice` | nothing, or its deletion |
//!
//! They act only while this process leads ([`lease`]), and [`fence`] sees to it that nothing is written after that. What
//! is decided by is pure: [`admit`], [`election`], [`expiry`], [`mirrored`], [`registration`], [`selection`], [`shard`], [`status`], [`vips`].

mod admit;
mod book;
mod clusters;
mod context;
pub mod credentials;
mod election;
mod expiry;
mod fence;
mod identity;
mod ingress;
mod lease;
mod mcs;
mod member;
mod mirror;
mod mirrored;
mod namespace;
mod propagate;
pub mod registration;
mod report;
mod selection;
mod services;
mod shard;
mod slices;
mod status;
mod sweep;
mod vips;
mod work;
mod world;

use std::{path::PathBuf, pin::pin, sync::Arc};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use futures::{Stream, StreamExt as _, pin_mut};
use kube::{Api, Client, api::ListParams, core::Selector};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    api::Cluster,
    client::{Login, chain},
    events::Events,
    settings::FederationSettings,
    shutdown,
};
use book::Book;
use context::{Context, Queues, Vips};
use election::ElectionSettings;
use fence::Fence;
use lease::Held;
use member::Members;
use vips::Pool;
use work::{is, work};
use world::{Change, World};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    federation: FederationSettings,

    #[command(flatten)]
    election: ElectionSettings,

    /// Kubeconfig of the Federation API; without it, the service account of the controller's pod, in the cluster that is
    /// the Federation API
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Labels of the Services that are federated, on a cluster that has others too: `key=value,...`; all when empty
    #[arg(
        long,
        env = "FEDERATION_SERVICE_SELECTOR",
        value_name = "LABELS",
        default_value = "",
        value_parser = selection::parse_selector
    )]
    service_selector: Selector,
}

/// Runs until the process is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// The settings cannot be used, or the Federation API refuses the kubeconfig.
pub async fn run(args: Args) -> Result<()> {
    args.federation.validate()?;
    let terms = args.election.leader_elect.then(|| args.election.terms()).transpose()?;
    let mut shutdown = pin!(shutdown::requested()?);
    let login = Login::by(args.kubeconfig.as_deref());
    let config = login.config().await?;
    let unfenced = Fence::open().client(config.clone()).context("make a client of the Federation API")?;
    tokio::select! {
        admitted = admitted(&unfenced, &login) => admitted?,
        () = &mut shutdown => return Ok(()),
    }
    let Some(terms) = terms else {
        return tokio::select! {
            result = control(args, unfenced, Fence::open()) => result,
            // Everything that is under way is begun again by the next process.
            () = shutdown => Ok(()),
        };
    };

    let identity = lease::identity()?;
    let mut lease = Held::new(unfenced, identity.clone(), terms);
    loop {
        let fence = tokio::select! {
            fence = lease.acquire() => fence,
            () = &mut shutdown => return Ok(()),
        };
        info!(identity, "this controller leads");
        let fenced = fence.client(config.clone()).context("make a client of the Federation API")?;
        // A task of its own: however busy it is, the lease is renewed meanwhile.
        let mut acting = JoinSet::new();
        acting.spawn(control(args.clone(), fenced, fence.clone()));
        let ended = tokio::select! {
            Some(ended) = acting.join_next() => Some(ended.context("the controller's task failed").flatten()),
            lost = lease.keep() => {
                warn!("{lost}");
                None
            }
            () = &mut shutdown => Some(Ok(())),
        };
        fence.close();
        acting.shutdown().await;
        if let Some(result) = ended {
            lease.release().await;
            return result;
        }
    }
}

async fn control(args: Args, client: Client, fence: Fence) -> Result<()> {
    let (world, changes) = World::watch(&client);
    let (clusters, cluster_queue) = mpsc::unbounded_channel();
    let (services, service_queue) = mpsc::unbounded_channel();
    let (reports, report_queue) = mpsc::unbounded_channel();
    let context = Arc::new(Context {
        events: Events::new(client.clone()),
        client,
        fence,
        selector: args.service_selector,
        world,
        members: Members::default(),
        book: Book::default(),
        exports: mcs::Exported::default(),
        queues: Queues { clusters, services, reports, sweep: Notify::new() },
        vips: Vips::new(Pool::new(args.federation.vip_ranges.clone())),
        settings: args.federation,
    });
    let _ending = Ending(Arc::clone(&context));
    let reconcilers = async {
        context.world.ready().await;
        // Before any is given: what is held must be known.
        context.claim_stored_vips();
        info!(
            clusters = context.world.clusters.len(),
            services = context.world.services.len(),
            "the federation is known"
        );
        let World { clusters, services, federated, .. } = &context.world;
        let share = || Arc::clone(&context);
        tokio::join!(
            work("clusters", clusters.clone(), cluster_queue, share(), clusters::reconcile),
            work("services", services.clone(), service_queue, share(), services::reconcile),
            work("reports", federated.clone(), report_queue, share(), report::reconcile),
            sweep::run(share()),
            mcs::run(share()),
        )
    };
    tokio::select! {
        () = follow(&context, changes) => bail!("the watches of the Federation API have ended"),
        _ = reconcilers => bail!("the reconcilers have ended"),
    }
}

/// Ends the members' work with the reconcilers. Their tasks hold what they share, and that holds them: nobody else would.
struct Ending(Arc<Context>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.members.disconnect_all();
    }
}

async fn follow(context: &Context, changes: impl Stream<Item = Change>) {
    pin_mut!(changes);
    while let Some(change) = changes.next().await {
        context.dispatch(change);
    }
}

/// Finds out whether the Federation API lets us in and has our kinds. One that does not answer yet is waited for by
/// the watches.
async fn admitted(client: &Client, login: &Login) -> Result<()> {
    let clusters: Api<Cluster> = Api::all(client.clone());
    match clusters.list_metadata(&ListParams::default().limit(1)).await {
        Err(error @ kube::Error::Api(_)) if is(&error, 404) => bail!(
            "the Federation API of {login} has no kind Cluster: install what `federation-agent crds` prints"
        ),
        Err(error @ kube::Error::Api(_)) if is(&error, 401) || is(&error, 403) => {
            Err(error).with_context(|| format!("the Federation API refuses the credentials of {login}"))
        }
        Err(error) => {
            warn!("the Federation API does not answer yet: {}", chain(&error));
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}
