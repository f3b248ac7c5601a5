//! A whole federation in a lab: the real processes, clusters that are members, and a service to ask for.

mod login;
mod member;
mod slices;

use std::{
    ffi::OsString,
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::{FederatedService, SYSTEM_NAMESPACE, ScopeKind};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::lab::{ClusterSpec, Host, Lab, Node, Process, program};

pub use login::login;
pub use member::Member;
pub use slices::Listed;

pub const FEDERATION: &str = "my-federation";
pub const DOMAIN: &str = "example.com";
pub const VIP_RANGE: &str = "198.18.0.0/16";
pub const VIP_RANGE_V6: &str = "fd98:18::/112";
pub const NAMESPACE: &str = "my-namespace";
pub const SERVICE: &str = "my-service";

/// Where API servers listen on their hosts.
pub const API_PORT: u16 = 6443;
/// Where the servers in pods listen, for both protocols.
pub const HTTP_PORT: u16 = 8080;
/// The service's ports.
pub const SERVICE_HTTP_PORT: u16 = 80;
pub const SERVICE_ECHO_PORT: u16 = 7;

/// How long anything that must happen may take: generous, since machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What every role that acts for the federation is told.
const FLAGS: [&str; 8] =
    ["--federation", FEDERATION, "--domain", DOMAIN, "--vip-range", VIP_RANGE, "--vip-range", VIP_RANGE_V6];

/// The controller's process.
const CONTROLLER: &str = "controller";

/// Who writes the lab's objects.
const WRITER: &str = "federation-lab";

/// The federation. Dropping it removes its lab.
pub struct Federation {
    members: Vec<Member>,
    hub: Host,
    api: Client,
    kubeconfigs: Kubeconfigs,
    lab: Lab,
}

/// The files that an API server writes once it answers.
#[derive(Clone)]
struct Kubeconfigs {
    administrator: PathBuf,
    node: PathBuf,
}

/// Two regions; one of them has two zones, the other is some milliseconds away.
pub fn three_clusters() -> [ClusterSpec; 3] {
    [
        ClusterSpec::new("europe-west1-d", "europe-west1", "europe-west1-d", 8),
        ClusterSpec::new("europe-west1-b", "europe-west1", "europe-west1-b", 9),
        ClusterSpec::new("us-east1-b", "us-east1", "us-east1-b", 10).delayed_by(Duration::from_millis(5)),
    ]
}

/// The ordinary Service that the story is about.
pub fn my_service() -> Result<Service> {
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE },
        "spec": {
            "selector": { "app": SERVICE },
            "ports": [
                { "name": "http", "protocol": "TCP", "port": SERVICE_HTTP_PORT, "targetPort": HTTP_PORT },
                { "name": "echo", "protocol": "UDP", "port": SERVICE_ECHO_PORT, "targetPort": HTTP_PORT },
            ],
        },
    });
    serde_json::from_value(manifest).context("the manifest of the service")
}

/// The same Service for clients of both families.
pub fn my_dual_stack_service() -> Result<Service> {
    let mut service = my_service()?;
    service.spec.get_or_insert_default().ip_family_policy = Some("RequireDualStack".to_owned());
    Ok(service)
}

impl Federation {
    /// Everything up to and including a service that answers: three clusters, a node and two pods each.
    pub async fn running() -> Result<Self> {
        Self::running_with(&my_service()?).await
    }

    /// The same with another Service of the same name.
    pub async fn running_with(service: &Service) -> Result<Self> {
        let mut federation = Self::start(Lab::new()?).await?;
        for spec in three_clusters() {
            federation.add_cluster(spec, 2).await?;
        }
        federation.register_all().await?;
        federation.start_agents().await?;
        federation.create(service).await?;
        federation.publish_all().await?;
        Ok(federation)
    }

    /// The Federation API and the controller, on a host of their own.
    pub async fn start(lab: Lab) -> Result<Self> {
        let federation = Self::without_controller(lab).await?;
        federation.start_controller()?;
        Ok(federation)
    }

    /// The Federation API alone: what it holds is for the caller to write.
    pub async fn without_controller(lab: Lab) -> Result<Self> {
        let hub = lab.host("hub")?;
        let kubeconfigs = start_api_server(&lab, &hub, FEDERATION).await?;
        let api = login(hub.namespace(), &kubeconfigs.administrator).await?;
        make_namespace(&api, SYSTEM_NAMESPACE).await?;
        make_namespace(&api, NAMESPACE).await?;
        Ok(Self { members: Vec::new(), hub, api, kubeconfigs, lab })
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn hub(&self) -> &Host {
        &self.hub
    }

    /// The Federation API, with an administrator's rights.
    pub fn api(&self) -> &Client {
        &self.api
    }

    /// The administrator's kubeconfig of the Federation API; useful inside the lab only.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfigs.administrator
    }

