//! One agent a node: a lock on the state folder, held for as long as the process lives.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The file's name in the state folder.
pub(super) const FILE: &str = "node.lock";

/// Held until dropped; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub(super) struct NodeLock {
    _file: Flock<File>,
}

impl NodeLock {
    /// # Errors
    /// Another agent holds the folder, or the folder cannot be written.
    pub(super) fn take(state_dir: &Path) -> Result<Self> {
        fs::create_dir_all(state_dir)
            .with_context(|| format!("create the state folder {}", state_dir.display()))?;
        let path = state_dir.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).with_context(|| format!("read {}", path.display()))?;
                bail!(
                    "another agent (process {}) runs on this node and holds {}: stop it first, or give this one \
                     another --state-dir and --bpf-dir",
                    holder.trim(),
                    path.display()
                );
            }
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        };
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// The id of the process that holds the folder, if one does.
///
/// # Errors
/// The lock cannot be looked at.
pub(super) fn holder(state_dir: &Path) -> Result<Option<String>> {
    let path = state_dir.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("open {}", path.display()))?,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).with_context(|| format!("read {}", path.display()))?;
            Ok(Some(holder.trim().to_owned()))
        }
        Err((_, error)) => Err(error).with_context(|| format!("look at the lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeLock::take(dir.path()).unwrap();
        let refusal = NodeLock::take(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        assert_eq!(holder(dir.path()).unwrap(), Some(std::process::id().to_string()));
        drop(first);
        assert_eq!(holder(dir.path()).unwrap(), None);
        NodeLock::take(dir.path()).unwrap();
    }
}
