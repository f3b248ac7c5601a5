//! What the embedded Federation API costs at size: its memory, how long it takes to start and to list, and how soon a
//! change has reached everyone who watches.
//!
//! The server is a process of its own on the loopback interface; clients and watchers share the machine with it, and what
//! they need is in the figures. A watcher reads the event off its connection and does nothing else with it.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Request, header};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use kube::client::Body;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{Case, Measurement, server::ApiServer};
use crate::figures::percentile;

pub const GROUP: &str = "apiserver/";

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const WATCHERS: usize = 1000;
/// Changes, each seen by all watchers before the next.
const CHANGES: usize = 50;
const LISTS: usize = 5;
/// Requests under way at once while the store is filled.
const AT_ONCE: usize = 64;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(2);

const NAMESPACE: &str = "default";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Measures one server, empty, filled, watched and started again.
///
/// # Errors
/// The server does not start, or does not answer.
pub async fn measure() -> Result<Vec<Measurement>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of open files")?;
    let directory = TempDir::new().context("make a directory")?;
    let case = |name, unit| Case { name, unit, against: None, promise: None };
    let mut measured = Vec::new();

    let server = Server::start(directory.path()).await?;
    measured.push(case("apiserver/memory/empty", "MB").alone(&[server.0.memory()?])?);
    let began = Instant::now();
    server.fill().await?;
    measured.push(case("apiserver/fill", "s").alone(&[began.elapsed().as_secs_f64()])?);
    measured.push(case("apiserver/memory/10000_services", "MB").alone(&[server.0.memory()?])?);
    drop(server);

    let began = Instant::now();
    let server = Server::start(directory.path()).await?;
    measured.push(case("apiserver/start", "s").alone(&[began.elapsed().as_secs_f64()])?);
    measured.push(case("apiserver/memory/started_again", "MB").alone(&[server.0.memory()?])?);
    measured.push(case("apiserver/list/10000_slices", "ms").alone(&server.lists().await?)?);

    let (one, _) = server.changes(1).await?;
    let (many, memory) = server.changes(WATCHERS).await?;
    measured.push(case("apiserver/change/1_watcher", "ms").alone(&one.last)?);
    measured.push(case("apiserver/change/first_of_1000_watchers", "ms").alone(&many.first)?);
    measured.push(case("apiserver/change/all_1000_watchers", "ms").alone(&many.last)?);
    measured.push(case("apiserver/memory/1000_watchers", "MB").alone(&[memory])?);
    Ok(measured)
}

/// Milliseconds from sending a change until the first and until the last watcher has read of it.
#[derive(Default)]
struct Latencies {
    first: Vec<f64>,
    last: Vec<f64>,
}

/// Asked by a client of its own.
struct Server(ApiServer);

impl Server {
    async fn start(directory: &Path) -> Result<Self> {
        Ok(Self(ApiServer::start(directory).await?))
    }

    async fn fill(&self) -> Result<()> {
        let objects = (0..SERVICES).flat_map(|service| [self::service(service), slice(service)]);
        let requests = stream::iter(objects.map(|(path, object)| self.post(path, object)));
        requests.buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn post(&self, path: String, object: Value) -> Result<()> {
        let request = Request::post(&path).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(object.to_string().into_bytes())).context("make a request")?;
        let response = self.0.client.send(request).await.with_context(|| format!("create at {path}"))?;
        ensure!(response.status().is_success(), "create at {path}: {}", response.status());
        response.into_body().collect().await.context("read the answer")?;
        Ok(())
    }

    /// Milliseconds until a list of all slices has been read off the connection.
    async fn lists(&self) -> Result<Vec<f64>> {
        let mut lists = Vec::new();
        for _ in 0..LISTS {
            let began = Instant::now();
            self.list().await?;
            lists.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(lists)
    }

    async fn list(&self) -> Result<Bytes> {
        let request = Request::get(SLICES).body(Body::empty()).context("make a request")?;
        let response = self.0.client.send(request).await.context("list the slices")?;
        Ok(response.into_body().collect().await.context("read the list")?.to_bytes())
    }

    /// The version from which a watch goes on.
    async fn revision(&self) -> Result<String> {
        let list: Value = serde_json::from_slice(&self.list().await?).context("the list is JSON")?;
        let count = list["items"].as_array().map(Vec::len);
        ensure!(count == Some(SERVICES as usize), "{count:?} slices are listed");
        Ok(list["metadata"]["resourceVersion"].as_str().context("a list has a version")?.to_owned())
    }

    /// How soon changes of one slice reach so many watchers of all, and the memory while they watch.
    async fn changes(&self, watchers: usize) -> Result<(Latencies, f64)> {
        let revision = self.revision().await?;
        let (seen, mut sightings) = mpsc::unbounded_channel();
        let path: Arc<str> = format!("{SLICES}?watch=1&resourceVersion={revision}").into();
        let mut running = JoinSet::new();
        let connecting = (0..watchers).map(|_| async {
            let request = Request::get(&*path).body(Body::empty()).context("make a request")?;
            self.0.client.send(request).await.context("watch the slices")
        });
        let connected: Vec<_> = stream::iter(connecting).buffer_unordered(AT_ONCE).try_collect().await?;
        for response in connected {
            let mut body = response.into_body();
            let seen = seen.clone();
            running.spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
                    for _ in data.split(|byte| *byte == b'\n').skip(1) {
                        if seen.send(Instant::now()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        let mut latencies = Latencies::default();
        for change in 0..CHANGES {
            let began = Instant::now();
            self.change(change).await?;
            let mut after = Vec::with_capacity(watchers);
            while after.len() < watchers {
                let sighting = timeout(PATIENCE, sightings.recv()).await;
                let sighting = sighting.with_context(|| {
                    format!(
                        "{} of {watchers} watchers have seen change {change} in {PATIENCE:?}",
                        after.len()
                    )
                })?;
                let sighting = sighting.context("the watches have ended")?;
                after.push(sighting.duration_since(began).as_secs_f64() * 1e3);
            }
            latencies.first.extend(percentile(&after, 0.0));
            latencies.last.extend(percentile(&after, 1.0));
        }
        Ok((latencies, self.0.memory()?))
    }

    async fn change(&self, number: usize) -> Result<()> {
        let name = slice_name(SERVICES / 2);
        let patch = json!({ "metadata": { "labels": { "change": number.to_string() } } });
        let request = Request::patch(format!("{SLICES}/{name}"))
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(Body::from(patch.to_string().into_bytes()))
            .context("make a request")?;
        let response = self.0.client.send(request).await.context("change a slice")?;
        ensure!(response.status().is_success(), "change a slice: {}", response.status());
        response.into_body().collect().await.context("read the answer")?;
        Ok(())
    }
}

fn slice_name(service: u32) -> String {
    format!("service-{service}-europe-west1-d")
}

fn service(number: u32) -> (String, Value) {
    let name = format!("service-{number}");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    (format!("/api/v1/namespaces/{NAMESPACE}/services"), service)
}

/// As the controller mirrors one.
fn slice(number: u32) -> (String, Value) {
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|endpoint| {
            let address = std::net::Ipv4Addr::from_bits(0x0a10_0001 + number * ENDPOINTS + endpoint);
            json!({
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{endpoint}"), "zone": "europe-west1-d",
                "targetRef": { "kind": "Pod", "namespace": NAMESPACE, "name": format!("service-{number}-{endpoint}") },
            })
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": slice_name(number), "labels": {
            "kubernetes.io/service-name": format!("service-{number}"),
            "federation.dev/cluster": "europe-west1-d",
        } },
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    });
    (SLICES.to_owned(), slice)
}
