//! Which of root's rights this process has. In a pod, root has those alone that the container asks for.

use std::{fs, net::SocketAddr};

use super::report::Row;

const WHAT: &str = "capabilities";

/// A right, by its number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capability {
    number: u32,
    name: &'static str,
    what_for: &'static str,
}

/// What every agent needs.
const NEEDED: [Capability; 4] = [
    Capability { number: 39, name: "BPF", what_for: "to load programs and make maps" },
    Capability {
        number: 38,
        name: "PERFMON",
        what_for: "to load programs that read packets at computed places",
    },
    Capability { number: 12, name: "NET_ADMIN", what_for: "to attach programs to interfaces" },
    Capability { number: 13, name: "NET_RAW", what_for: "to tell clients that their backend has died" },
];

/// What an agent needs that answers DNS at a port of the system's.
const PORTS: Capability =
    Capability { number: 10, name: "NET_BIND_SERVICE", what_for: "to answer DNS at a port of the system's" };

/// It stands in for BPF and PERFMON (capabilities(7)).
const SYS_ADMIN: u64 = 1 << 21;

pub(super) fn row(dns_listen: &[SocketAddr]) -> Row {
    let Some(effective) = fs::read_to_string("/proc/self/status").ok().and_then(|status| effective(&status))
    else {
        return Row::fail(WHAT, "/proc/self/status does not tell them", "mount /proc");
    };
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first_free = first_free.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    let takes_port = dns_listen.iter().any(|address| address.port() < first_free);
    judge(effective, takes_port)
}

fn judge(effective: u64, takes_port: bool) -> Row {
    let needed: Vec<_> = NEEDED.into_iter().chain(takes_port.then_some(PORTS)).collect();
    let missing: Vec<_> = needed.iter().filter(|capability| !capability.is_in(effective)).collect();
    if missing.is_empty() {
        let names: Vec<_> = needed.iter().map(|capability| capability.name).collect();
        return Row::pass(WHAT, format!("{} are there", names.join(", ")));
    }
    let told: Vec<_> = missing.iter().map(|it| format!("{} ({})", it.name, it.what_for)).collect();
    let names: Vec<_> = missing.iter().map(|capability| capability.name).collect();
    Row::fail(
        WHAT,
        format!("missing: {}", told.join(", ")),
        format!(
            "run as root with them; in a pod, add {} to securityContext.capabilities.add",
            names.join(", ")
        ),
    )
}

impl Capability {
    fn is_in(self, effective: u64) -> bool {
        let stands_in = matches!(self.name, "BPF" | "PERFMON") && effective & SYS_ADMIN != 0;
        effective & (1 << self.number) != 0 || stands_in
    }
}

/// From the text of `/proc/self/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Verdict;

    const ALL: u64 = (1 << 41) - 1;

    #[test]
    fn each_missing_one_is_told_by_its_name() {
        assert_eq!(judge(ALL, true).result, Verdict::Pass);
        for capability in NEEDED.into_iter().chain([PORTS]) {
            let row = judge(ALL & !SYS_ADMIN & !(1 << capability.number), true);
            assert_eq!(row.result, Verdict::Fail, "{row:?}");
            assert!(row.found.starts_with(&format!("missing: {} (", capability.name)), "{row:?}");
            assert!(row.remedy.contains(&format!("add {} to", capability.name)), "{row:?}");
        }
        assert_eq!(judge(ALL & !(1 << PORTS.number), false).result, Verdict::Pass);
        assert_eq!(judge(0, false).found.matches('(').count(), NEEDED.len());
    }

    #[test]
    fn an_old_containers_sys_admin_stands_in_for_the_two_that_were_split_from_it() {
        let old = SYS_ADMIN | 1 << 12 | 1 << 13;
        assert_eq!(judge(old, false).result, Verdict::Pass);
        assert_eq!(judge(old & !SYS_ADMIN, false).result, Verdict::Fail);
    }

    #[test]
    fn the_effective_set_is_read_as_the_kernel_writes_it() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t000001fffeffffff\n"),
            Some(0x1ff_feff_ffff)
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
