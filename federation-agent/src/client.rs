//! Logging in at a Kubernetes API: with a kubeconfig file, or with the service account of the pod that this runs in.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where a pod finds the token of its service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How to log in, by what a person said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// The current context of a kubeconfig.
    Kubeconfig(PathBuf),
    /// The service account that every pod has unless it asks for none.
    ServiceAccount,
}

impl Login {
    /// The file that was given, else the pod's service account.
    pub fn by(kubeconfig: Option<&Path>) -> Self {
        kubeconfig.map_or(Self::ServiceAccount, |path| Self::Kubeconfig(path.to_owned()))
    }

    /// At the API of the cluster that this runs in: with the file that was given, else with the service account, where this
    /// is a pod that has one.
    pub fn at_own_cluster(kubeconfig: Option<&Path>) -> Option<Self> {
        let is_pod = || env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists();
        (kubeconfig.is_some() || is_pod()).then(|| Self::by(kubeconfig))
    }

    /// How a client is configured.
    ///
    /// # Errors
    /// The file cannot be read, is no kubeconfig, or names certificates that cannot be used; or there is no service
    /// account. Nothing is sent yet.
    pub async fn config(&self) -> Result<Config> {
        match self {
            Self::Kubeconfig(path) => {
                let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {self}"))?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("use {self}"))
            }
            Self::ServiceAccount => Config::incluster().context(
                "there is neither a --kubeconfig nor a pod's service account to log in with: give --kubeconfig, or let \
                 the pod have its token (automountServiceAccountToken)",
            ),
        }
    }

    /// # Errors
    /// As above.
    pub async fn client(&self) -> Result<Client> {
        Client::try_from(self.config().await?).with_context(|| format!("make a client from {self}"))
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubeconfig(path) => write!(f, "the kubeconfig {}", path.display()),
            Self::ServiceAccount => f.write_str("the pod's service account"),
        }
    }
}

/// A client for the current context of the kubeconfig in `path`.
///
/// # Errors
/// As [`Login::config`].
pub async fn from_kubeconfig(path: &Path) -> Result<Client> {
    Login::by(Some(path)).client().await
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
