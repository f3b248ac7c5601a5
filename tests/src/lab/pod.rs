//! A pod: a network namespace with one interface, to its node.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context as _, Result};

use super::{
    Host, Namespace, Node, Process,
    addresses::{Addresses, LEAF, ROUTER},
    backbone::check_mtu,
};

/// A pod. Clones are the same pod.
#[derive(Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    cluster: String,
    node: Host,
    node_name: String,
    /// Its interface on the node.
    interface: String,
    namespace: Namespace,
    addresses: Addresses,
    /// IPv4 addresses that it was given later.
    more: Mutex<Vec<Ipv4Addr>>,
}

impl Pod {
    pub(super) fn new(
        node: &Node,
        name: String,
        interface: String,
        namespace: Namespace,
        addresses: Addresses,
    ) -> Self {
        let inner = Inner {
            name,
            cluster: node.cluster().to_owned(),
            node: node.host().clone(),
            node_name: node.name().to_owned(),
            interface,
            namespace,
            addresses,
            more: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

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
        self.addresses().v4
    }

    pub fn address_v6(&self) -> Ipv6Addr {
        self.addresses().v6
    }

    /// The name of its interface on the node; inside the pod it is `eth0`.
    pub fn interface(&self) -> &str {
        &self.inner.interface
    }

    /// Starts `command` (made by this pod's namespace) as a process of the lab.
    pub fn spawn(&self, command: Command) -> Result<Arc<Process>> {
        let name = self.process_name();
        self.inner.node.spawn(&name, command).with_context(|| format!("start the program of pod {name}"))
    }

    /// What was started in it last.
    pub fn process(&self) -> Result<Arc<Process>> {
        self.inner.node.core()?.process(&self.process_name())
    }

    /// The pod's link carries no larger packets from now on, neither way: towards the pod it is the node that says so.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let set = || {
            check_mtu(mtu)?;
            self.inner.node.namespace().ip([format!("link set {} mtu {mtu}", self.interface())])?;
            self.namespace().ip([format!("link set eth0 mtu {mtu}")])
        };
        set().with_context(|| format!("set the MTU of pod {}", self.name()))
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.inner.addresses
    }

    pub(super) fn has(&self, address: Ipv4Addr) -> bool {
        address == self.address() || self.more().contains(&address)
    }

    /// Answers at these addresses too; the node has routes to them.
    pub(super) fn take(&self, more: &[Ipv4Addr]) -> Result<()> {
        self.namespace().ip(more.iter().map(|address| format!("address add {address}/32 dev eth0")))?;
        self.more().extend(more);
        Ok(())
    }

    fn more(&self) -> MutexGuard<'_, Vec<Ipv4Addr>> {
        self.inner.more.lock().expect("no holder of the addresses panics")
    }

    /// Gives it its addresses and its ways out, once the node has laid the link.
    pub(super) fn set_up(&self, gateway: Ipv4Addr) -> Result<()> {
        let Addresses { v4, v6 } = self.addresses();
        self.namespace().ip([
            "link set lo up".to_owned(),
            format!("address add {v4}/32 dev eth0"),
            format!("address add {v6}/128 dev eth0 nodad"),
            format!("address add {LEAF}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add {gateway}/32 dev eth0"),
            format!("route add default via {gateway}"),
            format!("route add default via {ROUTER} dev eth0"),
        ])
    }

    /// Kills what was started in it.
    pub(super) fn kill(&self) -> Result<()> {
        self.inner.node.core()?.kill(&self.process_name());
        Ok(())
    }

    fn process_name(&self) -> String {
        format!("{}-{}-{}", self.cluster(), self.node_name(), self.name())
    }
}

impl PartialEq for Pod {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}
