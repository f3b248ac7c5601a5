//! Builds the eBPF programs into the agent, with whichever compiler here has what that takes.
//!
//! A target without a standard library needs the source of `core`: a rustup nightly with `rust-src` has it, and so has
//! the distribution's compiler on Debian (`rust-web-src`). `cargo xtask setup` provides for either.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya_build::{Package, Toolchain};
use cargo_metadata::MetadataCommand;

const PROGRAMS: &str = "federation-ebpf";
/// What the benchmark holds the programs against; nothing of it is in the agent.
const YARDSTICK: &str = "federation-ebpf-yardstick";
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// The LLVM of the linker that setup installs: it reads what compilers with an older one write, but no newer.
const LLVM: u32 = 22;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
    let out = env::var_os("OUT_DIR").map(PathBuf::from).context("OUT_DIR is not set")?;
    // Read by the build script of the tests, which hold the benchmark.
    println!("cargo::metadata=yardstick={}", out.join(YARDSTICK).display());
    if env::var_os("AYA_BUILD_SKIP").is_some_and(|skip| skip == "1" || skip.eq_ignore_ascii_case("true")) {
        // Enough for lints and tests that never load a program.
        for object in [PROGRAMS, YARDSTICK] {
            fs::write(out.join(object), []).context("write an empty eBPF object")?;
        }
        return Ok(());
    }
    let metadata = MetadataCommand::new().no_deps().exec().context("read the workspace")?;
    let package = metadata.packages.iter().find(|package| package.name.as_str() == PROGRAMS);
    let package = package.with_context(|| format!("the workspace has no package {PROGRAMS}"))?;
    let root = package.manifest_path.parent().context("a manifest without a folder")?;
    add_linker_to_path(metadata.target_directory.as_std_path())?;
    let toolchain = choose_compiler()?;
    aya_build::build_ebpf(
        [Package { name: PROGRAMS, root_dir: root.as_str(), ..Package::default() }],
        toolchain.as_deref().map_or(Toolchain::Nightly, Toolchain::Custom),
    )
}

/// Prefers the linker that setup has put into the project's own target folder.
fn add_linker_to_path(target: &Path) -> Result<()> {
    let ours = target.join("bpf-tools/bin");
    println!("cargo::rerun-if-changed={}", ours.join("bpf-linker").display());
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = [ours].into_iter().chain(env::split_paths(&path)).collect();
    if !dirs.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        bail!("bpf-linker, which links the eBPF programs, is not installed: run `cargo xtask setup`");
    }
    let path = env::join_paths(dirs).context("extend PATH")?;
    // SAFETY: a build script has one thread at this point.
    unsafe { env::set_var("PATH", path) };
    Ok(())
}

/// Sets what the nested build needs; the name of the rustup toolchain to run it with, where it is not the nightly.
fn choose_compiler() -> Result<Option<String>> {
    if is_usable("rustup", &["run", "nightly", "rustc"]) {
        return Ok(None);
    }
    if !is_usable(DISTRIBUTION_RUSTC, &[]) {
        return Err(anyhow!(
            "the eBPF programs need a compiler with the source of `core`, and there is none: run `cargo xtask setup`"
        ));
    }
    // SAFETY: a build script has one thread at this point.
    unsafe {
        // aya-build removes RUSTC from the nested build's environment, but not this.
        env::set_var("CARGO_BUILD_RUSTC", DISTRIBUTION_RUSTC);
        // Building `core` is an unstable feature of cargo, which only a nightly would offer otherwise.
        env::set_var("RUSTC_BOOTSTRAP", "1");
    }
    // Without rustup nobody asks for a toolchain by name.
    Ok(Some(env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned())))
}

/// Whether that compiler has the standard library's source, and writes what the linker can read.
fn is_usable(program: &str, args: &[&str]) -> bool {
    let ask = |question: &[&str]| {
        let output = Command::new(program).args(args).args(question).output().ok()?;
        let answer = String::from_utf8(output.stdout).ok()?;
        output.status.success().then_some(answer)
    };
    let source = ask(&["--print", "sysroot"])
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").is_file());
    source
        && ask(&["--version", "--verbose"])
            .and_then(|version| llvm(&version))
            .is_some_and(|llvm| llvm <= LLVM)
}

/// The LLVM that a compiler names in its long version.
fn llvm(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}
