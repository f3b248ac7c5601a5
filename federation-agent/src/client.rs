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
    let config = config(path).await?;
    Client::try_from(config).with_context(|| format!("make a client from the kubeconfig {}", path.display()))
}

/// How such a client is configured.
///
/// # Errors
/// As above.
pub async fn config(path: &Path) -> Result<Config> {
    let kubeconfig =
        Kubeconfig::read_from(path).with_context(|| format!("read the kubeconfig {}", path.display()))?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("use the kubeconfig {}", path.display()))
}

/// An error with its causes: the outer one alone says little more than "it failed".
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut chain = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref::<kube::Error>() {
            // Its own text prints the whole answer twice.
            Some(kube::Error::Api(status)) => format!("{} (HTTP {})", status.message, status.code),
            _ => error.to_string(),
        };
        // Some causes are printed by the error that they caused.
        if !chain.contains(&text) {
            if !chain.is_empty() {
                chain.push_str(": ");
            }
            chain.push_str(&text);
        }
        next = if matches!(error.downcast_ref(), Some(kube::Error::Api(_))) { None } else { error.source() };
    }
    chain
}
