//! The program of the image: linked statically, and the same wherever its sources lie.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use object::{
    Endianness,
    elf::{self, FileHeader64},
    read::elf::{FileHeader as _, ProgramHeader as _},
};

use crate::root::PROGRAM;

/// Named although it is the machine's own: flags for a named target do not reach build scripts and procedural macros,
/// which cannot be static.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "shipped";

/// Stands between cargo and every compiler, the one for the kernel's programs included, which no flag reaches from here.
/// Of two prefixes that fit a path, the compiler takes the later.
const WRAPPER: &str = "#!/bin/sh
exec \"$@\" \\
  --remap-path-prefix=\"$FEDERATION_IMAGE_CARGO=/cargo\" \\
  --remap-path-prefix=\"$FEDERATION_IMAGE_SOURCES=/federation\" \\
  --remap-path-prefix=\"$FEDERATION_IMAGE_TARGET=/federation/target\"
";

/// A clone of the repository, and the folder that cargo builds it in.
pub struct Sources {
    pub root: PathBuf,
    pub target: PathBuf,
}

/// A cargo for these sources.
pub fn cargo(sources: &Sources) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&sources.root).env("CARGO_TARGET_DIR", &sources.target);
    command
}

/// Builds the program and reads it.
pub fn build(sources: &Sources) -> Result<Vec<u8>> {
    fs::create_dir_all(&sources.target).with_context(|| format!("create {}", sources.target.display()))?;
    let wrapper = sources.target.join("image-rustc");
    fs::write(&wrapper, WRAPPER).with_context(|| format!("write {}", wrapper.display()))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    let mut cargo = cargo(sources);
    cargo.args(["build", "--locked", "--package", PROGRAM, "--bin", PROGRAM]);
    cargo.args(["--target", TARGET, "--profile", PROFILE]);
    cargo.env("RUSTC_WRAPPER", &wrapper);
    // In this form they stand above all others that a person may have set.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-C\u{1f}target-feature=+crt-static");
    cargo.env("FEDERATION_IMAGE_CARGO", cargo_home()?);
    cargo.env("FEDERATION_IMAGE_SOURCES", &sources.root);
    cargo.env("FEDERATION_IMAGE_TARGET", &sources.target);
    let status = cargo.status().context("start cargo")?;
    ensure!(status.success(), "the static program cannot be built in {} ({status})", sources.root.display());
    let path = sources.target.join(TARGET).join(PROFILE).join(PROGRAM);
    let program = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    check_static(&program).with_context(|| format!("{} cannot run in an empty image", path.display()))?;
    Ok(program)
}

/// # Errors
/// The program wants a loader: there is none in an image that has nothing else.
fn check_static(program: &[u8]) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(program).context("it is no 64-bit ELF file")?;
    let endian = header.endian().context("read its header")?;
    let segments = header.program_headers(endian, program).context("read its segments")?;
    let wants_loader = segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP);
    ensure!(!wants_loader, "it is linked dynamically");
    Ok(())
}

/// Where cargo keeps the sources of crates.
fn cargo_home() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME says where cargo keeps the sources of crates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_wants_a_loader_is_refused() {
        let own = fs::read("/proc/self/exe").expect("this program");
        let refusal = check_static(&own).expect_err("tests are linked dynamically");
        assert_eq!(refusal.to_string(), "it is linked dynamically");
        assert!(check_static(b"#!/bin/sh").is_err());
    }
}
