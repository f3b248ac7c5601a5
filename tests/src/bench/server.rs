//! The agent's servers, each a process of its own on this machine, and API servers on the loopback interface in particular.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use federation_agent::client::from_kubeconfig;
use kube::Client;

use crate::lab::program;

/// One role of the agent; ended with this.
pub struct Running(Child);

/// A Federation API, or the API of a member.
pub struct ApiServer {
    process: Running,
    pub client: Client,
    /// Its administrator's.
    pub kubeconfig: PathBuf,
}

impl Running {
    /// Starts the agent and waits until it has said `sign`.
    ///
    /// # Errors
    /// It ends before that; what it said is in the error.
    pub fn start(arguments: impl FnOnce(&mut Command), sign: &str) -> Result<Self> {
        let mut command = Command::new(program("federation-agent")?);
        arguments(&mut command);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut running = Self(process.context("start the agent")?);
        let mut log = BufReader::new(running.0.stderr.take().context("the log is piped")?);
        let mut said = String::new();
        while !said.contains(sign) {
            if log.read_line(&mut said).context("read the log")? == 0 {
                bail!("it has ended: {said}");
            }
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(running)
    }

    /// Resident megabytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.0.id());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        Ok(kilobytes.with_context(|| format!("{path} has no VmRSS"))? / 1024.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl ApiServer {
    /// Starts one that stores in `directory`, for the first time or again.
    ///
    /// # Errors
    /// It ends before it serves.
    pub async fn start(directory: &Path) -> Result<Self> {
        let kubeconfig = directory.join("admin.conf");
        // One from an earlier start names another port.
        drop(fs::remove_file(&kubeconfig));
        let arguments = |command: &mut Command| {
            command.args(["apiserver", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.join("data"));
            command.arg("--kubeconfig").arg(&kubeconfig);
            command.arg("--node-kubeconfig").arg(directory.join("node.conf"));
        };
        let process = Running::start(arguments, "serving the API").context("an API server")?;
        let client = from_kubeconfig(&kubeconfig).await?;
        Ok(Self { process, client, kubeconfig })
    }

    /// Resident megabytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<f64> {
        self.process.memory()
    }
}
