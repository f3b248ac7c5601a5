//! Our own programs: building them, starting them, and removing the labs that they left.

use std::{env, fs, io::ErrorKind, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::machine;

/// Where labs have their folders.
const LABS: &str = "/run/federation-lab";

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(machine::workspace());
    command
}

/// Runs a command with its output where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    let shown = || {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        format!("{} {}", command.get_program().display(), arguments.join(" "))
    };
    ensure!(status.success(), "`{}` failed ({status})", shown());
    Ok(())
}

/// Builds every program of the workspace.
pub fn build() -> Result<()> {
    run(cargo().args(["build", "--workspace", "--bins"]))
}

/// One of our programs, built before.
pub fn ours(name: &str) -> Command {
    Command::new(machine::target().join("debug").join(name))
}

/// Lets a command find the programs of one more folder.
pub fn add_to_path(command: &mut Command, folder: PathBuf) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(env::split_paths(&path).chain([folder])).context("extend PATH")?;
    command.env("PATH", path);
    Ok(())
}

/// Turns into `command`: it gets our terminal and our Ctrl-C.
pub fn become_program(mut command: Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("start {}", command.get_program().display()))
}

/// Removes every lab that nobody owns.
pub fn down() -> Result<()> {
    let labs = match fs::read_dir(LABS) {
        Ok(labs) => labs.count(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error).context(LABS),
    };
    if labs == 0 {
        println!("there is no lab to remove");
        return Ok(());
    }
    ensure!(machine::is_root(), "removing labs takes root: run it as root, or with sudo");
    // The one that is there will do: it must not take a build that works to clean up.
    let lab = machine::target().join("debug/lab");
    if !lab.is_file() {
        run(cargo().args(["build", "--package", "federation-tests", "--bin", "lab"]))?;
    }
    run(ours("lab").arg("down"))
}
