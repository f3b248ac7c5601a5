//! The agent of one node: watches the Federation API, probes, plans and keeps the data plane true.
//!
//! Glue only. What is known comes from `watch`, what answers from `health`, what shall be from `plan`; `dataplane`
//! makes it so.

pub mod desk;
mod evidence;
mod interfaces;
mod lock;
mod news;
mod readiness;
mod settings;
mod start;
pub mod whereabouts;

use std::{
    fs, future,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    task,
};
use tracing::{debug, info, warn};

use crate::{
    dataplane::{self, DataPlane, ProgramLog, Reached, Sweep},
    dns::{Dns, DnsSettings},
    health::{self, Beginning},
    memory,
    model::Federation,
    network,
    plan::{Health, Planner},
    settings::FederationSettings,
    shutdown, watch as api,
};
use desk::{Briefing, Call, Desk};
use interfaces::InterfaceEvent;
use lock::NodeLock;
use readiness::Readiness;

pub use settings::{DEFAULT_STATE_DIR, NodeSettings};

#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    federation: FederationSettings,

    /// Kubeconfig of the Federation API; read access is enough. Waited for while it is not there
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,

    /// Kubeconfig of this node's own cluster, to read the Node object with; in a pod, by default, its service account
    #[arg(long, env = "FEDERATION_NODE_KUBECONFIG", value_name = "FILE")]
    node_kubeconfig: Option<PathBuf>,

    /// The cluster that this node belongs to, by the name of its Cluster object
    #[arg(long, env = "FEDERATION_CLUSTER", value_name = "NAME")]
    cluster: String,

    /// This node's name in its cluster
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: String,

    #[command(flatten)]
    node: NodeSettings,

    /// Names of the pods' host-side interfaces, `*` for any run of characters; by default every veth whose peer is in
    /// another network namespace
    #[arg(long, env = "FEDERATION_POD_INTERFACES", value_name = "PATTERN")]
    pod_interfaces: Option<String>,

    #[command(flatten)]
    dns: DnsSettings,
}

/// Runs until the process is told to end. Programs and maps stay behind and go on forwarding.
///
/// # Errors
/// The node cannot be served as asked; nothing was attached that was not before.
pub async fn run(args: Args) -> Result<()> {
    args.federation.validate()?;
    let shutdown = shutdown::requested()?;
    let _lock = NodeLock::take(&args.node.state_dir)?;
    let readiness = Readiness::new(&args.node.state_dir)?;
    let (desk, briefing, calls) = Desk::open(&args.node.state_dir, readiness.subscribe())?;
    tokio::select! {
        result = desk.serve() => result,
        result = Box::pin(serve(&args, &readiness, briefing, calls)) => result,
        () = shutdown => {
            info!("told to end: programs and maps stay and go on forwarding");
            Ok(())
        }
    }
}

/// Serves once everything is known that it takes.
async fn serve(
    args: &Args,
    readiness: &Readiness,
    briefing: Briefing,
    mut calls: mpsc::Receiver<Call>,
) -> Result<()> {
    let uplink = network::uplink(args.node.uplink.as_deref()).await?;
    dataplane::check_kernel(&args.node.bpf_dir)?;
    for address in network::give_addresses(args.node.dns_listen.iter().map(SocketAddr::ip)).await? {
        info!(%address, "added to the interface lo, to answer DNS at");
    }
    let dns = Dns::bind(&args.node.dns_listen, &args.dns, &args.federation).await?;
    let beginning = pin!(begin(args, readiness));
    let (known, mut data_plane) = turning(&mut calls, beginning).await?;
    let start::Known { client, federation, place } = known;
    data_plane.replace_others()?;
    let (events, program_log) = (data_plane.events()?, data_plane.program_log()?);
    let mut node = Node { data_plane, planner: Planner::new(place.clone()) };
    node.data_plane.attach_uplink(uplink.index)?;
    node.data_plane.attach_host()?;

    let (health_sender, health) = watch::channel(Arc::new(Health::default()));
    briefing.serves(desk::Known {
        federation: federation.clone(),
        health: health.clone(),
        place: place.clone(),
    });
    let (observer, observations) = mpsc::channel(evidence::WAITING);
    let usage = node.data_plane.usage()?;
    let (reporter, news) = mpsc::channel(news::WAITING);
    let beginning = Beginning { place, dead: node.data_plane.dead() };
    let probing = health::watch_health(beginning, federation.clone(), observations, health_sender, reporter);
    let pods = interfaces::watch(uplink.index, args.pod_interfaces.as_deref())?;
    tokio::select! {
        result = node.keep_true(federation, health, pods, calls, &dns, readiness) => result,
        result = dns.serve() => result,
        result = evidence::pass_on(events, usage, observer) => result,
        result = pass_on(program_log) => result,
        () = news::publish(news, client, &args.node_name) => bail!("the news of health have ended"),
        () = probing => bail!("the probes have ended"),
    }
}

/// Loads the programs while everything else becomes known: both take about as long.
async fn begin(args: &Args, readiness: &Readiness) -> Result<(start::Known, DataPlane)> {
    let config = dataplane::Config {
        bpf_dir: args.node.bpf_dir.clone(),
        vip_ranges: args.federation.vip_ranges.clone(),
        tc_attach: args.node.tc_attach,
        seed: args.federation.seed(),
        cgroup: args.node.cgroup()?,
        node: args.node_name.clone(),
    };
    let mut opening = task::spawn_blocking(move || DataPlane::open(&config));
    let mut knowing = pin!(start::known(args, readiness));
    let mut known = None;
    let data_plane = loop {
        tokio::select! {
            opened = &mut opening => break opened.context("the task that loads the programs failed")??,
            early = &mut knowing, if known.is_none() => known = Some(early),
        }
    };
    let known = match known {
        Some(known) => known,
        None => knowing.await,
    };
    match known {
        Ok(known) => Ok((known, data_plane)),
        Err(error) => {
            data_plane.abandon()?;
            Err(error)
        }
    }
}