    /// The administrators' kubeconfigs of the Federation API and of all members, as kubectl takes them: the first has the
    /// current context.
    ///
    /// # Errors
    /// Their paths cannot be joined.
    pub fn kubeconfigs(&self) -> Result<OsString> {
        let files = std::iter::once(self.kubeconfig()).chain(self.members.iter().map(Member::kubeconfig));
        std::env::join_paths(files).context("a kubeconfig's path has a colon")
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name() == name).with_context(|| format!("no cluster {name}"))
    }

    /// A cluster with its API server and one node with `servers` pods that serve; not a member yet.
    pub async fn add_cluster(&mut self, spec: ClusterSpec, servers: usize) -> Result<Member> {
        let cluster = self.lab.cluster(spec)?;
        let node = cluster.add_node()?;
        let member = Member::start(&self.lab, cluster).await?;
        member.make_namespace(NAMESPACE).await?;
        for number in 1..=servers {
            member.add_server(&self.lab, &node, &format!("pod{number}")).await?;
        }
        self.members.push(member.clone());
        Ok(member)
    }

    /// Registers all clusters and waits until the controller has accepted each.
    pub async fn register_all(&self) -> Result<()> {
        for member in &self.members {
            member.register(&self.api).await?;
        }
        for member in &self.members {
            let accepted = async || self.condition(member, "Accepted", "True").await;
            let what = format!("{} is accepted as a member", member.name());
            self.lab.wait_for(what, PATIENCE, accepted).await?;
        }
        Ok(())
    }

    /// Starts the agents of all nodes and waits until each is ready.
    pub async fn start_agents(&self) -> Result<()> {
        for (member, node) in self.nodes() {
            self.start_agent(member, &node)?;
        }
        for (member, node) in self.nodes() {
            member.agent_ready(&self.lab, &node).await?;
        }
        Ok(())
    }

    /// The process of the Federation API and that of its controller.
    pub fn processes(&self) -> Result<[Arc<Process>; 2]> {
        Ok([self.lab.process(&api_server_name(&self.hub))?, self.lab.process(CONTROLLER)?])
    }

    /// Starts the agent of one node, or starts it again.
    pub fn start_agent(&self, member: &Member, node: &Node) -> Result<Arc<Process>> {
        member.start_agent(&self.lab, node, &self.kubeconfigs.node)
    }

    pub fn start_controller(&self) -> Result<Arc<Process>> {
        let mut command = self.hub.namespace().command(program("federation-agent")?);
        command.arg("controller").args(FLAGS).arg("--kubeconfig").arg(self.kubeconfig());
        self.hub.spawn(CONTROLLER, command)
    }

    /// Creates a Service at the Federation API, as `kubectl create` does.
    pub async fn create(&self, service: &Service) -> Result<()> {
        let namespace = service.namespace().context("a Service without a namespace")?;
        let services = Api::<Service>::namespaced(self.api.clone(), &namespace);
        services.create(&PostParams::default(), service).await.map(drop).context("create the Service")
    }

    /// Publishes the endpoints of the service in every cluster.
    pub async fn publish_all(&self) -> Result<()> {
        for member in &self.members {
            member.publish(&self.lab, NAMESPACE, SERVICE).await?;
        }
        Ok(())
    }

    /// The service's IPv4 VIP of one scope, once the controller has given it one.
    pub async fn vip(&self, scope: ScopeKind, location: Option<&str>) -> Result<Ipv4Addr> {
        self.allocated(SERVICE, scope, location, "IPv4", v4).await
    }

    /// The IPv4 VIP of scope Nearest of another service in the same namespace.
    pub async fn nearest_vip_of(&self, service: &str) -> Result<Ipv4Addr> {
        self.allocated(service, ScopeKind::Nearest, None, "IPv4", v4).await
    }

    /// The service's IPv6 VIP of one scope, once the controller has given it one.
    pub async fn vip_v6(&self, scope: ScopeKind, location: Option<&str>) -> Result<Ipv6Addr> {
        let v6 = |ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None };
        self.allocated(SERVICE, scope, location, "IPv6", v6).await
    }

    async fn allocated<Ip>(
        &self,
        service: &str,
        scope: ScopeKind,
        location: Option<&str>,
        family: &str,
        of_family: impl Fn(IpAddr) -> Option<Ip>,
    ) -> Result<Ip> {
        let services = Api::<FederatedService>::namespaced(self.api.clone(), NAMESPACE);
        let allocated = async || {
            let status = services.get(service).await?.status.context("no status yet")?;
            let mut vips = status.vips.into_iter();
            let vip = vips.find(|vip| vip.scope == scope && vip.location.as_deref() == location);
            let ips = vip.context("no VIP of this scope yet")?.ips;
            ips.into_iter().find_map(&of_family).with_context(|| format!("no {family} address"))
        };
        let location = location.unwrap_or_default();
        let what = format!("{service} has an {family} VIP of scope {scope:?} {location}");
        self.lab.wait_for(what, PATIENCE, allocated).await
    }

    /// The running agent of one node.
    pub fn agent(&self, member: &Member, node: &Node) -> Result<Arc<Process>> {
        self.lab.process(&member::agent_name(member, node))
    }

    /// An agent with these options and nothing else than what every agent is told: one that may well refuse.
    pub fn agent_command(
        &self,
        host: &Host,
        options: &[(&str, &str)],
        bpf_dir: &Path,
        state_dir: &Path,
    ) -> Result<Command> {
        let mut command = host.namespace().command(program("federation-agent")?);
        command.arg("node").args(FLAGS);
        command.arg("--bpf-dir").arg(bpf_dir).arg("--state-dir").arg(state_dir);
        if options.iter().all(|(name, _)| *name != "--kubeconfig") {
            command.arg("--kubeconfig").arg(&self.kubeconfigs.node);
        }
        for (name, value) in options {
            command.args([name, value]);
        }
        Ok(command)
    }

    /// Waits until the federation has noticed that a cluster's API does not answer.
    pub async fn control_plane_unhealthy(&self, member: &Member) -> Result<()> {
        let noticed = async || self.condition(member, "ControlPlaneHealthy", "False").await;
        self.lab
            .wait_for(format!("the API of {} is known to be down", member.name()), PATIENCE, noticed)
            .await
    }

    async fn condition(&self, member: &Member, kind: &str, expected: &str) -> Result<()> {
        let clusters = Api::<federation_agent::api::Cluster>::all(self.api.clone());
        let status = clusters.get(member.name()).await?.status.context("no status yet")?;
        let condition = status.conditions.into_iter().find(|condition| condition.type_ == kind);
        let condition = condition.with_context(|| format!("nothing said about {kind} yet"))?;
        ensure!(condition.status == expected, "{kind}: {}: {}", condition.reason, condition.message);
        Ok(())
    }

    fn nodes(&self) -> impl Iterator<Item = (&Member, Node)> {
        self.members
            .iter()
            .flat_map(|member| member.cluster().nodes().into_iter().map(move |node| (member, node)))
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(ip) = ip { Some(ip) } else { None }
}

