//! What builds the eBPF programs: a compiler with the source of `core`, and bpf-linker with its LLVM.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::machine;

/// The newest version that loads LLVM at run time; later ones want to be built against one that Debian lacks.
pub const LINKER: &str = "0.10.3";

/// The LLVM that this version was made for. It reads what compilers with an older LLVM write, but no newer.
const LLVM: u32 = 22;
const LIBRARY: &str = "libLLVM.so.22.1";

/// The oldest compiler that the workspace builds with (`rust-version` in Cargo.toml).
const OLDEST_MINOR: u32 = 95;

/// The project's own installation root of the linker.
pub fn folder() -> PathBuf {
    machine::target().join("bpf-tools")
}

pub fn has_linker() -> bool {
    let linker = folder().join("bin/bpf-linker");
    let listed = folder().join(".crates.toml");
    // Asking the linker itself would need its library; cargo has written down which version it installed.
    linker.is_file()
        && std::fs::read_to_string(listed).is_ok_and(|list| list.contains(&format!("\"bpf-linker {LINKER} ")))
}

/// Debian's LLVM.
pub fn library() -> PathBuf {
    PathBuf::from(format!("/usr/lib/{}-linux-gnu/{LIBRARY}", std::env::consts::ARCH))
}

/// Where the linker finds it.
pub fn library_link() -> PathBuf {
    folder().join("lib").join(LIBRARY)
}

/// Whether a compiler here can build `core` for a target that has none: a rustup nightly, or the distribution's.
pub fn can_build_core() -> bool {
    usable("rustup", &["run", "nightly", "rustc"]) || usable("/usr/bin/rustc", &[])
}

fn usable(program: &str, arguments: &[&str]) -> bool {
    let ask = |question: &[&str]| {
        let output = Command::new(program).args(arguments).args(question).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(sysroot) = ask(&["--print", "sysroot"]) else { return false };
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
    source.is_file() && ask(&["--version", "--verbose"]).is_some_and(|version| is_right(&version))
}

/// Reads what `rustc --version --verbose` prints.
fn is_right(version: &str) -> bool {
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let minor = field("release").and_then(|release| release.split('.').nth(1)?.parse::<u32>().ok());
    let llvm = field("LLVM version").and_then(|llvm| llvm.split('.').next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= OLDEST_MINOR) && llvm.is_some_and(|llvm| llvm <= LLVM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_that_are_too_old_or_whose_llvm_is_too_new_are_passed_over() {
        for (release, llvm, right) in [
            ("1.96.0", "22.1.8", true),
            ("1.97.0-nightly", "22.1.2", true),
            ("1.95.0", "21.1.8", true),
            ("1.63.0", "14.0.6", false),
            ("1.85.0", "19.1.7", false),
            ("1.99.0-nightly", "23.1.0", false),
        ] {
            let version = format!(
                "rustc {release} (0 2026-01-01)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                 release: {release}\nLLVM version: {llvm}\n"
            );
            assert_eq!(is_right(&version), right, "{release} with LLVM {llvm}");
        }
        assert!(!is_right(""));
    }
}
