//! Nodes, and the pods on them.
//!
//! A node forwards between its uplink and its pods, one veth pair a pod, as the simplest of network plugins does: routes
//! to single addresses, no bridge, no translation, strict reverse-path filtering.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use super::{ClusterSpec, Core, Host, Namespace, Process};

const DNS_PORT: u16 = 53;

/// A node. Clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<NodeInner>,
}

struct NodeInner {
    host: Host,
    name: String,
    cluster: String,
    pods: Ipv4Net,
    made: Mutex<Vec<Pod>>,
}

/// A pod: a network namespace with one interface, to its node. Clones are the same pod.
#[derive(Clone)]
pub struct Pod {
    inner: Arc<PodInner>,
}

struct PodInner {
    name: String,
    cluster: String,
    node: Host,
    node_name: String,
    namespace: Namespace,
    address: Ipv4Addr,
}

// === impl Node ===

impl Node {
    pub(super) fn new(core: &Arc<Core>, cluster: &ClusterSpec, number: u8) -> Result<Self> {
        let name = format!("node{number}");
        let host = Host::new(core, &format!("{}-{name}", cluster.name), cluster.delay)?;
        let pods = Ipv4Net::new_assert([10, cluster.network, number, 0].into(), 24);
        let namespace = host.namespace();
        namespace.set("ipv4/ip_forward", "1")?;
        namespace.set("ipv4/conf/all/rp_filter", "1")?;
        let inner = NodeInner { host, name, cluster: cluster.name.clone(), pods, made: Mutex::default() };
        let node = Self { inner: Arc::new(inner) };
        node.host().namespace().ip([format!("address add {}/32 dev lo", node.gateway())])?;
        node.host().announce(pods)?;
        Ok(node)
    }

    /// Its name within the cluster.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    pub fn namespace(&self) -> &Namespace {
        self.inner.host.namespace()
    }

    /// The node's own address among its pods: their gateway, and where its DNS answers.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.inner.pods.network().to_bits() + 1)
    }

    /// Where its agent answers DNS.
    pub fn dns(&self) -> SocketAddr {
        (self.gateway(), DNS_PORT).into()
    }

    /// One more pod, on the next free address.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        let mut made = self.inner.made.lock().expect("no holder of the pods panics");
        let number = u8::try_from(made.len() + 1)?;
        let address = Ipv4Addr::from_bits(self.gateway().to_bits() + u32::from(number));
        let namespace = Namespace::create(&format!("{}-{name}", self.namespace().name()))?;
        let (gateway, interface) = (self.gateway(), format!("pod{number}"));
        self.namespace().ip([
            format!("link add {interface} type veth peer name eth0 netns {}", namespace.name()),
            format!("link set {interface} up"),
            format!("route add {address}/32 dev {interface} src {gateway}"),
        ])?;
        namespace.ip([
            format!("address add {address}/32 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add {gateway}/32 dev eth0"),
            format!("route add default via {gateway}"),
        ])?;
        let inner = PodInner {
            name: name.to_owned(),
            cluster: self.inner.cluster.clone(),
            node: self.host().clone(),
            node_name: self.name().to_owned(),
            namespace,
            address,
        };
        let pod = Pod { inner: Arc::new(inner) };
        made.push(pod.clone());
        Ok(pod)
    }

    pub fn pods(&self) -> Vec<Pod> {
        self.inner.made.lock().expect("no holder of the pods panics").clone()
    }

    pub fn power_off(&self) -> Result<()> {
        self.host().power_off()
    }

    pub fn power_on(&self) -> Result<()> {
        self.host().power_on()
    }
}

// === impl Pod ===

impl Pod {
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    pub fn node_name(&self) -> &str {
        &self.inner.node_name
    }

    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    pub fn address(&self) -> Ipv4Addr {
        self.inner.address
    }

    /// Starts `command` (made by this pod's namespace) as a process of the lab.
    pub fn spawn(&self, command: Command) -> Result<Arc<Process>> {
        let name = format!("{}-{}-{}", self.cluster(), self.node_name(), self.name());
        self.inner.node.spawn(&name, command).with_context(|| format!("start the program of pod {name}"))
    }
}
