//! Whether programs really load, and how tc programs would be attached: asked of the kernel, with nothing left of it.

use std::io;

use anyhow::{Result, anyhow};
use aya::{
    programs::{ProgramError, SchedClassifier, TcAttachType},
    sys::SyscallError,
};
use ipnet::IpNet;

use super::{
    attach::{Mode, TcAttach},
    host,
    object::{self, Constants, Loaded},
    pins::Pins,
    prerequisites::Lack,
};

/// Entries of each map; the ring of events takes a number of pages.
const ROOM: u32 = 4096;

/// Loads every program, onto small maps of its own, and lets go of them. Tells which kinds there are.
///
/// # Errors
/// The kernel refuses a map or a program.
pub fn trial(vip_ranges: &[IpNet]) -> Result<String, Lack> {
    load(vip_ranges).map_err(|error| {
        Lack::new(
            format!("the kernel refuses them ({error})"),
            "give this process the capabilities that are missing; where none is, report this with the kernel's release",
        )
    })
}

fn load(vip_ranges: &[IpNet]) -> Result<String> {
    let constants = Constants::new(vip_ranges, host::NOBODY)?;
    let mut loader = constants.loader();
    for name in Pins::map_names() {
        loader.map_max_entries(name, ROOM);
    }
    let mut ebpf = loader.load(object::bytes()?).map_err(|error| {
        let error = anyhow!(error);
        anyhow!("a map: {}", error.root_cause())
    })?;
    let Loaded { tc, xdp, cgroup } = object::load_programs(&mut ebpf)
        .map_err(|(name, error)| anyhow!("the program {name}: {}", reason(&error)))?;
    Ok(format!("{tc} of tc, {xdp} of XDP and {cgroup} of cgroups load"))
}

/// In one line: the verifier tells its whole way to what it does not like.
fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            last_words(&log).map_or_else(|| io_error.to_string(), str::to_owned)
        }
        other => other.to_string(),
    }
}

/// What it does not like comes last, but for statistics.
fn last_words(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed "];
    let is_told =
        |line: &&str| !line.trim().is_empty() && !STATISTICS.iter().any(|words| line.starts_with(words));
    log.lines().rev().find(is_told)
}

/// How tc programs would be attached.
///
/// # Errors
/// Not as it was asked for.
pub fn tc_way(wanted: TcAttach) -> Result<String, Lack> {
    if wanted == TcAttach::Clsact {
        return Ok(format!("by {}, as asked for", Mode::Clsact));
    }
    match (wanted, SchedClassifier::query_tcx("lo", TcAttachType::Ingress)) {
        (_, Ok(_)) => Ok(format!("by {}", Mode::Tcx)),
        (_, Err(ProgramError::SyscallError(SyscallError { io_error, .. })))
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Err(Lack::new("this process may not attach anything", "give it the capability NET_ADMIN"))
        }
        (TcAttach::Tcx, Err(error)) => Err(Lack::new(
            format!("the kernel does not take programs by tcx ({error})"),
            "leave --tc-attach out, or give it clsact",
        )),
        (_, Err(_)) => Ok(format!("by {}, for want of tcx (Linux 6.6)", Mode::Clsact)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_words_are_told_without_its_statistics() {
        let log = "27: (0f) r4 += r3\nR3 has pointer with unsupported alu operation\nverification time 1448 usec\n\
                   stack depth 0+0\nprocessed 28 insns (limit 1000000)\n";
        assert_eq!(last_words(log), Some("R3 has pointer with unsupported alu operation"));
        assert_eq!(last_words(""), None);
    }

    #[test]
    fn programs_load_and_nothing_is_left_of_them() {
        let told = trial(&["198.18.0.0/16".parse().unwrap(), "fd98::/112".parse().unwrap()]).unwrap();
        assert_eq!(told, "4 of tc, 2 of XDP and 8 of cgroups load");
    }
}
