//! A host: a network namespace with an uplink to the backbone.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::{Core, Namespace, Process, backbone::Link, cgroup};

/// A machine of the lab. Clones are the same machine.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    namespace: Namespace,
    uplink: Link,
    /// Weak, since values of hosts may outlive the lab that they were part of.
    core: Weak<Core>,
}

impl Host {
    pub(super) fn new(core: &Arc<Core>, name: &str, delay: Option<Duration>) -> Result<Self> {
        let namespace = Namespace::create(&format!("{}{name}", core.id.prefix()))?;
        let uplink = Link::new(core, name, &namespace, delay)
            .with_context(|| format!("link {name} to the backbone"))?;
        let inner = Inner { name: name.to_owned(), namespace, uplink, core: Arc::downgrade(core) };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// The address on its uplink.
    pub fn address(&self) -> Ipv4Addr {
        self.inner.uplink.addresses().v4
    }

    pub fn address_v6(&self) -> Ipv6Addr {
        self.inner.uplink.addresses().v6
    }

    /// Starts `command` (made by this host's namespace) as a process of the lab, with its output in the lab's logs. An
    /// agent takes the host's cgroup for the root of all.
    pub fn spawn(&self, name: &str, mut command: Command) -> Result<Arc<Process>> {
        command.env("FEDERATION_CGROUP", self.cgroup()?);
        self.core()?.spawn(name, command)
    }

    /// The cgroup of what runs on this host itself, and in none of its pods.
    pub fn cgroup(&self) -> Result<PathBuf> {
        cgroup::make(self.namespace().name())
    }

    /// From now on this process is one of the host's own: the sockets that it makes in the host's network, with all of its
    /// threads.
    pub fn take_in_this_process(&self) -> Result<()> {
        cgroup::put(&std::process::id().to_string(), &self.cgroup()?)
    }

    /// The link goes down at its far end: the rest of the world hears nothing more from this host.
    pub fn power_off(&self) -> Result<()> {
        self.inner.uplink.cut().with_context(|| format!("cut the power of {}", self.name()))
    }

    pub fn power_on(&self) -> Result<()> {
        self.inner.uplink.restore().with_context(|| format!("give {} its power back", self.name()))
    }

    pub(super) fn line_for_cut(&self) -> String {
        self.inner.uplink.line_for_cut()
    }

    /// Where it enters the backbone.
    pub(super) fn far_end(&self) -> &str {
        self.inner.uplink.far_end()
    }

    /// The uplink carries no larger packets from now on, neither way: towards the host it is the backbone that says so to
    /// senders, and what comes from beyond the host is refused by the host itself.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        self.inner.uplink.set_mtu(mtu).with_context(|| format!("set the MTU of the link of {}", self.name()))
    }

    /// Sends whole checksums from now on, of both families. XDP programs see packets before a network card would have completed
    /// them, so a sender whose packets they change must not leave the sum to the card.
    pub fn complete_checksums(&self) -> Result<()> {
        self.namespace().execute("ethtool", &["--offload", "eth0", "tx", "off"]).map(drop)
    }

    pub(super) fn announce(&self, range: IpNet) -> Result<()> {
        self.inner.uplink.announce(range).with_context(|| format!("route {range} to {}", self.name()))
    }

    pub(super) fn accept_reflected(&self, pins: &Path) -> Result<()> {
        self.inner
            .uplink
            .accept_reflected(pins)
            .with_context(|| format!("prepare the link of {}", self.name()))
    }

    pub(super) fn core(&self) -> Result<Arc<Core>> {
        self.inner.core.upgrade().context("the lab is gone")
    }
}