/// Starts an API server on `host`; both kubeconfigs are there when this returns.
async fn start_api_server(lab: &Lab, host: &Host, context: &str) -> Result<Kubeconfigs> {
    let folder = lab.folder().join(host.name());
    let kubeconfigs =
        Kubeconfigs { administrator: folder.join("admin.kubeconfig"), node: folder.join("node.kubeconfig") };
    let mut command = host.namespace().command(program("federation-agent")?);
    command.args(["apiserver", "--context", context]);
    command.arg("--listen").arg(format!("{}:{API_PORT}", host.address()));
    command.arg("--data-dir").arg(folder.join("data"));
    command.arg("--kubeconfig").arg(&kubeconfigs.administrator);
    command.arg("--node-kubeconfig").arg(&kubeconfigs.node);
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    host.spawn(&api_server_name(host), command)?;
    let written = async || {
        for file in [&kubeconfigs.administrator, &kubeconfigs.node] {
            file.metadata().with_context(|| format!("no {}", file.display()))?;
        }
        Ok(())
    };
    lab.wait_for(format!("the API server on {} answers", host.name()), PATIENCE, written).await?;
    Ok(kubeconfigs)
}

fn api_server_name(host: &Host) -> String {
    format!("{}-apiserver", host.name())
}

async fn make_namespace(api: &Client, name: &str) -> Result<()> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    apply(&Api::all(api.clone()), &Namespace { metadata, ..Namespace::default() }).await
}

/// Makes the object be as given, whether it is there or not.
async fn apply<Kind>(api: &Api<Kind>, object: &Kind) -> Result<()>
where
    Kind: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    let outcome = api.patch(&name, &PatchParams::apply(WRITER).force(), &Patch::Apply(object)).await;
    outcome.map(drop).with_context(|| format!("apply {} {name}", Kind::kind(&())))
}
