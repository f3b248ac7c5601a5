//! Whether this node's data plane follows the federation; and while it does not yet, what the agent waits for.
//!
//! `federation-agent probe ready` asks for it. Who cannot ask finds a file in the state folder while it is so.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tracing::warn;

/// What is said of an agent that has just begun.
const BEGINNING: &str = "the agent has just begun to start";

/// Nothing when the data plane follows the federation, else a sentence that says why it does not.
pub(super) type Hindrance = Option<String>;

/// The file is absent until [`Readiness::announce`], and again once this is dropped.
#[derive(Debug)]
pub(super) struct Readiness {
    path: PathBuf,
    hindrance: watch::Sender<Hindrance>,
}

impl Readiness {
    /// Removes what a killed agent left.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub(super) fn new(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        remove(&path)?;
        Ok(Self { path, hindrance: watch::Sender::new(Some(BEGINNING.to_owned())) })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Hindrance> {
        self.hindrance.subscribe()
    }

    /// Something is missing that can come by itself. Logged once for as long as it is the same.
    pub(super) fn waits(&self, why: String) {
        if self.hindrance.borrow().as_ref() != Some(&why) {
            warn!("{why}");
            self.lacks(why);
        }
    }

    /// As [`Self::waits`], of what somebody else logs, or what is there in a moment.
    pub(super) fn lacks(&self, why: String) {
        self.hindrance.send_replace(Some(why));
    }

    /// Whether this is the first time; later ones change nothing.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub(super) fn announce(&self) -> Result<bool> {
        if self.hindrance.borrow().is_none() {
            return Ok(false);
        }
        fs::write(&self.path, "").with_context(|| format!("write {}", self.path.display()))?;
        self.hindrance.send_replace(None);
        Ok(true)
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        // The next agent removes it too: a failure here misleads nobody for long.
        let _ = remove(&self.path);
    }
}

/// The file's name in the state folder.
pub(super) const FILE: &str = "ready";

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_why_not_until_it_is_ready_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        fs::write(&file, "").unwrap();
        let readiness = Readiness::new(dir.path()).unwrap();
        assert!(!file.exists(), "a killed agent is not ready");
        let told = readiness.subscribe();
        readiness.waits("no kubeconfig".to_owned());
        assert_eq!(told.borrow().as_deref(), Some("no kubeconfig"));
        assert!(readiness.announce().unwrap());
        assert!(!readiness.announce().unwrap());
        assert!(told.borrow().is_none() && file.exists());
        drop(readiness);
        assert!(!file.exists());
    }
}
