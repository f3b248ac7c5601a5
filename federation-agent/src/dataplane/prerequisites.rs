//! What a node must offer before a program can be loaded, each in a sentence when it is missing.

use std::path::Path;

use anyhow::{Result, ensure};
use nix::{
    sys::{
        statfs::{BPF_FS_MAGIC, statfs},
        utsname::uname,
    },
    unistd::Uid,
};
use thiserror::Error;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Older ones lack helpers that the programs use, as those that read and write the bytes of an XDP packet (5.18). This one
/// is Debian 12's own.
const OLDEST: (u32, u32) = (6, 1);

/// What a node has not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{found}: {remedy}")]
pub struct Lack {
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

impl Lack {
    pub(super) fn new(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { found: found.into(), remedy: remedy.into() }
    }
}

/// # Errors
/// What is missing and what to do about it.
pub fn check_kernel(bpf_dir: &Path) -> Result<()> {
    ensure!(Uid::effective().is_root(), "loading eBPF programs takes root: run the agent as root");
    kernel_release()?;
    btf()?;
    bpffs(bpf_dir)?;
    Ok(())
}

/// The release of a kernel that is new enough.
///
/// # Errors
/// It is not.
pub fn kernel_release() -> Result<String, Lack> {
    let release = uname().map_err(|error| {
        Lack::new(format!("the kernel does not tell its release ({error})"), "run a Linux that does")
    })?;
    new_enough(&release.release().to_string_lossy())
}

fn new_enough(release: &str) -> Result<String, Lack> {
    if version(release) >= Some(OLDEST) {
        return Ok(release.to_owned());
    }
    let (major, minor) = OLDEST;
    let found = format!("the kernel is {release}, but the eBPF programs take {major}.{minor} or later");
    Err(Lack::new(found, "upgrade the kernel"))
}

/// Where the kernel describes its types.
///
/// # Errors
/// It does not.
pub fn btf() -> Result<String, Lack> {
    if Path::new(BTF).exists() {
        return Ok(BTF.to_owned());
    }
    Err(Lack::new(
        format!("the kernel does not describe its types, {BTF} is missing"),
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    ))
}

/// The nearest parent that exists must be a BPF file system.
///
/// # Errors
/// It is not.
pub fn bpffs(bpf_dir: &Path) -> Result<String, Lack> {
    let shown = bpf_dir.display();
    let Some(existing) = bpf_dir.ancestors().find(|dir| dir.exists()) else {
        return Err(Lack::new(
            format!("{shown} is not an absolute path"),
            "give --bpf-dir a folder below /sys/fs/bpf",
        ));
    };
    let kind = statfs(existing).map(|found| found.filesystem_type());
    if kind.is_ok_and(|kind| kind == BPF_FS_MAGIC) {
        return Ok(format!("{} is one", existing.display()));
    }
    Err(Lack::new(
        format!("{shown} is not on a BPF file system"),
        "mount one (`mount -t bpf bpf /sys/fs/bpf`), or give --bpf-dir a folder on one",
    ))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        for (release, expected) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.6.0", Some((6, 6))),
            ("5.10.0-28-amd64", Some((5, 10))),
            ("7.1-rc4", Some((7, 1))),
            ("unknown", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        assert!(new_enough("6.1.0-13-amd64").is_ok());
        for release in ["5.10.0", "unknown"] {
            let lack = new_enough(release).unwrap_err().to_string();
            assert!(lack.contains(release) && lack.contains("upgrade the kernel"), "{lack}");
        }
    }

    #[test]
    fn a_folder_elsewhere_is_no_bpffs() {
        let refusal = bpffs(Path::new("/tmp/federation")).unwrap_err().to_string();
        assert!(refusal.contains("mount -t bpf"), "{refusal}");
    }
}
