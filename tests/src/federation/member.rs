//! A member cluster that lives: its API server, its node agents, the servers in its pods.
//!
//! The lab plays the kubelet's and the endpoint controller's part: it says in the cluster's API which pods are there and
//! ready. What it says is true of the servers, except where a test takes a pod away through readiness.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use federation_agent::api::{
    Cluster as Registration, ClusterSpec as RegistrationSpec, CredentialsRef, SYSTEM_NAMESPACE,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, Service},
};
use kube::{Api, Client, api::ObjectMeta};

use super::{
    HTTP_PORT, Listed, PATIENCE, apply, login::login, make_namespace, slices::slices, start_api_server,
};
use crate::{
    client,
    lab::{Cluster, Lab, Node, Pod, Process, program},
};

/// By this file in its state folder an agent says that it is ready.
const READY: &str = "ready";

/// A member cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Member {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    api: Client,
    kubeconfig: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every pod with a server in it, by name, and whether it is ready.
    servers: Vec<(Pod, bool)>,
    /// The services, by namespace and name, whose endpoints are published.
    published: Vec<(String, String)>,
}

impl Member {
    pub(crate) async fn start(lab: &Lab, cluster: Cluster) -> Result<Self> {
        let host = cluster.control_plane();
        let kubeconfigs = start_api_server(lab, host, cluster.name()).await?;
        let api = login(host.namespace(), &kubeconfigs.administrator).await?;
        let inner = Inner { cluster, api, kubeconfig: kubeconfigs.administrator, state: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn name(&self) -> &str {
        self.inner.cluster.name()
    }

    pub fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    /// Its own API, with an administrator's rights.
    pub fn api(&self) -> &Client {
        &self.inner.api
    }

    /// The administrator's kubeconfig of its own API; useful inside the lab only.
    pub fn kubeconfig(&self) -> &Path {
        &self.inner.kubeconfig
    }

    /// Makes it a member: its credentials and its registration, at the Federation API.
    pub async fn register(&self, federation: &Client) -> Result<()> {
        let kubeconfig = std::fs::read(self.kubeconfig()).context("read the member's kubeconfig")?;
        let spec = self.inner.cluster.spec();
        let name = || Some(spec.name.clone());
        let secret = Secret {
            metadata: ObjectMeta { name: name(), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([("kubeconfig".to_owned(), ByteString(kubeconfig))])),
            ..Secret::default()
        };
        apply(&Api::namespaced(federation.clone(), SYSTEM_NAMESPACE), &secret).await?;
        let registration = RegistrationSpec {
            server: format!("https://{}:{}", self.cluster().control_plane().address(), super::API_PORT),
            credentials_ref: CredentialsRef { name: spec.name.clone() },
            provider: "lab".to_owned(),
            region: spec.region.clone(),
            zones: vec![spec.zone.clone()],
            reachability: federation_agent::api::Reachability::Pod,
            networks: spec.pods().to_vec(),
        };
        apply(&Api::all(federation.clone()), &Registration::new(&spec.name, registration)).await
    }

    /// A pod on `node` that serves over HTTP and UDP, and is ready once it does.
    pub async fn add_server(&self, lab: &Lab, node: &Node, name: &str) -> Result<Pod> {
        let pod = node.add_pod(name)?;
        self.start_server(lab, &pod).await?;
        self.state().servers.push((pod.clone(), true));
        Ok(pod)
    }

    /// Starts the server in a pod, or starts it again, and waits until it serves.
    pub async fn start_server(&self, lab: &Lab, pod: &Pod) -> Result<()> {
        let mut command = pod.namespace().command(program("echo")?);
        command.args([pod.cluster(), pod.name(), &HTTP_PORT.to_string()]);
        pod.spawn(command)?;
        let address = (pod.address(), HTTP_PORT).into();
        let answers = async || client::get(pod.namespace(), address, Duration::from_secs(1)).await;
        let what = format!("pod {} of {} serves", pod.name(), self.name());
        lab.wait_for(what, PATIENCE, answers).await.map(drop)
    }

    /// The pods with a server in them.
    pub fn servers(&self) -> Vec<Pod> {
        self.state().servers.iter().map(|(pod, _)| pod.clone()).collect()
    }

    /// Says in the cluster's API that its servers are the endpoints of the shard, once the shard is there.
    pub async fn publish(&self, lab: &Lab, namespace: &str, service: &str) -> Result<()> {
        self.has_shard(lab, namespace, service).await?;
        self.state().published.push((namespace.to_owned(), service.to_owned()));
        self.tell().await
    }

    /// Waits until it has its shard of a service.
    pub async fn has_shard(&self, lab: &Lab, namespace: &str, service: &str) -> Result<()> {
        let shards = Api::<Service>::namespaced(self.api().clone(), namespace);
        let what = format!("{} has its shard of {namespace}/{service}", self.name());
        lab.wait_for(what, PATIENCE, async || Ok(shards.get(service).await.map(drop)?)).await
    }

    /// Makes a pod ready or unready, as a readiness probe of its kubelet would; its server goes on serving.
    pub async fn set_ready(&self, pod: &Pod, ready: bool) -> Result<()> {
        let mark = |(other, state): &mut (Pod, bool)| {
            if other.name() == pod.name() {
                *state = ready;
            }
        };
        self.state().servers.iter_mut().for_each(mark);
        self.tell().await
    }

    /// Makes all its pods ready or unready.
    pub async fn set_all_ready(&self, ready: bool) -> Result<()> {
        self.state().servers.iter_mut().for_each(|(_, state)| *state = ready);
        self.tell().await
    }

    /// Starts the node agent of `node`, or starts it again.
    pub fn start_agent(&self, lab: &Lab, node: &Node, kubeconfig: &Path) -> Result<Arc<Process>> {
        let state = state_folder(lab, self, node);
        std::fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
        // One that was killed has left it, and says nothing of this one.
        drop(std::fs::remove_file(state.join(READY)));
        let mut command = node.namespace().command(program("federation-agent")?);
        command.arg("node").args(super::FLAGS);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(["--cluster", self.name(), "--zone", &self.cluster().spec().zone]);
        command.args(["--node-name", node.name(), "--uplink", "eth0"]);
        command.arg("--bpf-dir").arg(self.bpf_folder(lab, node));
        command.arg("--state-dir").arg(state);
        command.args(["--dns-listen", &node.dns().to_string()]);
        node.host().spawn(&agent_name(self, node), command)
    }

    /// Where the agent of `node` pins its programs and maps.
    pub fn bpf_folder(&self, lab: &Lab, node: &Node) -> PathBuf {
        lab.id().bpf_folder().join(format!("{}-{}", self.name(), node.name()))
    }

    /// Waits until the agent of `node` has programmed what the federation looked like when it started.
    pub async fn agent_ready(&self, lab: &Lab, node: &Node) -> Result<()> {
        let file = state_folder(lab, self, node).join(READY);
        let there = async || file.metadata().map(drop).with_context(|| format!("no {}", file.display()));
        lab.wait_for(format!("the agent of {} is ready", node.host().name()), PATIENCE, there).await
    }

    /// Publishes what is true now.
    async fn tell(&self) -> Result<()> {
        let (servers, published) = {
            let state = self.state();
            (state.servers.clone(), state.published.clone())
        };
        let servers: Vec<_> = servers.iter().map(|(pod, ready)| Listed::new(pod, *ready)).collect();
        for (namespace, name) in published {
            self.list(&namespace, &name, &servers).await?;
        }
        Ok(())
    }

    /// Says in the cluster's API what the endpoints of a shard are.
    pub async fn list(&self, namespace: &str, service: &str, endpoints: &[Listed]) -> Result<()> {
        let shard = Api::<Service>::namespaced(self.api().clone(), namespace).get(service).await?;
        let api = Api::namespaced(self.api().clone(), namespace);
        for slice in &slices(&shard, endpoints, &self.cluster().spec().zone)? {
            apply(&api, slice).await?;
        }
        Ok(())
    }

    pub async fn make_namespace(&self, name: &str) -> Result<()> {
        make_namespace(self.api(), name).await
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().expect("no holder of the state panics")
    }
}

pub(super) fn agent_name(member: &Member, node: &Node) -> String {
    format!("{}-{}-agent", member.name(), node.name())
}

fn state_folder(lab: &Lab, member: &Member, node: &Node) -> PathBuf {
    lab.folder().join(format!("{}-{}", member.name(), node.name()))
}
