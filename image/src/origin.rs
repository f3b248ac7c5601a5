//! What an image is made from: a version, a commit, and the one point in time that everything in it bears.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

/// Others who build reproducibly set this, in seconds since 1970 (reproducible-builds.org).
const EPOCH: &str = "SOURCE_DATE_EPOCH";

#[derive(Clone, Debug)]
pub struct Origin {
    pub version: String,
    /// The commit; with a mark where files differ from it.
    pub revision: String,
    /// Seconds since 1970: `SOURCE_DATE_EPOCH`, or else when the commit was made.
    pub epoch: u64,
    /// The same as RFC 3339 writes it.
    pub created: String,
}

impl Origin {
    /// Of the sources in this folder, a clone of the repository.
    pub fn of(root: &Path) -> Result<Self> {
        let commit = git(root, &["rev-parse", "HEAD"])?;
        let revision = if is_clean(root)? { commit } else { format!("{commit}-changed") };
        let seconds = match env::var(EPOCH) {
            Ok(seconds) => seconds,
            Err(_) => git(root, &["log", "-1", "--format=%ct"])?,
        };
        let epoch = seconds
            .parse()
            .with_context(|| format!("{EPOCH} is {seconds:?}, which is no number of seconds since 1970"))?;
        let created =
            ask(Command::new("date").args(["--utc", "+%FT%TZ", "--date"]).arg(format!("@{epoch}")))?;
        Ok(Self { version: env!("CARGO_PKG_VERSION").to_owned(), revision, epoch, created })
    }
}

/// Whether the files are those of the commit.
pub fn is_clean(root: &Path) -> Result<bool> {
    Ok(git(root, &["status", "--porcelain"])?.is_empty())
}

/// Runs git, and gives what it says.
pub fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    ask(Command::new("git").arg("-C").arg(root).args(arguments))
        .context("an image is made from a commit, and git does not tell of one")
}

/// Runs a program to its end, and gives what it says.
pub fn ask(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout).context("read what it says")?.trim().to_owned())
}
