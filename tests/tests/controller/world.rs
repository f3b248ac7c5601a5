//! One machine with a Federation API, member API servers and a controller, and ways to look at them.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::{
    api::{Cluster, FederatedService, FederatedServiceStatus, SYSTEM_NAMESPACE},
    client,
};
use federation_tests::lab::{Host, Lab, Process, program};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Event, Namespace, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);
pub const FEDERATION: &str = "my-federation";
pub const NAMESPACE: &str = "my-namespace";
pub const SERVICE: &str = "my-service";
/// A controller that is killed says no good-bye, and the next one waits for its lease: not for long.
pub const QUICK_ELECTION: [&str; 3] = [
    "--leader-elect-lease-duration=2s",
    "--leader-elect-renew-deadline=1500ms",
    "--leader-elect-retry-period=200ms",
];
/// The federation's own API server, by the name of its process.
const HUB: &str = "hub";
const CLUSTER_LABEL: &str = "federation.dev/cluster";

pub struct World {
    pub lab: Lab,
    host: Host,
    clients: Mutex<BTreeMap<String, Client>>,
}

/// A member cluster of the tests: its name, and the number that its port and its networks are made of.
#[derive(Clone, Copy)]
pub struct Site {
    pub name: &'static str,
    pub region: &'static str,
    pub number: u8,
}

pub const EUROPE: Site = Site { name: "europe-west1-d", region: "europe-west1", number: 8 };
pub const AMERICA: Site = Site { name: "us-east1-b", region: "us-east1", number: 9 };

/// Runs a test on a thread inside of the machine's network, since API clients have to connect from there.
pub fn in_world(test: impl AsyncFnOnce(&World) -> Result<()> + Send) -> Result<()> {
    let lab = Lab::new()?;
    let world = World { host: lab.host("machine")?, lab, clients: Mutex::default() };
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test(&world))
    };
    thread::scope(|scope| scope.spawn(|| world.host.namespace().run(inside)?).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Site {
    /// An address of one of its pods.
    pub fn pod(self, last: u8) -> String {
        format!("10.{}.0.{last}", self.number)
    }

    pub fn port(self) -> u16 {
        7_000 + u16::from(self.number)
    }

    /// Its registration.
    pub fn cluster(self) -> Value {
        json!({
            "apiVersion": "federation.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": { "name": self.name, "labels": { "site": self.name } },
            "spec": {
                "server": format!("https://127.0.0.1:{}", self.port()),
                "credentialsRef": { "name": self.name },
                "region": self.region,
                "zones": [self.name],
                "networks": [format!("10.{}.0.0/16", self.number)],
            },
        })
    }
}

/// The Service of the tests.
pub fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": SERVICE, "namespace": NAMESPACE, "labels": { "app": "web" },
            "annotations": { "team": "shop", "kubectl.kubernetes.io/last-applied-configuration": "{}" },
        },
        "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

impl World {
    /// The Federation API, both sites as members, a controller and a namespace.
    pub async fn start(&self) -> Result<Arc<Process>> {
        self.start_hub().await?;
        let controller = self.start_controller("198.18.0.0/16")?;
        self.join_sites().await?;
        Ok(controller)
    }

    /// The Federation API, and in it a namespace.
    pub async fn start_hub(&self) -> Result<Arc<Process>> {
        let process = self.restart_hub().await?;
        self.create_namespace(HUB, NAMESPACE).await?;
        Ok(process)
    }

    /// The Federation API again, with what it has stored.
    pub async fn restart_hub(&self) -> Result<Arc<Process>> {
        self.start_api_server(HUB, 6_443).await
    }

    /// Both sites, until they are accepted as members.
    pub async fn join_sites(&self) -> Result<()> {
        for site in [EUROPE, AMERICA] {
            self.start_site(site).await?;
            self.register(site).await?;
        }
        for site in [EUROPE, AMERICA] {
            self.cluster_says(site, "Accepted", "True", "Accepted").await?;
        }
        Ok(())
    }

    /// The API server of a member, for the first time or again with what it has stored.
    pub async fn start_site(&self, site: Site) -> Result<Arc<Process>> {
        self.start_api_server(site.name, site.port()).await
    }

