//! What a real agent needs for a federation of the largest size: how long until all of it is in the kernel, how much memory,
//! and how soon a change is there.
//!
//! The Federation API is the real one; what the controller would write is written here. All endpoints are addresses of one
//! pod's network, where one server answers at each: the agent probes them as it always does.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use federation_agent::api::{
    FederatedService, FederatedServiceSpec, FederatedServiceStatus, ScopeKind, VipStatus,
    marks::CLUSTER_LABEL,
};
use federation_ebpf::maps::{Frontend, FrontendKey, Protocol, SCHEMA};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use super::{Case, Measurement, Promise};
use crate::{
    federation::{Federation, HTTP_PORT, NAMESPACE, PATIENCE, SERVICE_HTTP_PORT},
    figures::nearest_rank,
    lab::{ClusterSpec, Lab, Process, eventually},
};

pub const GROUP: &str = "agent/";

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

/// Seconds.
const LOAD: Promise = Promise::AtMost(2.0);
/// Megabytes.
const MEMORY: Promise = Promise::AtMost(150.0);
/// Milliseconds, of 99 changes out of 100.
const CHANGE: Promise = Promise::AtMost(10.0);

/// Changes of one endpoint's readiness.
const CHANGES: u32 = 200;

/// From one look at a map to the next.
const LOOK: Duration = Duration::from_micros(50);

/// Objects that are written at the same time.
const WRITERS: usize = 64;

const CLUSTER: &str = "europe-west1-d";
const VIPS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The endpoints' addresses, and the network that has them.
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 16, 0, 1);
const NETWORK: &str = "10.16.0.0/12";

/// The frontends of a node, by the pinned map.
type Frontends = HashMap<MapData, FrontendKey<[u8; 4]>, Frontend>;

/// # Errors
/// The lab or its agent fails.
pub async fn measure() -> Result<Vec<Measurement>> {
    let mut federation = Federation::without_controller(Lab::new()?).await?;
    let member = federation.add_cluster(ClusterSpec::new(CLUSTER, "europe-west1", CLUSTER, 8), 1).await?;
    member.register(federation.api()).await?;
    let (node, pod) = (member.cluster().nodes().pop(), member.servers().pop());
    let (node, pod) = node.zip(pod).context("the cluster has a node with a pod")?;
    pod.namespace().ip([format!("route add local {NETWORK} dev lo")])?;
    node.namespace().ip([format!("route add {NETWORK} via {} dev {}", pod.address(), pod.interface())])?;
    populate(federation.api()).await?;

    let started = Instant::now();
    let agent = federation.start_agent(&member, &node)?;
    let maps = member.bpf_folder(federation.lab(), &node).join(format!("v{SCHEMA}/maps"));
    let loaded = async || all_frontends(&maps);
    let frontends = eventually("the agent has loaded everything", PATIENCE, loaded).await?;
    let load = started.elapsed().as_secs_f64();
    let changes = changes(federation.api(), frontends).await?;
    let [resident, peak] = memory(&agent)?;

    let case = |name, unit, promise| Case { name, unit, against: None, promise };
    let worst = nearest_rank(&changes, 0.99).context("there were changes")?;
    Ok(vec![
        case("agent/load", "s", Some(LOAD)).alone(&[load])?,
        case("agent/memory", "MB", Some(MEMORY)).alone(&[resident])?,
        case("agent/memory_peak", "MB", None).alone(&[peak])?,
        case("agent/readiness", "ms", None).alone(&changes)?,
        case("agent/readiness_p99", "ms", Some(CHANGE)).alone(&[worst])?,
    ])
}

/// Writes the whole federation.
async fn populate(api: &Client) -> Result<()> {
    eprintln!("{SERVICES} services with {ENDPOINTS} endpoints each are written");
    let written =
        stream::iter((0..SERVICES).map(Ok)).try_for_each_concurrent(WRITERS, |service| write(api, service));
    written.await.context("write the federation")
}

