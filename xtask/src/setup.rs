//! Setup: finds out what is missing, says what it will install and why, and installs it.
//!
//! Nothing is done twice: what is there is used, wherever it came from. The project's own tools go to its target folder.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{machine, programs::cargo, step, toolchain, validator};

/// How much is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To build and to run a lab.
    Run,
    /// To check and test as well.
    Test,
}

/// Something that the machine lacks.
struct Missing {
    what: String,
    why: &'static str,
    how: How,
}

enum How {
    Packages(&'static [&'static str]),
    Linker,
    LinkerLibrary,
    Nextest,
    Components,
    Validator,
    BpfFilesystem,
    /// At this place.
    Cgroup(&'static str),
}

/// Debian packages, by the program that shows whether they are needed.
const PROGRAMS: [(&str, &[&str], &str); 14] = [
    ("cc", &["gcc", "libc6-dev"], "Rust links with it"),
    ("ip", &["iproute2"], "makes the lab's network namespaces"),
    ("ethtool", &["ethtool"], "sets up the lab's links"),
    ("bpftool", &["bpftool"], "shows what the kernel holds"),
    ("dig", &["bind9-dnsutils"], "asks the federation's DNS"),
    ("dnsperf", &["dnsperf"], "measures the federation's DNS"),
    ("nsd", &["nsd"], "copies zones of it, and is what the benchmark compares it with"),
    ("unbound", &["unbound"], "resolves as a cluster's DNS would"),
    ("dnsmasq", &["dnsmasq-base"], "forwards to the federation's DNS"),
    ("musl-gcc", &["musl-tools"], "links a resolver that is not glibc's"),
    ("nft", &["nftables"], "is what the benchmark compares with"),
    ("curl", &["curl"], "asks the demo's service as a client would"),
    ("bwrap", &["bubblewrap"], "runs containers as manifests describe them"),
    ("kubectl", &["kubernetes-client"], "talks to the Federation API"),
];

/// What only tests start.
const TEST_PROGRAMS: [(&str, &[&str], &str); 2] = [
    ("skopeo", &["skopeo"], "reads the container image as registries do"),
    ("umoci", &["umoci"], "unpacks the container image"),
];

/// Of these packages the programs are wanted: Debian would start them as services of the machine.
const SERVICES: [&str; 2] = ["nsd", "unbound"];

/// Who wants no service to be started says so by this file while packages are installed (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

const BPF_FILESYSTEM: &str = "/sys/fs/bpf";
/// Where systems have cgroup v2, without v1 and beside it.
const CGROUP: &str = "/sys/fs/cgroup";
const CGROUP_BESIDE_V1: &str = "/sys/fs/cgroup/unified";
const NEXTEST: &str = "0.9.151";

/// The command: as [`run`] for everything, with a word at the end in any case.
pub fn all() -> Result<()> {
    run(Scope::Test)?;
    println!("everything is set up");
    Ok(())
}

/// Installs what is missing; says nothing when that is nothing.
pub fn run(scope: Scope) -> Result<()> {
    ensure!(
        machine::is_root(),
        "this takes root, for network namespaces and eBPF: run it as root, or with `sudo -E env PATH=$PATH`"
    );
    machine::check_kernel()?;
    let missing = find_missing(scope)?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup will install:");
    for Missing { what, why, .. } in &missing {
        println!("  {what}: {why}");
    }
    install(&missing)?;
    let still = find_missing(scope)?;
    let names: Vec<_> = still.iter().map(|missing| missing.what.as_str()).collect();
    ensure!(still.is_empty(), "setup has run, but this is still missing or too old: {}", names.join("; "));
    Ok(())
}

fn find_missing(scope: Scope) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    let test_programs = if scope >= Scope::Test { TEST_PROGRAMS.as_slice() } else { &[] };
    for (program, packages, why) in PROGRAMS.iter().chain(test_programs) {
        if !machine::has(program) {
            missing.push(from_debian(packages, why));
        }
    }
    if !toolchain::can_build_core() {
        let why = "the eBPF programs need a compiler with the source of `core`, and rustup has none here";
        missing.push(from_debian(&["rustc-web", "rust-web-src"], why));
    }
    if !toolchain::library().exists() {
        missing.push(from_debian(&["libllvm22"], "bpf-linker works with it"));
    }
    if !toolchain::has_linker() {
        let what = format!(
            "bpf-linker {} (from cargo's registry, into {})",
            toolchain::LINKER,
            toolchain::folder().display()
        );
        let why = "links the eBPF programs; this takes two minutes or so";
        missing.push(Missing { what, why, how: How::Linker });
    }
    if fs::read_link(toolchain::library_link()).ok() != Some(toolchain::library()) {
        let what = format!("a link to libLLVM in {}", toolchain::folder().display());
        missing.push(Missing { what, why: "bpf-linker looks for it there", how: How::LinkerLibrary });
    }
    if scope >= Scope::Test {
        if !machine::has("cargo-nextest") {
            let what = format!(
                "cargo-nextest {NEXTEST} (from cargo's registry, into {})",
                machine::tools().display()
            );
            let why = "runs each test in a process of its own; this takes some minutes";
            missing.push(Missing { what, why, how: How::Nextest });
        }
        if !validator::can_be_made() {
            missing.push(from_debian(&["python3-venv"], "checks of manifests are written in Python"));
        }
        if !validator::is_there() {
            let what = format!(
                "{} (from Python's registry, into {})",
                validator::wanted().join(" "),
                validator::folder().display()
            );
            missing.push(Missing { what, why: "check the manifests", how: How::Validator });
        }
        if !["fmt", "clippy"].iter().all(|tool| machine::ask("cargo", &[tool, "--version"]).is_some()) {
            let what = "rustfmt and clippy (from rustup)".to_owned();
            missing.push(Missing { what, why: "check the code", how: How::Components });
        }
    }
    let mounts = fs::read_to_string("/proc/mounts").context("read what is mounted")?;
    let mounted = |line: &str| line.split(' ').skip(1).take(2).eq([BPF_FILESYSTEM, "bpf"]);
    if !mounts.lines().any(mounted) {
        let what = format!("the BPF file system (a mount at {BPF_FILESYSTEM})");
        missing.push(Missing { what, why: "programs and maps are pinned there", how: How::BpfFilesystem });
    }
    let has_cgroup = |line: &str| {
        let (mut words, known) = (line.split(' ').skip(1), [CGROUP, CGROUP_BESIDE_V1]);
        words.next().is_some_and(|place| known.contains(&place)) && words.next() == Some("cgroup2")
    };
    if !mounts.lines().any(has_cgroup) {
        let is_taken = mounts.lines().any(|line| line.split(' ').nth(1) == Some(CGROUP));
        let place = if is_taken { CGROUP_BESIDE_V1 } else { CGROUP };
        let what = format!("cgroup v2 (a mount at {place})");
        missing.push(Missing {
            what,
            why: "sockets of nodes are told from others by it",
            how: How::Cgroup(place),
        });
    }
    Ok(missing)
}

