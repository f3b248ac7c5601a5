//! The federation that things happen to: three regions, six clusters, a client, and the proof that all is well.
//!
//! | cluster | seen from the client |
//! | --- | --- |
//! | `europe-west1-b` | its own; two nodes, the client is on the first |
//! | `europe-west1-b-2` | the same zone: serves next |
//! | `europe-west1-d` | the same region |
//! | `europe-west2-a`, `europe-west2-c`, `us-east1-b` | other regions, milliseconds away |

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::ScopeKind;

use super::{
    book::{AT_ONCE, Right},
    crowd::Crowd,
    scenario::Serving,
    traffic::Traffic,
};
use crate::{
    client::{self, Answer},
    federation::{Federation, HTTP_PORT, Member, SERVICE_HTTP_PORT, my_service},
    lab::{ClusterSpec, Lab, Node, Pod, eventually},
};

pub const HOME: &str = "europe-west1-b";
pub const NEXT: &str = "europe-west1-b-2";
pub const SAME_REGION: &str = "europe-west1-d";

/// Servers of each cluster; at home on each of the two nodes.
const SERVERS: usize = 3;

/// How long the way back to a proven good state may take.
const RECOVERY: Duration = Duration::from_mins(2);

/// How long one request of the proof may take.
const REQUEST: Duration = Duration::from_millis(500);

pub struct World {
    pub traffic: Traffic,
    pub federation: Federation,
    pub client: Pod,
    /// The client's node.
    pub near: Node,
    /// The other node of its cluster.
    pub other: Node,
    /// The service with many endpoints, once it was needed.
    pub crowd: Option<Crowd>,
    nearest: Ipv4Addr,
    global: Ipv4Addr,
}

fn clusters() -> [ClusterSpec; 6] {
    let milliseconds = Duration::from_millis;
    [
        ClusterSpec::new(HOME, "europe-west1", "europe-west1-b", 8),
        ClusterSpec::new(NEXT, "europe-west1", "europe-west1-b", 9),
        ClusterSpec::new(SAME_REGION, "europe-west1", "europe-west1-d", 10),
        ClusterSpec::new("europe-west2-a", "europe-west2", "europe-west2-a", 11).delayed_by(milliseconds(3)),
        ClusterSpec::new("europe-west2-c", "europe-west2", "europe-west2-c", 12).delayed_by(milliseconds(3)),
        ClusterSpec::new("us-east1-b", "us-east1", "us-east1-b", 13).delayed_by(milliseconds(10)),
    ]
}

impl World {
    /// All of it, with `rate` requests a second on their way.
    pub async fn new(rate: u32) -> Result<Self> {
        let mut federation = Federation::start(Lab::new()?).await?;
        for spec in clusters() {
            federation.add_cluster(spec, SERVERS).await?;
        }
        let home = federation.member(HOME)?.clone();
        let near = home.cluster().nodes().pop().context("the client's cluster has a node")?;
        let other = home.cluster().add_node()?;
        for number in 1..=SERVERS {
            home.add_server(federation.lab(), &other, &format!("pod{}", SERVERS + number)).await?;
        }
        let client = near.add_pod("client")?;
        federation.register_all().await?;
        federation.start_agents().await?;
        federation.create(&my_service()?).await?;
        federation.publish_all().await?;
        let nearest = federation.vip(ScopeKind::Nearest, None).await?;
        let global = federation.vip(ScopeKind::Global, None).await?;
        let traffic = Traffic::start(client.namespace(), (nearest, SERVICE_HTTP_PORT).into(), rate)?;
        Ok(Self { traffic, federation, client, near, other, crowd: None, nearest, global })
    }

    pub fn home(&self) -> Result<&Member> {
        self.federation.member(HOME)
    }

    pub fn next(&self) -> Result<&Member> {
        self.federation.member(NEXT)
    }

    /// Where the traffic goes, unless a scenario has another service.
    pub fn vip(&self) -> SocketAddr {
        (self.nearest, SERVICE_HTTP_PORT).into()
    }

    /// Whether one of the servers on `node` has answered, of the client's cluster.
    pub fn is_on(node: &Node) -> impl Fn(&Answer) -> bool + Sync + use<> {
        let names: BTreeSet<_> = node.pods().iter().map(|pod| pod.name().to_owned()).collect();
        move |answer| answer.cluster == HOME && names.contains(&answer.pod)
    }

    /// Waits until every server of every cluster answers by itself and is used by the client's node, and the nearest
    /// shard has all traffic again.
    pub async fn recover(&self) -> Result<()> {
        self.home()?.set_all_ready(true).await?;
        for pod in self.federation.members().iter().flat_map(Member::servers) {
            let server = (pod.address(), HTTP_PORT).into();
            let answers = async || client::get(self.client.namespace(), server, REQUEST).await;
            let what = format!("{} of {} answers", pod.name(), pod.cluster());
            eventually(what, RECOVERY, answers).await?;
        }
        self.uses(&self.all_servers()).await?;
        self.calm("the nearest shard", &|answer| answer.cluster == HOME).await
    }

    /// Brings the traffic where a scenario wants it, from a good state.
    pub async fn prepare(&self, serving: Serving) -> Result<()> {
        if serving == Serving::Next {
            self.home()?.set_all_ready(false).await?;
            self.calm("the next shard", &|answer| answer.cluster == NEXT).await?;
        }
        self.traffic.book().forget();
        Ok(())
    }

    /// Waits until nobody but `right` has answered for a while, and nobody was hurt.
    pub async fn calm(&self, who: &str, right: Right<'_>) -> Result<()> {
        let calm = async || self.traffic.book().check_calm(Instant::now(), right, AT_ONCE);
        let what = format!("all traffic is served by {who}");
        eventually(what, RECOVERY, calm).await
    }

    /// Waits until each of these servers has answered at the VIP that leads to all of them.
    async fn uses(&self, servers: &BTreeSet<(String, String)>) -> Result<()> {
        let mut missing = servers.clone();
        let asked = async || {
            let vip = (self.global, SERVICE_HTTP_PORT).into();
            for _ in 0..servers.len() {
                let Answer { cluster, pod } = client::get(self.client.namespace(), vip, REQUEST).await?;
                missing.remove(&(cluster, pod));
            }
            ensure!(missing.is_empty(), "not by {missing:?}");
            Ok(())
        };
        eventually("every server is used by the client's node", RECOVERY, asked).await
    }

    fn all_servers(&self) -> BTreeSet<(String, String)> {
        let servers = self.federation.members().iter().flat_map(Member::servers);
        servers.map(|pod| (pod.cluster().to_owned(), pod.name().to_owned())).collect()
    }
}
