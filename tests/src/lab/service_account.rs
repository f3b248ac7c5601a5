//! What a process finds around it in a pod: the token of a service account, and where its cluster's API is.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use kube::config::Kubeconfig;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

/// An account of one API server, as files and variables.
pub struct ServiceAccount {
    /// Stands in the place of `/var` for who has the account.
    var: PathBuf,
    host: String,
    port: String,
}

impl ServiceAccount {
    /// The user of this kubeconfig, with its files in `folder`.
    pub fn of(kubeconfig: &Path, folder: &Path) -> Result<Self> {
        let context = || format!("make a service account of {}", kubeconfig.display());
        let read = serde_json::to_value(Kubeconfig::read_from(kubeconfig).with_context(context)?)?;
        let text = |pointer: &str| {
            let value = read.pointer(pointer).and_then(Value::as_str);
            value.with_context(|| format!("{pointer} is missing")).with_context(context)
        };
        let server = text("/clusters/0/cluster/server")?;
        let (host, port) = server
            .strip_prefix("https://")
            .and_then(|server| server.rsplit_once(':'))
            .with_context(context)?;
        let ca = text("/clusters/0/cluster/certificate-authority-data")?;
        let ByteString(ca) = serde_json::from_value(ca.into()).with_context(context)?;
        let files = folder.join("run/secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(&files).with_context(context)?;
        for (name, bytes) in [
            ("token", text("/users/0/user/token")?.as_bytes()),
            ("ca.crt", ca.as_slice()),
            ("namespace", b"federation-system"),
        ] {
            fs::write(files.join(name), bytes).with_context(context)?;
        }
        Ok(Self { var: folder.to_owned(), host: host.to_owned(), port: port.to_owned() })
    }

    /// Lets the command find the account where a pod does. It sees nothing else of `/var`.
    pub fn lend(&self, command: &mut Command) {
        command.env("KUBERNETES_SERVICE_HOST", &self.host).env("KUBERNETES_SERVICE_PORT", &self.port);
        let var = self.var.clone();
        let enter = move || -> std::io::Result<()> {
            let nothing = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            mount(Some(var.as_path()), "/var", nothing, MsFlags::MS_BIND, nothing)?;
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls may happen; these are plain system calls, whose short
        // paths are copied to the stack.
        unsafe { command.pre_exec(enter) };
    }
}
