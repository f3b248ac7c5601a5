//! Whether programs really load, and how tc programs would be attached: asked of the kernel, with nothing left of it.

use std::io;

use anyhow::{Result, anyhow};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramError, SchedClassifier, TcAttachType},
    sys::SyscallError,
};
use ipnet::IpNet;

use super::{
    OBJECT,
    attach::{Mode, TcAttach},
    jiffies,
    pins::Pins,
    prerequisites::Lack,
    ranges,
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
    let (v4, v6) = ranges(vip_ranges)?;
    let jiffies = jiffies()?;
    let mut loader = EbpfLoader::new();
    loader.override_global("VIP_V4", &v4, true).override_global("VIP_V6", &v6, true);
    loader.override_global("JIFFIES", &jiffies, true);
    for name in Pins::map_names() {
        loader.map_max_entries(name, ROOM);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| {
        let error = anyhow!(error);
        anyhow!("a map: {}", error.root_cause())
    })?;
    let (mut tc, mut xdp) = (0, 0);
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load().map(|()| tc += 1),
            Program::Xdp(program) => program.load().map(|()| xdp += 1),
            _ => continue,
        }
        .map_err(|error| anyhow!("the program {name}: {}", reason(&error)))?;
    }
    Ok(format!("{tc} of tc and {xdp} of XDP load"))
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
        assert_eq!(told, "3 of tc and 1 of XDP load");
    }
}