    async fn start_api_server(&self, name: &str, port: u16) -> Result<Arc<Process>> {
        let folder = self.lab.folder().join(name);
        std::fs::create_dir_all(&folder)?;
        let (kubeconfig, written_first) = (folder.join("admin.conf"), folder.join("node.conf"));
        // Kubeconfigs are written once the server answers, so an old one must not be taken for a new one. The
        // administrators' stays: a controller that is started meanwhile reads it.
        let _ = std::fs::remove_file(&written_first);
        let mut command = self.host.namespace().command(program("federation-agent")?);
        command.args(["apiserver", "--context", name, "--listen", &format!("127.0.0.1:{port}")]);
        command.arg("--data-dir").arg(folder.join("data"));
        command.arg("--kubeconfig").arg(&kubeconfig);
        command.arg("--node-kubeconfig").arg(&written_first);
        let process = self.host.spawn(name, command)?;
        let written = async || {
            let all = [&written_first, &kubeconfig].into_iter().all(|path| path.exists());
            ensure!(all, "no kubeconfigs");
            Ok(())
        };
        self.lab.wait_for(format!("the API server of {name} answers"), PATIENCE, written).await?;
        let client = client::from_kubeconfig(&kubeconfig).await?;
        self.clients.lock().expect("no panic").insert(name.to_owned(), client);
        Ok(process)
    }

    pub fn start_controller(&self, vip_range: &str) -> Result<Arc<Process>> {
        self.start_candidate("controller", vip_range, &QUICK_ELECTION)
    }

    /// A controller of this name among several.
    pub fn start_candidate(&self, name: &str, vip_range: &str, election: &[&str]) -> Result<Arc<Process>> {
        let mut command = self.controller_command()?;
        command.args(["--federation", FEDERATION, "--domain", "example.com", "--vip-range", vip_range]);
        command.arg("--kubeconfig").arg(self.lab.folder().join(HUB).join("admin.conf"));
        command.args(election);
        self.host.spawn(name, command)
    }

