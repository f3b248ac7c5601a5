//! A member cluster that has not the definitions of the Multi-Cluster Services API, until they are installed.
//!
//! Our own API server always has them: in front of a real one stands a server that hides the group.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use axum_server::tls_rustls::{RustlsConfig, from_tcp_rustls};
use federation_agent::api::mcs::{ServiceExport, ServiceImport};
use http::StatusCode;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::{Value, json};

use crate::world::{AMERICA, EUROPE, PATIENCE, SERVICE, World, create, in_world, service};

const GROUP: &str = "multicluster.x-k8s.io";
const MOST_BYTES: usize = 1 << 20;

/// What is passed on to the real API server.
struct Front {
    behind: Client,
    hides: AtomicBool,
}

impl World {
    /// Registers America's API server as one without the definitions.
    async fn register_older(&self) -> Result<Arc<Front>> {
        let behind = self.site::<Service>(AMERICA).into_client();
        let front = Arc::new(Front { behind, hides: AtomicBool::new(true) });
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()),
            )?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(pass_on).with_state(Arc::clone(&front));
        let server = from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))?;
        tokio::spawn(server.serve(router.into_make_service()));

        self.write_secret(AMERICA.name, &[("token", "any"), ("ca.crt", &cert.pem())]).await?;
        let mut cluster = AMERICA.cluster();
        cluster["spec"]["server"] = format!("https://{address}").into();
        create(&self.clusters(), cluster).await?;
        self.cluster_says(AMERICA, "Accepted", "True", "Accepted").await?;
        Ok(front)
    }
}

async fn pass_on(State(front): State<Arc<Front>>, request: Request) -> Response {
    answer(&front, request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response())
}

async fn answer(front: &Front, request: Request) -> Result<Response> {
    let hides = front.hides.load(Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    if hides && path.starts_with(&format!("/apis/{GROUP}")) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound" });
        return Ok((StatusCode::NOT_FOUND, axum::Json(status)).into_response());
    }
    let (mut parts, body) = request.into_parts();
    // It logs in by itself.
    parts.headers.remove(http::header::AUTHORIZATION);
    parts.headers.remove(http::header::HOST);
    let uri = parts.uri.path_and_query().context("a path")?.as_str().parse()?;
    parts.uri = uri;
    let body = to_bytes(body, MOST_BYTES).await?;
    let answer = front.behind.send(http::Request::from_parts(parts, kube::client::Body::from(body))).await?;
    if hides && path == "/apis" {
        let (parts, body) = answer.into_parts();
        let mut groups: Value = serde_json::from_slice(&body.collect_bytes().await?)?;
        groups["groups"].as_array_mut().context("groups")?.retain(|group| group["name"] != GROUP);
        ensure!(parts.status.is_success(), "{}", parts.status);
        return Ok(axum::Json(groups).into_response());
    }
    Ok(answer.map(Body::new))
}

#[test]
fn a_cluster_without_the_definitions_takes_no_part_and_nothing_breaks() -> Result<()> {
    in_world(async |world| {
        world.start_hub().await?;
        let controller = world.start_controller("198.18.0.0/16")?;
        world.start_site(EUROPE).await?;
        world.register(EUROPE).await?;
        world.start_site(AMERICA).await?;
        for site in [EUROPE, AMERICA] {
            world.create_namespace_in(site).await?;
        }
        let front = world.register_older().await?;
        let says = |log: &[String]| log.iter().filter(|line| line.contains("takes no part")).count();
        let said = async || {
            ensure!(says(&controller.tail(usize::MAX)?) == 1);
            Ok(())
        };
        world.wait("the controller says that the cluster takes no part", said).await?;

        // What others export is imported by others, and services are sharded as ever.
        let exported = json!({ "metadata": { "name": "exported" }, "spec": { "ports": [{ "port": 80 }] } });
        create(&world.site::<Service>(EUROPE), exported).await?;
        create(&world.site::<ServiceExport>(EUROPE), json!({ "metadata": { "name": "exported" } })).await?;
        let imported = async || Ok(world.site::<ServiceImport>(EUROPE).get("exported").await.map(drop)?);
        world.wait("Europe imports its own service", imported).await?;
        create(&world.hub::<Service>(), service()).await?;
        for site in [EUROPE, AMERICA] {
            world.shard(site).await?;
        }
        world.service_says("Propagated", "True", "InPlace").await?;
        assert_eq!(says(&controller.tail(usize::MAX)?), 1, "it is said once");
        assert!(world.site::<ServiceImport>(AMERICA).get_opt("exported").await?.is_none());

        // Once they are installed, it takes part.
        front.hides.store(false, Ordering::Relaxed);
        let imported = async || Ok(world.site::<ServiceImport>(AMERICA).get("exported").await.map(drop)?);
        // It is asked twice a minute.
        world.lab.wait_for("America imports the service", PATIENCE * 2, imported).await?;
        let is_untouched =
            world.site::<Service>(AMERICA).get(SERVICE).await?.metadata.deletion_timestamp.is_none();
        assert!(is_untouched);
        Ok(())
    })
}
