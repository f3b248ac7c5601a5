//! A member cluster as the controller reaches it: credentials to client, and who is a member now.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::task::AbortHandle;

use crate::{api::ClusterSpec, model::ClusterName};

/// The accepted clusters.
pub(super) type Members = BTreeMap<ClusterName, Member>;

pub(super) struct Member {
    pub client: Client,
    pub spec: ClusterSpec,
    pub labels: BTreeMap<String, String>,
    /// Version of the Secret and generation of the Cluster that the client was made of.
    pub made_of: (Option<String>, Option<i64>),
    /// Mirrors its endpoints until aborted.
    pub mirror: AbortHandle,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.mirror.abort();
    }
}

/// A client for the cluster with the credentials in `secret`. Nothing is sent yet.
///
/// # Errors
/// What is missing from the Secret or wrong in it; never the credentials themselves.
pub(super) async fn client(spec: &ClusterSpec, secret: &Secret) -> Result<Client> {
    let entry = |name: &str| secret.data.as_ref().and_then(|data| data.get(name));
    let kubeconfig = if let Some(bytes) = entry("kubeconfig") {
        let text = std::str::from_utf8(&bytes.0).context("its `kubeconfig` is not UTF-8")?;
        Kubeconfig::from_yaml(text).ok().context("its `kubeconfig` is no kubeconfig")?
    } else {
        let token = entry("token").context("it has neither `kubeconfig` nor `token` and `ca.crt`")?;
        let token = std::str::from_utf8(&token.0).context("its `token` is not UTF-8")?;
        let authority = entry("ca.crt").context("it has a `token` but no `ca.crt`")?;
        serde_json::from_value(json!({
            "current-context": "member",
            "contexts": [{"name": "member", "context": {"cluster": "member", "user": "member"}}],
            "clusters": [{"name": "member", "cluster": {"server": spec.server, "certificate-authority-data": authority}}],
            "users": [{"name": "member", "user": {"token": token.trim()}}],
        }))
        .context("make a kubeconfig of its `token` and `ca.crt`")?
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("its `kubeconfig` cannot be used")?;
    // The registration says where the cluster is; the Secret only how to log in.
    config.cluster_url = spec.server.parse().with_context(|| format!("{} is no URL", spec.server))?;
    config.connect_timeout = Some(super::REQUEST_TIMEOUT);
    Client::try_from(config).context("its certificates cannot be used")
}