    /// Starts a command of this machine as a process of the lab.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Arc<Process>> {
        self.host.spawn(name, command)
    }

    /// A command on the machine of the tests.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.host.namespace().command(program)
    }

    pub fn controller_command(&self) -> Result<Command> {
        let mut command = self.host.namespace().command(program("federation-agent")?);
        command.arg("controller");
        Ok(command)
    }

    fn client(&self, name: &str) -> Client {
        self.clients.lock().expect("no panic").get(name).expect("an API server of that name").clone()
    }

    /// The Federation API.
    pub fn hub<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client(HUB), NAMESPACE)
    }

    /// The API of a member.
    pub fn site<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, site: Site) -> Api<K> {
        Api::namespaced(self.client(site.name), NAMESPACE)
    }

    /// Kinds of a member that are in no namespace.
    pub fn of_site<K: Resource<DynamicType = (), Scope = ClusterResourceScope>>(&self, site: Site) -> Api<K> {
        Api::all(self.client(site.name))
    }

    pub fn clusters(&self) -> Api<Cluster> {
        Api::all(self.client(HUB))
    }

    pub async fn create_namespace(&self, server: &str, name: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client(server));
        create(&namespaces, json!({ "metadata": { "name": name } })).await
    }

    pub async fn create_namespace_in(&self, site: Site) -> Result<()> {
        self.create_namespace(site.name, NAMESPACE).await
    }

    pub fn hub_in<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
    ) -> Api<K> {
        Api::namespaced(self.client(HUB), namespace)
    }

    pub async fn create_hub_namespace(&self, name: &str) -> Result<()> {
        self.create_namespace(HUB, name).await
    }

    /// Its credentials and its registration, at the Federation API.
    pub async fn register(&self, site: Site) -> Result<()> {
        let kubeconfig = self.kubeconfig(site)?;
        self.write_secret(site.name, &[("kubeconfig", &kubeconfig)]).await?;
        create(&self.clusters(), site.cluster()).await
    }

    pub fn kubeconfig(&self, site: Site) -> Result<String> {
        Ok(std::fs::read_to_string(self.lab.folder().join(site.name).join("admin.conf"))?)
    }

    /// The Secret with a cluster's credentials, new or changed.
    pub async fn write_secret(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client(HUB), SYSTEM_NAMESPACE);
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        let mut secret: Secret = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        secret.data = Some(data.collect());
        apply(&secrets, name, &secret).await
    }

    /// Creates the Service of the tests and waits until both sites have their shards.
    pub async fn create_service(&self) -> Result<()> {
        create(&self.hub::<Service>(), service()).await?;
        for site in [EUROPE, AMERICA] {
            self.shard(site).await?;
        }
        Ok(())
    }

    /// Waits until the shard of a site serves this port alone.
    pub async fn shard_has_port(&self, site: Site, expected: i32) -> Result<()> {
        let follows = async || {
            let spec = self.site::<Service>(site).get(SERVICE).await?.spec.unwrap_or_default();
            let ports: Vec<_> = spec.ports.iter().flatten().map(|port| port.port).collect();
            ensure!(ports == [expected], "{ports:?}");
            Ok(())
        };
        self.wait(&format!("{} has port {expected}", site.name), follows).await
    }

    /// The shard of a site, once it is there with our marks.
    pub async fn shard(&self, site: Site) -> Result<Service> {
        let marked = async || {
            let shard = self.site::<Service>(site).get(SERVICE).await?;
            let labels = shard.metadata.labels.clone().unwrap_or_default();
            ensure!(
                labels.get("federation.dev/federation").map(String::as_str) == Some(FEDERATION),
                "{labels:?}"
            );
            Ok(shard)
        };
        self.wait(&format!("{} has its shard", site.name), marked).await
    }

    /// Says at a site which of its endpoints there are, by address and readiness.
    pub async fn announce(&self, site: Site, endpoints: &[(&str, bool)]) -> Result<()> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, ready)| json!({ "addresses": [address], "conditions": { "ready": ready }, "nodeName": "n1" }))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "name": "my-service-x", "labels": { "kubernetes.io/service-name": SERVICE } },
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }))?;
        apply(&self.site(site), "my-service-x", &slice).await
    }

    /// The mirrored addresses of a site, in order.
    pub async fn mirrored(&self, site: Site) -> Result<Vec<String>> {
        let label = format!("{CLUSTER_LABEL}={}", site.name);
        let slices = self.hub::<EndpointSlice>().list(&ListParams::default().labels(&label)).await?;
        let mut addresses: Vec<_> = slices
            .items
            .into_iter()
            .flat_map(|slice| slice.endpoints)
            .flat_map(|endpoint| endpoint.addresses)
            .collect();
        addresses.sort();
        Ok(addresses)
    }

    pub async fn mirrored_becomes(&self, site: Site, expected: &[String]) -> Result<()> {
        let what = format!("{}'s mirrored endpoints are {expected:?}", site.name);
        let same = async || {
            let mirrored = self.mirrored(site).await?;
            ensure!(mirrored == expected, "they are {mirrored:?}");
            Ok(())
        };
        self.wait(&what, same).await
    }

    pub async fn status(&self) -> Result<FederatedServiceStatus> {
        let federated = self.hub::<FederatedService>().get(SERVICE).await?;
        federated.status.context("no status")
    }

    /// Waits until a condition of the service has this status and reason, and gives its message.
    pub async fn service_says(&self, type_: &str, status: &str, reason: &str) -> Result<String> {
        let said = async || said(&self.status().await?.conditions, type_, status, reason);
        self.wait(&format!("{type_} of the service is {status}, {reason}"), said).await
    }

    /// Waits until a condition of a site's Cluster has this status and reason, and gives its message.
    pub async fn cluster_says(&self, site: Site, type_: &str, status: &str, reason: &str) -> Result<String> {
        let said = async || {
            let cluster = self.clusters().get(site.name).await?;
            said(&cluster.status.context("no status")?.conditions, type_, status, reason)
        };
        self.wait(&format!("{type_} of {} is {status}, {reason}", site.name), said).await
    }

    /// Waits for an Event with this reason about an object of this kind, and gives its message.
    pub async fn event(&self, namespace: &str, kind: &str, reason: &str) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.client(HUB), namespace);
        let told = async || {
            let found = events.list(&ListParams::default()).await?.items.into_iter().find(|event| {
                event.involved_object.kind.as_deref() == Some(kind) && event.reason.as_deref() == Some(reason)
            });
            found.and_then(|event| event.message).context("no such Event")
        };
        self.wait(&format!("an Event {reason} about a {kind}"), told).await
    }

    pub async fn delete_service(&self) -> Result<()> {
        self.hub::<Service>().delete(SERVICE, &DeleteParams::default()).await?;
        Ok(())
    }

    pub async fn is_gone<K>(&self, api: Api<K>, name: &str) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let what = format!("{} {name} is gone", K::kind(&()));
        self.wait(&what, async || {
            ensure!(api.get_opt(name).await?.is_none(), "it is there");
            Ok(())
        })
        .await
    }

    pub async fn wait<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        self.lab.wait_for(what, PATIENCE, probe).await
    }
}

fn said(conditions: &[Condition], type_: &str, status: &str, reason: &str) -> Result<String> {
    let condition =
        conditions.iter().find(|condition| condition.type_ == type_).context("no such condition")?;
    ensure!(condition.status == status && condition.reason == reason, "it is {condition:?}");
    Ok(condition.message.clone())
}

pub async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

pub async fn apply<K>(api: &Api<K>, name: &str, object: &K) -> Result<()>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await?;
    Ok(())
}

pub async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<()>
where
    K: Clone + Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
