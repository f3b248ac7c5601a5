//! One container: a process that sees what its pod template names, and nothing else.
//!
//! bubblewrap makes it, which needs no daemon: a root of its own, /proc of a PID namespace in which the process is the
//! first, no capability but those that are added, and no way to gain one. It differs from what a container runtime makes
//! in this: the image is the program with the host's libraries beside it, there is no seccomp profile and no cgroup, and
//! the folder /etc is empty.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::lab::{Namespace, program};

/// The program of the image: its entrypoint.
pub const ENTRYPOINT: &str = "/federation-agent";

/// Where the host's dynamic libraries are; absent from the real image, whose program has none.
const LIBRARIES: [&str; 3] = ["/usr/lib", "/lib", "/lib64"];

/// What is mounted at one place in a container.
#[derive(Clone, Debug)]
pub struct Bind {
    pub from: PathBuf,
    pub to: String,
    pub read_only: bool,
}

/// All that makes a container.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub user: u32,
    pub group: u32,
    /// Without their `CAP_`.
    pub capabilities: Vec<String>,
    pub read_only: bool,
    pub binds: Vec<Bind>,
    pub environment: Vec<(String, String)>,
    /// Where sysfs is mounted for the moment of its start: a folder of the lab.
    pub stage: PathBuf,
}

impl Sandbox {
    /// What starts `words` in it, in a network namespace.
    pub fn command(&self, network: &Namespace, words: &[String]) -> Result<Command> {
        // A sysfs shows the network namespace in which it was mounted.
        let mut command = network.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg("mount -t sysfs -o ro sysfs \"$1\" && shift && exec \"$@\"").arg("sh").arg(&self.stage);
        if self.user != 0 {
            let (user, group) = (self.user.to_string(), self.group.to_string());
            command.args(["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"]);
        }
        command.args(["bwrap", "--unshare-pid", "--as-pid-1", "--unshare-ipc"]);
        if self.user != 0 {
            command.arg("--unshare-user");
        }
        command.args(["--cap-drop", "ALL"]);
        for capability in &self.capabilities {
            command.args(["--cap-add", &format!("CAP_{capability}")]);
        }
        command.arg("--ro-bind").arg(program("federation-agent")?).arg(ENTRYPOINT);
        for folder in LIBRARIES.iter().filter(|folder| Path::new(folder).exists()) {
            command.args(["--ro-bind", folder, folder]);
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--ro-bind"]).arg(&self.stage).arg("/sys");
        for Bind { from, to, read_only } in &self.binds {
            command.arg(if *read_only { "--ro-bind" } else { "--bind" }).arg(from).arg(to);
        }
        if self.read_only {
            command.args(["--remount-ro", "/"]);
        }
        command.arg("--clearenv");
        for (name, value) in &self.environment {
            command.args(["--setenv", name, value]);
        }
        command.arg("--").args(words);
        Ok(command)
    }
}
