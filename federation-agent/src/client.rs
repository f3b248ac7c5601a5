//! Logging in at a Kubernetes API with a kubeconfig file.

use std::path::Path;

use anyhow::{Context as _, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A client for the current context of the kubeconfig in `path`.
///
/// # Errors
/// The file cannot be read, is no kubeconfig, or names certificates that cannot be used. Nothing is sent yet.
pub async fn from_kubeconfig(path: &Path) -> Result<Client> {
    let kubeconfig =
        Kubeconfig::read_from(path).with_context(|| format!("read the kubeconfig {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("use the kubeconfig {}", path.display()))?;
    Client::try_from(config).with_context(|| format!("make a client from the kubeconfig {}", path.display()))
}