fn from_debian(packages: &'static [&'static str], why: &'static str) -> Missing {
    Missing { what: format!("{} (from Debian)", packages.join(" ")), why, how: How::Packages(packages) }
}

fn install(missing: &[Missing]) -> Result<()> {
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|missing| if let How::Packages(packages) = missing.how { packages } else { &[] })
        .copied()
        .collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    for Missing { how, .. } in missing {
        match how {
            How::Packages(_) => {}
            How::Linker => {
                let version = ["--version", toolchain::LINKER];
                install_crate("bpf-linker", &version, &toolchain::folder())?;
            }
            How::LinkerLibrary => link_library()?,
            How::Nextest => {
                // Without what updates itself: that would want a TLS library, and setup decides the version.
                let options =
                    ["--version", NEXTEST, "--no-default-features", "--features", "default-no-update"];
                install_crate("cargo-nextest", &options, &machine::tools())?;
            }
            How::Components => step::run(
                "rustup component add rustfmt clippy",
                Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
                "rustfmt and clippy could not be added: add them to your Rust toolchain",
            )?,
            How::Validator => validator::install()?,
            How::BpfFilesystem => step::run(
                "mount the BPF file system",
                Command::new("mount").args(["-t", "bpf", "bpf", BPF_FILESYSTEM]),
                "the BPF file system cannot be mounted: in a container, run it privileged",
            )?,
            How::Cgroup(place) => {
                fs::create_dir_all(place).with_context(|| format!("create {place}"))?;
                step::run(
                    "mount cgroup v2",
                    Command::new("mount").args(["-t", "cgroup2", "none", place]),
                    "cgroup v2 cannot be mounted: in a container, run it privileged",
                )?;
            }
        }
    }
    Ok(())
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if !machine::has("apt-get") {
        bail!(
            "this is no Debian: install what Debian calls {} with your own package manager",
            packages.join(", ")
        );
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["-o", "DPkg::Lock::Timeout=120"]);
        command
    };
    step::run(
        "apt-get update",
        apt().arg("update"),
        "Debian's package lists cannot be fetched: see that a mirror is reachable",
    )?;
    let install = || {
        step::run(
            "apt-get install",
            // What others have installed stays, whatever conflicts with it.
            apt().args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages),
            "Debian's packages cannot be installed: see that the mirror has bookworm and bookworm-security, \
             and that nothing installed conflicts with them",
        )
    };
    without_services(packages, install)
}

/// Installs packages whose services shall not run, now or when the machine starts the next time.
fn without_services(packages: &[&str], install: impl FnOnce() -> Result<()>) -> Result<()> {
    let services: Vec<_> = SERVICES.iter().filter(|service| packages.contains(service)).collect();
    // A machine that has such a file has its own mind about this.
    if services.is_empty() || Path::new(POLICY).exists() {
        return install();
    }
    fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
    let executable = fs::Permissions::from_mode(0o755);
    let outcome =
        fs::set_permissions(POLICY, executable).context("make it executable").and_then(|()| install());
    fs::remove_file(POLICY).with_context(|| format!("remove {POLICY}"))?;
    outcome?;
    if Path::new("/run/systemd/system").is_dir() {
        step::run(
            "systemctl disable",
            Command::new("systemctl").arg("disable").args(services),
            "services that came with packages cannot be disabled: disable nsd and unbound yourself",
        )?;
    }
    Ok(())
}

fn install_crate(name: &str, options: &[&str], root: &Path) -> Result<()> {
    step::run(
        &format!("cargo install {name}"),
        cargo().args(["install", name, "--locked", "--force"]).args(options).arg("--root").arg(root),
        &format!("{name} could not be installed: see that cargo's registry is reachable"),
    )
}

/// The linker loads LLVM from the `lib` beside its own `bin`.
fn link_library() -> Result<()> {
    let (library, link): (PathBuf, PathBuf) = (toolchain::library(), toolchain::library_link());
    let folder = link.parent().context("the link has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    // A link to where the library was once; absent on a new machine.
    let _ = fs::remove_file(&link);
    symlink(&library, &link).with_context(|| format!("link {} to {}", link.display(), library.display()))
}
