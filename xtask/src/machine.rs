//! What this machine is and has.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The oldest kernel that the agent's programs can be loaded into: Debian 12's own.
const OLDEST_KERNEL: (u32, u32) = (6, 1);
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The tools that setup has installed for this project alone.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// Adds what a root shell may lack (`su` without `-` leaves out the system's folders) and the project's own tools.
pub fn complete_path() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = env::split_paths(&path).chain(system).chain([tools().join("bin")]);
    let path = env::join_paths(folders).context("extend PATH")?;
    // SAFETY: this is the first thing that the program does, on its only thread.
    unsafe { env::set_var("PATH", path) };
    Ok(())
}

/// Whether a program of this name can be started.
pub fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| {
        let file = fs::metadata(folder.join(program));
        file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// # Errors
/// The kernel cannot run the agent: in one sentence, why and what to do.
pub fn check_kernel() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    check_release(release.trim())?;
    ensure!(
        Path::new(BTF).exists(),
        "the kernel does not describe its types ({BTF} is missing): \
         boot one that was built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are"
    );
    Ok(())
}

fn check_release(release: &str) -> Result<()> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("{release:?} is not a kernel release that can be understood");
    };
    let (oldest_major, oldest_minor) = OLDEST_KERNEL;
    ensure!(
        (major, minor) >= OLDEST_KERNEL,
        "the kernel is {release}, but the eBPF programs take {oldest_major}.{oldest_minor} or later: \
         on Debian 11, upgrade to Debian 12 or install linux-image-amd64 from bullseye-backports, and reboot"
    );
    Ok(())
}

/// The first line that a command prints, if it succeeds.
pub fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_are_too_old_are_refused_with_what_to_do() {
        for (release, accepted) in [
            ("5.10.0-28-amd64", false),
            ("5.15.167", false),
            ("6.0.19", false),
            ("6.1", true),
            ("6.1.0-18-amd64", true),
            ("6.12.9+bpo-amd64", true),
            ("7.0.0-rc1", true),
            ("", false),
            ("custom", false),
        ] {
            assert_eq!(check_release(release).is_ok(), accepted, "{release:?}");
        }
        let refusal = check_release("5.10.0-28-amd64").expect_err("it is too old").to_string();
        assert!(
            refusal.contains("5.10.0-28-amd64") && refusal.contains("6.1") && refusal.contains("backports")
        );
    }
}
