//! The eBPF object, and how it gets into the kernel: with the constants of this node, every program of it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use federation_ebpf::maps::{HostNetwork, Jiffies, Range};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::time::{ClockId, clock_getres};

use super::family::{V4, V6};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/federation-ebpf"));

/// What the programs are told before they are loaded.
pub(super) struct Constants {
    vip_v4: Range<V4>,
    vip_v6: Range<V6>,
    jiffies: Jiffies,
    host: HostNetwork,
}

/// How many programs there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    pub tc: usize,
    pub xdp: usize,
    pub cgroup: usize,
}

impl Constants {
    /// # Errors
    /// More than one range of a family, or a clock that cannot be asked.
    pub(super) fn new(vip_ranges: &[IpNet], host: HostNetwork) -> Result<Self> {
        let (vip_v4, vip_v6) = ranges(vip_ranges)?;
        Ok(Self { vip_v4, vip_v6, jiffies: jiffies()?, host })
    }

    /// A loader of the object that sets them.
    pub(super) fn loader(&self) -> EbpfLoader<'_> {
        let mut loader = EbpfLoader::new();
        loader.override_global("VIP_V4", &self.vip_v4, true).override_global("VIP_V6", &self.vip_v6, true);
        loader.override_global("JIFFIES", &self.jiffies, true).override_global("HOST", &self.host, true);
        loader
    }
}

/// The object, from which maps are made.
///
/// # Errors
/// This agent has none.
pub(super) fn bytes() -> Result<&'static [u8]> {
    ensure!(
        !OBJECT.is_empty(),
        "this agent was built without its eBPF programs (AYA_BUILD_SKIP): build it again"
    );
    Ok(OBJECT)
}

/// Loads every program.
///
/// # Errors
/// The name of the first that the kernel refuses, and why.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<Loaded, (String, ProgramError)> {
    let mut loaded = Loaded::default();
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load().map(|()| loaded.tc += 1),
            Program::Xdp(program) => program.load().map(|()| loaded.xdp += 1),
            Program::CgroupSockAddr(program) => program.load().map(|()| loaded.cgroup += 1),
            _ => continue,
        }
        .map_err(|error| (name.to_owned(), error))?;
    }
    Ok(loaded)
}

/// Programs know one range of each family; without any, one that no packet is to.
fn ranges(ranges: &[IpNet]) -> Result<(Range<V4>, Range<V6>)> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for range in ranges {
        match range {
            IpNet::V4(range) => v4.push(range.trunc()),
            IpNet::V6(range) => v6.push(range.trunc()),
        }
    }
    ensure!(v4.len() <= 1 && v6.len() <= 1, "more than one range for VIPs of one family was given");
    let nobody =
        (Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32), Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128));
    let (v4, v6) = (v4.pop().unwrap_or(nobody.0), v6.pop().unwrap_or(nobody.1));
    Ok((
        Range { network: v4.network().octets(), mask: v4.netmask().octets() },
        Range { network: v6.network().octets(), mask: v6.netmask().octets() },
    ))
}

/// How this kernel counts jiffies, which the programs tell time by.
///
/// # Errors
/// The clock cannot be asked.
pub fn jiffies() -> Result<Jiffies> {
    // A coarse clock moves with every jiffy, so its resolution is one.
    let jiffy = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
    let jiffy = jiffy.context("ask for the resolution of the coarse clock")?;
    let nanoseconds = u64::try_from(jiffy.as_nanos()).context("read the length of a jiffy")?;
    ensure!(nanoseconds > 0, "the coarse clock has no resolution");
    Ok(Jiffies::of_resolution(nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use federation_ebpf::address::Address as _;

    use super::*;

    /// The linker orders forward declarations by chance: with several, the same sources give several objects.
    #[test]
    fn no_type_of_the_programs_is_a_forward_declaration() {
        let object = concat!(env!("OUT_DIR"), "/federation-ebpf");
        let output = Command::new("bpftool").args(["btf", "dump", "file", object]).output().expect("bpftool");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let types = String::from_utf8(output.stdout).expect("text");
        assert!(types.contains("] STRUCT '__sk_buff' "), "the programs have their types with them");
        let declared: Vec<_> = types.lines().filter(|line| line.contains("] FWD ")).collect();
        assert!(declared.is_empty(), "name these in the signature of `describe`: {declared:?}");
    }

    #[test]
    fn a_family_without_a_range_has_one_that_nobody_sends_to() {
        let (v4, v6) = ranges(&["198.18.7.7/16".parse().unwrap()]).unwrap();
        assert!([198, 18, 0, 1].is_in(&v4) && ![198, 19, 0, 1].is_in(&v4));
        assert!(!Ipv6Addr::LOCALHOST.octets().is_in(&v6));
        let (v4, v6) = ranges(&["fd98::1/112".parse().unwrap()]).unwrap();
        assert!(![198, 18, 0, 1].is_in(&v4) && !Ipv4Addr::BROADCAST.octets().is_in(&v4));
        assert!("fd98::ffff".parse::<Ipv6Addr>().unwrap().octets().is_in(&v6));
        assert!(ranges(&["fd98::/112".parse().unwrap(), "fd99::/112".parse().unwrap()]).is_err());
    }
}
