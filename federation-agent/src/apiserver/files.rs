//! Files with secrets: readable by their owner alone from the first byte, and whole or absent.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What is in the file; where there is none it is made with `content`.
pub fn read_or_create(path: &Path, content: impl FnOnce() -> Result<String>) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let content = content().with_context(|| format!("make the content of {}", path.display()))?;
            write(path, &content)?;
            Ok(content)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Makes a directory that nobody else can look into; one that exists stays as it is.
pub fn create_private_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("make the directory {}", path.display()))
}

/// Puts `content` at `path` in one step, with mode 0600.
pub fn write(path: &Path, content: &str) -> Result<()> {
    let failed = || format!("write {}", path.display());
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    let partial = partial(path);
    // One left by a crash may have another mode.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(failed),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).with_context(failed)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
    fs::rename(&partial, path).with_context(failed)
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}
