//! What a node must offer before a program can be loaded, each in a sentence when it is missing.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::{
        statfs::{BPF_FS_MAGIC, statfs},
        utsname::uname,
    },
    unistd::Uid,
};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Older ones lack helpers that the programs use, as those that read and write the bytes of an XDP packet (5.18). This one
/// is Debian 12's own.
const OLDEST: (u32, u32) = (6, 1);

/// # Errors
/// What is missing and what to do about it.
pub fn check_kernel(bpf_dir: &Path) -> Result<()> {
    ensure!(Uid::effective().is_root(), "loading eBPF programs takes root: run the agent as root");
    let release = uname().context("ask for the kernel's release")?.release().to_string_lossy().into_owned();
    ensure!(
        version(&release) >= Some(OLDEST),
        "the kernel is {release}, but the eBPF programs take {}.{} or later: upgrade the kernel",
        OLDEST.0,
        OLDEST.1
    );
    ensure!(
        Path::new(BTF).exists(),
        "the kernel does not describe its types: {BTF} is missing; use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    );
    on_bpffs(bpf_dir)
}

/// The nearest parent that exists must be a BPF file system.
fn on_bpffs(bpf_dir: &Path) -> Result<()> {
    let Some(existing) = bpf_dir.ancestors().find(|dir| dir.exists()) else {
        bail!("{} is not an absolute path: give --bpf-dir a folder below /sys/fs/bpf", bpf_dir.display());
    };
    let kind = statfs(existing).with_context(|| format!("look at {}", existing.display()))?.filesystem_type();
    ensure!(
        kind == BPF_FS_MAGIC,
        "{} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`), or give --bpf-dir a folder on one",
        bpf_dir.display()
    );
    Ok(())
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
        assert!(version("5.10.0") < Some(OLDEST));
        assert!(None < Some(OLDEST));
    }

    #[test]
    fn a_folder_elsewhere_is_no_bpffs() {
        let refusal = on_bpffs(Path::new("/tmp/federation")).unwrap_err().to_string();
        assert!(refusal.contains("mount -t bpf"), "{refusal}");
    }
}
