//! A file that says that this node's data plane follows the federation: what readiness probes look at.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Absent until [`ReadyFile::announce`], and again once dropped.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
    announced: bool,
}

impl ReadyFile {
    /// Removes what a killed agent left.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub(super) fn new(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("ready");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(Self { path, announced: false }),
        }
    }

    /// Whether this is the first time; later ones change nothing.
    ///
    /// # Errors
    /// The state folder cannot be written.
    pub(super) fn announce(&mut self) -> Result<bool> {
        if !self.announced {
            fs::write(&self.path, "").with_context(|| format!("write {}", self.path.display()))?;
        }
        Ok(!std::mem::replace(&mut self.announced, true))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // The next agent removes it too: a failure here misleads nobody for long.
        let _ = fs::remove_file(&self.path);
    }
}
