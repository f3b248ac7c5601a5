//! Logging in at an API server from inside a network namespace.

use std::path::Path;

use anyhow::{Context as _, Result};
use http::Uri;
use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioIo},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn, util::option_layer};

use crate::lab::Namespace;

/// A client for the kubeconfig in `path` whose connections start in `namespace`.
pub async fn login(namespace: &Namespace, path: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let namespace = namespace.clone();
    let connect = service_fn(move |server: Uri| {
        let namespace = namespace.clone();
        async move {
            let address = server.authority().context("a server without an address")?.as_str().parse()?;
            anyhow::Ok(TokioIo::new(namespace.connect(address).await?))
        }
    });
    let https = config.rustls_https_connector_with_connector(connect)?;
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(https).map_err(BoxError::from);
    let service = config.base_uri_layer().layer(option_layer(config.auth_layer()?).layer(http));
    Ok(Client::new(service, config.default_namespace))
}
