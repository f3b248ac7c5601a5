//! When a change to the interfaces of a namespace has taken effect.
//!
//! Two things happen later than the commands return, in workers of the kernel that wait for the one lock of all
//! namespaces. Until then packets are lost, and a neighbour solicitation that is lost costs a second.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::Namespace;

/// How long the kernel may take.
const DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

// `RTF_LOCAL` of linux/ipv6_route.h and `IFA_F_TENTATIVE` of linux/if_addr.h.
const LOCAL: u32 = 0x8000_0000;
const TENTATIVE: u32 = 0x40;

/// An address and its interface, as /proc writes them.
type Place = (String, String);

impl Namespace {
    /// Makes the kernel notice that these interfaces have a carrier, since their peers came up after them. What they send
    /// before is lost.
    pub(super) fn notice_carrier<'a>(&self, interfaces: impl IntoIterator<Item = &'a str>) -> Result<()> {
        // It looks at once when it is asked for one interface (`rtnl_getlink` in net/core/rtnetlink.c, Linux 6.8).
        self.ip(interfaces.into_iter().map(|interface| format!("link show dev {interface}")))
    }

    /// Waits until the IPv6 addresses of these interfaces are the namespace's own. The routes that make them so come with
    /// the end of duplicate detection, also where there is none (`addrconf_dad_completed` in net/ipv6/addrconf.c).
    pub(super) fn settle<'a>(&self, interfaces: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let interfaces: HashSet<_> = interfaces.into_iter().collect();
        let end = Instant::now() + DEADLINE;
        loop {
            let mut missing = self.run(without_route)?.context("read the IPv6 addresses")?;
            missing.retain(|(_, interface)| interfaces.contains(interface.as_str()));
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{missing:?} of {} are not answered at", self.name());
            std::thread::sleep(PAUSE);
        }
    }
}

/// The addresses of this thread's namespace that have no route yet.
fn without_route() -> Result<Vec<Place>> {
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    // Addresses first: one that is gone by then has no route either, and is looked at again.
    let (addresses, routes) = (read("if_inet6")?, read("ipv6_route")?);
    let routed: HashSet<_> = routes.lines().filter_map(local_route).collect();
    Ok(addresses.lines().filter_map(address).filter(|place| !routed.contains(place)).collect())
}

/// Reads `address index length scope flags interface`; what the kernel still looks for duplicates of is none of ours.
fn address(line: &str) -> Option<Place> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [address, _, _, _, flags, interface] = words[..] else { return None };
    let ours = u32::from_str_radix(flags, 16).ok()? & TENTATIVE == 0;
    ours.then(|| (address.to_owned(), interface.to_owned()))
}

/// Reads `destination length source length gateway metric references uses flags interface`.
fn local_route(line: &str) -> Option<Place> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [destination, _, _, _, _, _, _, _, flags, interface] = words[..] else { return None };
    let local = u32::from_str_radix(flags, 16).ok()? & LOCAL != 0;
    local.then(|| (destination.to_owned(), interface.to_owned()))
}
