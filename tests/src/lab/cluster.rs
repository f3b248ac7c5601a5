//! A cluster: a host for its control plane and some nodes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use ipnet::IpNet;

use super::{Core, Host, Node, addresses};

/// Where a cluster stands.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    pub name: String,
    pub region: String,
    pub zone: String,
    /// The second number of its addresses, `10.<network>.0.0/16` and `fd10:<network>::/32`.
    pub network: u8,
    /// How far away it is: what each direction of a link to it takes longer.
    pub delay: Option<Duration>,
}

/// A member cluster as machines; what runs on them is not known here. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    spec: ClusterSpec,
    control_plane: Host,
    nodes: Mutex<Vec<Node>>,
}

// === impl ClusterSpec ===

impl ClusterSpec {
    pub fn new(name: &str, region: &str, zone: &str, network: u8) -> Self {
        let [name, region, zone] = [name, region, zone].map(str::to_owned);
        Self { name, region, zone, network, delay: None }
    }

    #[must_use]
    pub fn delayed_by(self, delay: Duration) -> Self {
        Self { delay: Some(delay), ..self }
    }

    /// The ranges that all its pods' addresses are in, one of each family.
    pub fn pods(&self) -> [IpNet; 2] {
        addresses::cluster(self.network).both()
    }
}

// === impl Cluster ===

impl Cluster {
    pub(super) fn new(core: &Arc<Core>, spec: ClusterSpec) -> Result<Self> {
        let control_plane = Host::new(core, &format!("{}-api", spec.name), None)?;
        Ok(Self { inner: Arc::new(Inner { spec, control_plane, nodes: Mutex::default() }) })
    }

    pub fn spec(&self) -> &ClusterSpec {
        &self.inner.spec
    }

    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// The host that its API server runs on.
    pub fn control_plane(&self) -> &Host {
        &self.inner.control_plane
    }

    /// One more node: `node1`, `node2` ...
    pub fn add_node(&self) -> Result<Node> {
        let core = self.control_plane().core()?;
        let mut nodes = self.inner.nodes.lock().expect("no holder of the nodes panics");
        let number = u8::try_from(nodes.len() + 1)?;
        let node = Node::new(&core, self.spec(), number)?;
        nodes.push(node.clone());
        Ok(node)
    }

    pub fn nodes(&self) -> Vec<Node> {
        self.inner.nodes.lock().expect("no holder of the nodes panics").clone()
    }

    /// Everything in it falls silent: control plane and nodes.
    pub fn power_off(&self) -> Result<()> {
        self.hosts().iter().try_for_each(Host::power_off)
    }

    pub fn power_on(&self) -> Result<()> {
        self.hosts().iter().try_for_each(Host::power_on)
    }

    /// Its nodes and its control plane.
    pub fn hosts(&self) -> Vec<Host> {
        let nodes = self.nodes().into_iter().map(|node| node.host().clone());
        nodes.chain([self.control_plane().clone()]).collect()
    }
}
