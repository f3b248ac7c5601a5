//! Cgroups of hosts, by which the kernel tells whose sockets a program is asked for. Machines of a lab share one tree.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use federation_agent::dataplane::cgroup2;

const MEMBERS: &str = "cgroup.procs";

/// The root of cgroup v2 on this machine.
pub(super) fn root() -> Result<PathBuf> {
    cgroup2(None).map_err(|lack| anyhow!("{lack}"))
}

/// Makes one right below the root, if it is not there.
pub(super) fn make(name: &str) -> Result<PathBuf> {
    let path = root()?.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path.clone()),
    }
    .with_context(|| format!("create the cgroup {}", path.display()))
}

/// Moves a process.
pub(super) fn put(process: &str, cgroup: &Path) -> Result<()> {
    let members = cgroup.join(MEMBERS);
    fs::write(&members, process).with_context(|| format!("write {process} into {}", members.display()))
}

/// Removes one; who is still in it goes to the root.
pub(super) fn remove(path: &Path) -> Result<()> {
    let members = path.join(MEMBERS);
    let root = root()?;
    for process in fs::read_to_string(&members).with_context(|| members.display().to_string())?.lines() {
        put(process, &root)?;
    }
    fs::remove_dir(path).with_context(|| format!("remove the cgroup {}", path.display()))
}