/// Says to who asks that the agent turns, while it does something else than serving.
async fn turning<T>(calls: &mut mpsc::Receiver<Call>, mut work: Pin<&mut impl Future<Output = T>>) -> T {
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(call) = calls.recv() => match call {
                // Who asked may have gone.
                Call::Turn(answer) => drop(answer.send(())),
                // Nobody asks before the desk is briefed.
                Call::Program(..) => {}
            },
        }
    }
}

/// The id of the process of the agent with this state folder, if one runs.
///
/// # Errors
/// The lock cannot be looked at.
pub fn running(state_dir: &Path) -> Result<Option<String>> {
    lock::holder(state_dir)
}

/// Removes what an agent keeps in its state folder, and the folder where nothing else is in it. Tells how many files went.
///
/// # Errors
/// One cannot be removed.
pub fn forget(state_dir: &Path) -> Result<usize> {
    const OWN: [&str; 5] = [api::SAVED_FILE, whereabouts::FILE, readiness::FILE, desk::SOCKET, lock::FILE];
    let mut removed = 0;
    for name in OWN {
        let path = state_dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }
    // What is mounted in a container stays, whose root may be read-only as well.
    let stays = [
        ErrorKind::NotFound,
        ErrorKind::DirectoryNotEmpty,
        ErrorKind::ResourceBusy,
        ErrorKind::ReadOnlyFilesystem,
    ];
    match fs::remove_dir(state_dir) {
        Err(error) if !stays.contains(&error.kind()) => {
            Err(error).with_context(|| format!("remove {}", state_dir.display()))
        }
        _ => Ok(removed),
    }
}

/// Programs that log nothing have no log to wait for.
async fn pass_on(program_log: Option<ProgramLog>) -> Result<()> {
    match program_log {
        Some(mut log) => log.pass_on().await,
        None => future::pending().await,
    }
}

/// Tells the clients of dead backends, beside everything else: there can be many.
fn start(sweep: Sweep) {
    task::spawn_blocking(move || {
        if let Err(error) = sweep.run() {
            warn!(
                "clients that wait for a dead backend were not told, they wait for their own timeout: {error:#}"
            );
        }
    });
}

/// The data plane and what it is told.
struct Node {
    data_plane: DataPlane,
    planner: Planner,
}

impl Node {
    /// Follows the federation, health and the pods' interfaces until one of them ends.
    async fn keep_true(
        &mut self,
        mut federation: watch::Receiver<Option<Arc<Federation>>>,
        mut health: watch::Receiver<Arc<Health>>,
        pods: impl Stream<Item = Result<InterfaceEvent>>,
        mut calls: mpsc::Receiver<Call>,
        dns: &Dns,
        readiness: &Readiness,
    ) -> Result<()> {
        let mut pods = pin!(pods);
        federation.mark_changed();
        // No branch has precedence: a node that starts with a thousand pods attaches one in about a millisecond, and what
        // else is ready gets its turn in between; nor can a federation that never rests keep a new pod waiting.
        loop {
            tokio::select! {
                changed = federation.changed() => {
                    changed.context("the watch of the Federation API has ended")?;
                    if let Some(federation) = federation.borrow_and_update().as_deref() {
                        self.follow(federation, &health.borrow_and_update().clone(), dns)?;
                        if readiness.announce()? {
                            memory::give_back();
                        }
                    }
                }
                changed = health.changed() => {
                    changed.context("the probes have ended")?;
                    if let Some(federation) = federation.borrow().as_deref() {
                        self.follow(federation, &health.borrow_and_update().clone(), dns)?;
                    }
                }
                // Who asked may have gone.
                Some(call) = calls.recv() => match call {
                    Call::Turn(answer) => drop(answer.send(())),
                    Call::Program(tuple, answer) => drop(answer.send(self.data_plane.ask(&tuple))),
                },
                event = pods.next() => match event.context("the watch of interfaces has ended")?? {
                    InterfaceEvent::Appeared { index, name } => self.attach_pod(index, &name),
                    InterfaceEvent::Gone { index } => self.data_plane.forget_interface(index)?,
                },
            }
        }
    }

    /// Packets first, names afterwards: only those for clients from outside follow health at all.
    fn follow(&mut self, federation: &Federation, health: &Health, dns: &Dns) -> Result<()> {
        let plan = self.planner.follow(federation, health);
        let sweep = self.data_plane.apply(plan).context("write the plan into the maps")?;
        sweep.into_iter().for_each(start);
        dns.update(federation, Some(health));
        Ok(())
    }

    /// An interface can be gone again before it is reached: then there is nothing to serve.
    fn attach_pod(&mut self, index: u32, name: &str) {
        match self.data_plane.attach_pod(index) {
            Ok(Reached::Attached) => info!(interface = name, "attached to a pod"),
            Ok(Reached::Gone) => debug!(interface = name, "a pod's interface was gone before it was reached"),
            Err(error) => {
                warn!(interface = name, "cannot attach to a pod's interface, its pod has no VIPs: {error:#}");
            }
        }
    }
}
