//! The agent of one node: watches the Federation API, probes, plans and keeps the data plane true.
//!
//! Glue only. What is known comes from `watch`, what answers from `health`, what shall be from `plan`; `dataplane`
//! makes it so.

pub mod desk;
mod evidence;
mod interfaces;
mod lock;
mod news;
mod ready;

use std::{future, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::{
    client,
    dataplane::{self, DataPlane, ProgramLog, Reached, Sweep, TcAttach},
    dns::{Dns, DnsSettings},
    health::{self, Beginning},
    memory,
    model::{ClusterName, Federation, Locality, Zone},
    plan::{Health, Place, Planner},
    settings::FederationSettings,
    shutdown, watch as api,
};
use desk::{Desk, ProgramQuestion};
use interfaces::InterfaceEvent;
use lock::NodeLock;
use ready::ReadyFile;

/// Where an agent keeps what outlives it, and its socket.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/federation";

#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    federation: FederationSettings,

    /// Kubeconfig of the Federation API; read access is enough
    #[arg(long, env = "FEDERATION_KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,

    /// The cluster that this node belongs to, by the name of its Cluster object
    #[arg(long, env = "FEDERATION_CLUSTER", value_name = "NAME")]
    cluster: String,

    /// This node's name in its cluster
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: String,

    /// This node's zone; the first of its cluster when not given
    #[arg(long, env = "FEDERATION_ZONE", value_name = "ZONE")]
    zone: Option<String>,

    /// The interface that leads to other nodes
    #[arg(long, env = "FEDERATION_UPLINK", value_name = "INTERFACE")]
    uplink: String,

    /// Names of the pods' host-side interfaces, `*` for any run of characters; by default every veth whose peer is in
    /// another network namespace
    #[arg(long, env = "FEDERATION_POD_INTERFACES", value_name = "PATTERN")]
    pod_interfaces: Option<String>,

    /// Where maps and links are pinned
    #[arg(long, env = "FEDERATION_BPF_DIR", value_name = "DIR", default_value = dataplane::DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,

    /// How tc programs are attached
    #[arg(long, env = "FEDERATION_TC_ATTACH", value_name = "WAY", value_enum, default_value_t)]
    tc_attach: TcAttach,

    /// Where the agent keeps its lock and the last known federation, and says that it is ready
    #[arg(long, env = "FEDERATION_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,

    /// Address to answer DNS at, for clients of the federation; may be given more than once
    #[arg(long, env = "FEDERATION_DNS_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    dns_listen: Vec<SocketAddr>,

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
    tokio::pin!(shutdown);
    let _lock = NodeLock::take(&args.state_dir)?;
    let mut ready = ReadyFile::new(&args.state_dir)?;
    let uplink = interfaces::uplink_index(&args.uplink).await?;
    dataplane::check_kernel(&args.bpf_dir)?;
    let dns = Dns::bind(&args.dns_listen, &args.dns, &args.federation).await?;

    let client = client::from_kubeconfig(&args.kubeconfig).await?;
    let saved = api::Saved::in_folder(&args.state_dir, &args.federation.federation)?;
    let federation = api::watch(client.clone(), Some(saved));
    let first = tokio::select! {
        first = first_state(federation.clone()) => first?,
        () = &mut shutdown => return Ok(()),
    };
    let place = place(&args, &first)?;
    info!(zone = %place.locality.zone, region = %place.locality.region, "the federation is known");

    let mut data_plane = DataPlane::open(&dataplane::Config {
        bpf_dir: args.bpf_dir.clone(),
        vip_ranges: args.federation.vip_ranges.clone(),
        tc_attach: args.tc_attach,
        seed: args.federation.seed(),
    })?;
    let (events, program_log) = (data_plane.events()?, data_plane.program_log()?);
    let mut node = Node { data_plane, planner: Planner::new(place.clone()) };
    node.data_plane.attach_uplink(uplink)?;

    let (health_sender, health) = watch::channel(Arc::new(Health::default()));
    let (desk, questions) = Desk::open(&args.state_dir, federation.clone(), health.clone(), place.clone())?;
    let (observer, observations) = mpsc::channel(evidence::WAITING);
    let usage = node.data_plane.usage()?;
    let (reporter, news) = mpsc::channel(news::WAITING);
    let beginning = Beginning { place: place.clone(), dead: node.data_plane.dead() };
    let probing = health::watch_health(beginning, federation.clone(), observations, health_sender, reporter);
    let pods = interfaces::watch(uplink, args.pod_interfaces.as_deref())?;
    tokio::select! {
        result = node.keep_true(federation, health, pods, questions, &dns, &mut ready) => result,
        result = desk.serve() => result,
        result = dns.serve() => result,
        result = evidence::pass_on(events, usage, observer) => result,
        result = pass_on(program_log) => result,
        () = news::publish(news, client, &args.node_name) => bail!("the news of health have ended"),
        () = probing => bail!("the probes have ended"),
        () = &mut shutdown => {
            info!("told to end: programs and maps stay and go on forwarding");
            Ok(())
        }
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
    tokio::task::spawn_blocking(move || {
        if let Err(error) = sweep.run() {
            warn!(
                "clients that wait for a dead backend were not told, they wait for their own timeout: {error:#}"
            );
        }
    });
}

/// Waits until every kind has been listed once.
async fn first_state(mut federation: watch::Receiver<Option<Arc<Federation>>>) -> Result<Arc<Federation>> {
    let first =
        federation.wait_for(Option::is_some).await.context("the watch of the Federation API has ended")?;
    Ok(first.clone().expect("waited for"))
}

/// Where this node stands, by what the federation knows of its cluster.
fn place(args: &Args, federation: &Federation) -> Result<Place> {
    let name = args.cluster.as_str();
    let Some(cluster) = federation.clusters.get(name) else {
        let known: Vec<_> = federation.clusters.keys().map(ClusterName::as_str).collect();
        bail!(
            "the federation has no cluster {name}: register it, or give --cluster one of those that it has ({})",
            if known.is_empty() { "none yet".to_owned() } else { known.join(", ") }
        );
    };
    let zone = args.zone.as_deref().map_or_else(|| cluster.zones[0].clone(), Zone::from);
    if !cluster.zones.contains(&zone) {
        let zones: Vec<_> = cluster.zones.iter().map(Zone::as_str).collect();
        bail!("cluster {name} does not span the zone {zone}: give --zone one of {}", zones.join(", "));
    }
    let locality = Locality {
        provider: cluster.provider.clone(),
        region: cluster.region.clone(),
        zone,
        cluster: name.into(),
    };
    Ok(Place { locality, node: args.node_name.clone() })
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
        mut questions: mpsc::Receiver<ProgramQuestion>,
        dns: &Dns,
        ready: &mut ReadyFile,
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
                        if ready.announce()? {
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
                Some((tuple, answer)) = questions.recv() => {
                    // Who asked may have gone.
                    let _ = answer.send(self.data_plane.ask(&tuple));
                }
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::model::Cluster;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(extra: &[&str]) -> Args {
        let base = "node --federation my-federation --domain example.com --vip-range 198.18.0.0/16 --kubeconfig k \
                    --node-name node-1 --uplink eth0";
        Cli::parse_from(base.split_whitespace().chain(extra.iter().copied())).args
    }

    fn federation() -> Federation {
        let cluster =
            Cluster { provider: "gcp".into(), region: "r".into(), zones: vec!["z1".into(), "z2".into()] };
        Federation { clusters: [("here".into(), cluster)].into(), ..Federation::default() }
    }

    #[test]
    fn a_node_stands_in_the_first_zone_of_its_cluster_unless_told() {
        for (extra, zone) in
            [(&["--cluster", "here"][..], "z1"), (&["--cluster", "here", "--zone", "z2"], "z2")]
        {
            let place = place(&args(extra), &federation()).unwrap();
            assert_eq!(place.locality.zone.as_str(), zone);
            assert_eq!(place.locality.cluster.as_str(), "here");
        }
    }

    #[test]
    fn an_unknown_cluster_or_zone_is_refused_with_those_that_exist() {
        for (extra, hint) in
            [(&["--cluster", "nowhere"][..], "(here)"), (&["--cluster", "here", "--zone", "z3"], "z1, z2")]
        {
            let refusal = place(&args(extra), &federation()).unwrap_err().to_string();
            assert!(refusal.contains(hint), "{refusal}");
        }
    }
}
