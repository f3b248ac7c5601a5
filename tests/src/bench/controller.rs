//! How long a controller takes with many clusters and many services: until all shards are there, until all endpoints are
//! mirrored, and until one more change is everywhere.
//!
//! The Federation API and every member are API servers of their own processes, on the loopback interface of the machine that
//! the controller runs on, and what they need is in the figures.

use std::{
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{Cluster, FederatedService, FederatedServiceStatus, SYSTEM_NAMESPACE};
use futures::{TryStreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Namespace, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Case, Measurement,
    server::{ApiServer, Running},
};
use crate::lab::eventually;

pub const GROUP: &str = "controller/";

const CLUSTERS: u8 = 50;
const CLUSTERS_OF_A_REGION: u8 = 5;
const SERVICES: u32 = 1000;
/// Changes, each in all clusters before the next.
const CHANGES: i32 = 20;
const NAMESPACE: &str = "my-namespace";
/// Requests under way at once while objects are written.
const AT_ONCE: usize = 32;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(20);

/// One member: its name, and the API server that stands for it.
struct Member {
    number: u8,
    server: ApiServer,
}

/// # Errors
/// A server does not start, or the federation does not become what was asked for.
pub async fn measure() -> Result<Vec<Measurement>> {
    let directory = TempDir::new().context("make a directory")?;
    let hub = ApiServer::start(&directory.path().join("hub")).await?;
    create_namespace(&hub.client).await?;
    let mut members = Vec::new();
    for number in 0..CLUSTERS {
        let server = ApiServer::start(&directory.path().join(name_of(number))).await?;
        create_namespace(&server.client).await?;
        members.push(Member { number, server });
    }
    let case = |name, unit| Case { name, unit, against: None, promise: None };
    let mut measured = Vec::new();

    for member in &members {
        member.register(&hub.client).await?;
    }
    let began = Instant::now();
    let controller = Running::start(
        |command: &mut Command| {
            command.args(["controller", "--federation", "my-federation", "--domain", "example.com"]);
            command.args(["--vip-range", "198.16.0.0/12", "--kubeconfig"]).arg(&hub.kubeconfig);
        },
        "this controller leads",
    )
    .context("the controller")?;
    let accepted = async || accepted(&hub.client).await;
    eventually("all clusters are accepted", PATIENCE, accepted).await?;
    measured.push(case("controller/50_clusters/accepted", "s").alone(&[began.elapsed().as_secs_f64()])?);

    let began = Instant::now();
    let services = Api::<Service>::namespaced(hub.client.clone(), NAMESPACE);
    let writing = (0..SERVICES).map(|number| create(&services, service(number)));
    all(writing).await.context("create the services")?;
    every_service(&hub.client, "is everywhere", is_everywhere).await?;
    measured.push(
        case("controller/50_clusters_1000_services/shards", "s").alone(&[began.elapsed().as_secs_f64()])?,
    );
    measured.push(case("controller/50_clusters_1000_services/memory", "MB").alone(&[controller.memory()?])?);

    let began = Instant::now();
    let writing = members.iter().flat_map(|member| {
        let slices = Api::<EndpointSlice>::namespaced(member.server.client.clone(), NAMESPACE);
        (0..SERVICES).map(move |number| {
            let slices = slices.clone();
            async move { create(&slices, slice(member.number, number)).await }
        })
    });
    all(writing).await.context("create the endpoints")?;
    every_service(&hub.client, "has all its endpoints", has_all_endpoints).await?;
    measured.push(
        case("controller/50_clusters_1000_services/endpoints", "s")
            .alone(&[began.elapsed().as_secs_f64()])?,
    );
    measured.push(
        case("controller/50_clusters_1000_services/memory_with_endpoints", "MB")
            .alone(&[controller.memory()?])?,
    );

    let mut changes = Vec::new();
    for port in 0..CHANGES {
        let port = 8000 + port;
        let began = Instant::now();
        let patch = json!({ "spec": { "ports": [{ "name": "http", "port": port }] } });
        let name = name(SERVICES / 2);
        services
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("change a port")?;
        for member in &members {
            let followed = async || member.has_port(&name, port).await;
            eventually("the shard has the port", PATIENCE, followed).await?;
        }
        changes.push(began.elapsed().as_secs_f64() * 1e3);
    }
    measured.push(case("controller/50_clusters_1000_services/change_everywhere", "ms").alone(&changes)?);
    Ok(measured)
}

async fn accepted(hub: &Client) -> Result<()> {
    let clusters = Api::<Cluster>::all(hub.clone()).list(&ListParams::default()).await?;
    let accepted = clusters.items.iter().filter(|cluster| {
        cluster
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .any(|condition| condition.type_ == "Accepted" && condition.status == "True")
    });
    let accepted = accepted.count();
    ensure!(accepted == usize::from(CLUSTERS), "{accepted} of them are");
    Ok(())
}

/// Waits for all services, one after the other: asking for all of them at once would be most of the work.
async fn every_service(hub: &Client, what: &str, good: fn(&FederatedServiceStatus) -> bool) -> Result<()> {
    let services = Api::<FederatedService>::namespaced(hub.clone(), NAMESPACE);
    for number in 0..SERVICES {
        let name = name(number);
        let so = async || {
            let status = services.get(&name).await?.status.unwrap_or_default();
            let said =
                || format!("shards {:?}, endpoints {:?}", status.shard_summary, status.endpoint_summary);
            ensure!(good(&status), "{}", said());
            Ok(())
        };
        eventually(format!("{name} {what}"), PATIENCE, so).await?;
    }
    Ok(())
}

/// Whether each cluster has its shard.
fn is_everywhere(status: &FederatedServiceStatus) -> bool {
    let propagated = |it: &Condition| it.type_ == "Propagated" && it.status == "True";
    status.conditions.iter().any(propagated) && status.shards.len() == usize::from(CLUSTERS)
}

/// Whether an endpoint of each cluster is counted.
fn has_all_endpoints(status: &FederatedServiceStatus) -> bool {
    status.endpoint_summary == Some(format!("{CLUSTERS}/{CLUSTERS}"))
}

impl Member {
    async fn register(&self, hub: &Client) -> Result<()> {
        let kubeconfig = &self.server.kubeconfig;
        let text = std::fs::read(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
        let parsed = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
        let server = parsed.clusters.first().and_then(|named| named.cluster.as_ref()?.server.clone());
        let name = name_of(self.number);
        let mut secret: Secret = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        secret.data = Some([("kubeconfig".to_owned(), ByteString(text))].into());
        let secrets = Api::<Secret>::namespaced(hub.clone(), SYSTEM_NAMESPACE);
        secrets.create(&PostParams::default(), &secret).await.context("write the credentials")?;
        let cluster = json!({
            "metadata": { "name": name },
            "spec": {
                "server": server.context("the kubeconfig names no server")?,
                "credentialsRef": { "name": name },
                "region": format!("region-{}", self.number / CLUSTERS_OF_A_REGION),
                "zones": [name],
                "networks": [format!("10.{}.0.0/16", self.number)],
            },
        });
        create(&Api::<Cluster>::all(hub.clone()), cluster).await
    }

    async fn has_port(&self, name: &str, expected: i32) -> Result<()> {
        let services = Api::<Service>::namespaced(self.server.client.clone(), NAMESPACE);
        let spec = services.get(name).await?.spec.unwrap_or_default();
        let ports: Vec<_> = spec.ports.iter().flatten().map(|port| port.port).collect();
        ensure!(ports == [expected], "{} has {ports:?}", name_of(self.number));
        Ok(())
    }
}

/// Carries all of it out, some at a time.
async fn all(work: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    stream::iter(work.map(Ok)).try_for_each_concurrent(AT_ONCE, |one| one).await
}

async fn create_namespace(client: &Client) -> Result<()> {
    create(&Api::<Namespace>::all(client.clone()), json!({ "metadata": { "name": NAMESPACE } })).await
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let object = serde_json::from_value(object).context("the manifest")?;
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("create a {}", K::kind(&())))?;
    Ok(())
}

fn name_of(cluster: u8) -> String {
    format!("cluster-{cluster}")
}

fn name(service: u32) -> String {
    format!("service-{service}")
}

fn service(number: u32) -> Value {
    json!({
        "metadata": { "name": name(number) },
        "spec": { "selector": { "app": name(number) }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

/// As the endpoint controller of a cluster writes one for a service of one pod.
fn slice(cluster: u8, service: u32) -> Value {
    let address = Ipv4Addr::from_bits(u32::from_be_bytes([10, cluster, 0, 0]) + 1 + service);
    json!({
        "metadata": { "name": format!("{}-x", name(service)), "labels": { "kubernetes.io/service-name": name(service) } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true }, "nodeName": "node-1" }],
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}