async fn write(api: &Client, number: u32) -> Result<()> {
    let params = PostParams::default();
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": name(number) },
        "spec": { "ports": [{ "name": "http", "port": SERVICE_HTTP_PORT, "targetPort": HTTP_PORT }] },
    }))?;
    Api::<Service>::namespaced(api.clone(), NAMESPACE).create(&params, &service).await?;
    let services = Api::<FederatedService>::namespaced(api.clone(), NAMESPACE);
    let mut service = FederatedService::new(&name(number), FederatedServiceSpec::default());
    service = services.create(&params, &service).await?;
    let nearest = VipStatus {
        scope: ScopeKind::Nearest,
        location: None,
        ips: vec![vip(number).into()],
        name: name(number),
    };
    service.status =
        Some(FederatedServiceStatus { vips: vec![nearest], ..FederatedServiceStatus::default() });
    services.replace_status(&name(number), &params, &service).await?;
    Api::<EndpointSlice>::namespaced(api.clone(), NAMESPACE).create(&params, &slice(number)?).await?;
    Ok(())
}

fn slice(number: u32) -> Result<EndpointSlice> {
    let slice = json!({
        "metadata": {
            "name": name(number),
            "labels": { "kubernetes.io/service-name": name(number), CLUSTER_LABEL: CLUSTER },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "protocol": "TCP", "port": HTTP_PORT }],
        "endpoints": endpoints(number, ENDPOINTS),
    });
    serde_json::from_value(slice).context("the manifest of a slice")
}

/// Of which so many are ready.
fn endpoints(service: u32, ready: u32) -> Value {
    let endpoint = |number| {
        let address: IpAddr = Ipv4Addr::from_bits(BACKENDS.to_bits() + service * ENDPOINTS + number).into();
        json!({ "addresses": [address], "conditions": { "ready": number < ready }, "zone": CLUSTER })
    };
    (0..ENDPOINTS).map(endpoint).collect()
}

fn name(service: u32) -> String {
    format!("service-{service}")
}

fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(VIPS.to_bits() + service)
}

/// # Errors
/// They are not all there yet.
fn all_frontends(maps: &Path) -> Result<Frontends> {
    let map = MapData::from_pin(maps.join("FRONTENDS_V4")).context("open FRONTENDS_V4")?;
    let frontends = Frontends::try_from(Map::HashMap(map))?;
    // Beside them every VIP has one for those who only ask whether it is there.
    let is_port =
        |key: &Result<FrontendKey<_>, _>| key.as_ref().is_ok_and(|key| key.port == SERVICE_HTTP_PORT);
    let count = frontends.keys().filter(is_port).count();
    ensure!(count == SERVICES as usize, "{count} of {SERVICES} frontends are there");
    Ok(frontends)
}

/// Milliseconds from a watcher's event that an endpoint is not ready any more, to the node's table without it.
async fn changes(api: &Client, frontends: Frontends) -> Result<Vec<f64>> {
    let slices = Api::<EndpointSlice>::namespaced(api.clone(), NAMESPACE);
    let version = slices.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
    let version = version.context("a list has a version")?;
    let mut events = pin!(slices.watch(&WatchParams::default(), &version).await?);
    let mut frontends = frontends;
    let mut samples = Vec::new();
    for change in 0..CHANGES {
        let service = change * (SERVICES / CHANGES);
        let name = name(service);
        let key = FrontendKey::new(vip(service).octets(), SERVICE_HTTP_PORT, Protocol::Tcp);
        let before = frontends.get(&key, 0)?;
        // On a thread of its own: it must not wait for what is measured.
        let look = tokio::task::spawn_blocking(move || -> Result<_> {
            let begun = Instant::now();
            while frontends.get(&key, 0)? == before {
                ensure!(begun.elapsed() < PATIENCE, "the change of a service never came to its table");
                std::thread::sleep(LOOK);
            }
            Ok((Instant::now(), frontends))
        });
        let patch = Patch::Merge(json!({ "endpoints": endpoints(service, ENDPOINTS - 1) }));
        let params = PatchParams::default();
        let patched = slices.patch(&name, &params, &patch);
        let event = async {
            match events.next().await.context("the watch has ended")?? {
                WatchEvent::Modified(_) => Ok(Instant::now()),
                other => anyhow::bail!("the watch tells of something else: {other:?}"),
            }
        };
        let (told, patched) = tokio::join!(event, patched);
        patched.context("change an endpoint")?;
        let (seen, map) = look.await??;
        frontends = map;
        samples.push(seen.saturating_duration_since(told?).as_secs_f64() * 1e3);
    }
    Ok(samples)
}

/// Megabytes that the process has now, and had at most (`proc_pid_status(5)`).
fn memory(process: &Process) -> Result<[f64; 2]> {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", process.id())).context("ask for its memory")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024.0 / 1e6).with_context(|| format!("no {name} in {status}"))
    };
    Ok([field("VmRSS")?, field("VmHWM")?])
}
