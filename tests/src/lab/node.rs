//! Nodes, and how pods come to be on them and go.
//!
//! A node forwards between its uplink and its pods, one veth pair a pod, as the simplest of network plugins does: routes
//! to single addresses, no bridge, no translation, strict reverse-path filtering.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    ClusterSpec, Core, Host, Namespace, Pod,
    addresses::{self, ROUTER, Ranges},
};

const DNS_PORT: u16 = 53;

/// The group of interfaces that are about to go.
const GOING: u32 = 1;

/// A node. Clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    host: Host,
    name: String,
    cluster: String,
    pods: Ranges,
    made: Mutex<Vec<Pod>>,
}

impl Node {
    pub(super) fn new(core: &Arc<Core>, cluster: &ClusterSpec, number: u8) -> Result<Self> {
        let name = format!("node{number}");
        let host = Host::new(core, &format!("{}-{name}", cluster.name), cluster.delay)?;
        let pods = addresses::node(cluster.network, number);
        let namespace = host.namespace();
        namespace.forward()?;
        namespace.set("ipv4/conf/all/rp_filter", "1")?;
        namespace.ip(pods.owner().both().map(|address| format!("address add {address} dev lo nodad")))?;
        for range in pods.both() {
            // What is sent to a pod that is gone would bounce between node and backbone.
            namespace.ip([format!("route add blackhole {range}")])?;
            host.announce(range)?;
        }
        namespace.settle(["lo"])?;
        let inner = Inner { host, name, cluster: cluster.name.clone(), pods, made: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its name within the cluster.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    pub fn namespace(&self) -> &Namespace {
        self.inner.host.namespace()
    }

    /// The node's own address among its pods: their gateway, and where its DNS answers.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.pods.owner().v4
    }

    /// The node's own IPv6 address among its pods, though they send to its link-local one.
    pub fn gateway_v6(&self) -> Ipv6Addr {
        self.inner.pods.owner().v6
    }

    /// Where its agent answers DNS.
    pub fn dns(&self) -> SocketAddr {
        (self.gateway(), DNS_PORT).into()
    }

    /// One more pod, on the lowest free addresses.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        self.add_pods([name.to_owned()]).map(|mut pods| pods.remove(0))
    }

    /// More pods, each on the lowest free addresses: a hundred together take less than a second.
    ///
    /// # Errors
    /// A node has addresses for 253 pods at a time.
    pub fn add_pods(&self, names: impl IntoIterator<Item = String>) -> Result<Vec<Pod>> {
        let mut made = self.made();
        let mut free = self.inner.pods.others();
        let mut spaces = Vec::new();
        let mut places = Vec::new();
        let names: Vec<_> = names.into_iter().collect();
        for name in &names {
            let place = free.find(|(_, addresses)| made.iter().all(|pod| !pod.has(addresses.v4)));
            let place = place.with_context(|| format!("no address is left for pod {name}"))?;
            places.push(place);
            spaces.push(format!("{}-{name}", self.namespace().name()));
        }
        let namespaces = Namespace::create_all(&spaces)?;

        let mut lines = Vec::new();
        let mut pods = Vec::new();
        for ((name, (number, addresses)), namespace) in names.into_iter().zip(places).zip(namespaces) {
            let pod = Pod::new(self, name, format!("pod{number}"), namespace, addresses);
            lines.extend(self.lines_for(&pod));
            pods.push(pod);
        }
        self.namespace().ip(lines)?;
        pods.iter().try_for_each(|pod| pod.set_up(self.gateway()))?;
        self.namespace().notice_carrier(pods.iter().map(Pod::interface))?;
        self.namespace().settle(pods.iter().map(Pod::interface))?;
        pods.iter().try_for_each(|pod| pod.namespace().settle(["eth0"]))?;
        made.extend(pods.iter().cloned());
        Ok(pods)
    }

    /// `count` more IPv4 addresses for a pod of this node, as if so many more pods were there.
    ///
    /// # Errors
    /// A node has 253 addresses for all of its pods together.
    pub fn add_addresses(&self, pod: &Pod, count: usize) -> Result<Vec<Ipv4Addr>> {
        let made = self.made();
        let all = self.inner.pods.others().map(|(_, addresses)| addresses.v4);
        let free = all.filter(|address| made.iter().all(|pod| !pod.has(*address)));
        let more: Vec<_> = free.take(count).collect();
        ensure!(more.len() == count, "{} has {} addresses left, not {count}", self.host().name(), more.len());
        let (interface, gateway) = (pod.interface(), self.gateway());
        let route = |address| format!("route add {address}/32 dev {interface} src {gateway}");
        self.namespace().ip(more.iter().map(route))?;
        pod.take(&more)?;
        Ok(more)
    }

    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.remove_pods(std::slice::from_ref(pod))
    }

    /// Ends the pods' processes and takes the pods away, interfaces and all, as a kubelet does.
    pub fn remove_pods(&self, pods: &[Pod]) -> Result<()> {
        let mut made = self.made();
        for pod in pods {
            ensure!(
                made.iter().any(|other| other == pod),
                "pod {} is not on {}",
                pod.name(),
                self.host().name()
            );
            pod.kill()?;
        }
        // The kernel waits for its readers once a command, so all of them go in one.
        let mark = |pod: &Pod| format!("link set {} group {GOING}", pod.interface());
        let marks = pods.iter().map(mark);
        self.namespace().ip(marks.chain([format!("link delete group {GOING}")]))?;
        Namespace::delete_all(pods.iter().map(|pod| pod.namespace().name()))?;
        made.retain(|pod| !pods.contains(pod));
        Ok(())
    }

    pub fn pods(&self) -> Vec<Pod> {
        self.made().clone()
    }

    pub fn power_off(&self) -> Result<()> {
        self.host().power_off()
    }

    pub fn power_on(&self) -> Result<()> {
        self.host().power_on()
    }

    /// What the node has for a pod: an interface, and a route to each of its addresses.
    fn lines_for(&self, pod: &Pod) -> [String; 5] {
        let (interface, space, addresses) = (pod.interface(), pod.namespace().name(), pod.addresses());
        [
            format!("link add {interface} type veth peer name eth0 netns {space}"),
            format!("address add {ROUTER}/64 dev {interface} nodad"),
            format!("link set {interface} up"),
            format!("route add {}/32 dev {interface} src {}", addresses.v4, self.gateway()),
            format!("route add {}/128 dev {interface} src {}", addresses.v6, self.gateway_v6()),
        ]
    }

    fn made(&self) -> MutexGuard<'_, Vec<Pod>> {
        self.inner.made.lock().expect("no holder of the pods panics")
    }
}
