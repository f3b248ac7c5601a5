//! What a cluster of the lab has beside our API server, so that manifests can be applied to it as to a real one.
//!
//! [`front`] stands before the API server: it knows service accounts by their tokens, allows what the RBAC rules that were
//! applied allow ([`rules`]), and keeps the kinds that the API server has none of ([`shelf`]). [`kubelet`] starts what a pod
//! template says on a node, in a [`sandbox`] made of what the template names and of nothing else, and
//! [`workloads`] has one of it on each node of a `DaemonSet`, as many as a Deployment says.
//!
//! Whatever a pod template has that is not played here is refused ([`template`]): manifests are true, or they do not start.

mod front;
mod kubelet;
mod rules;
mod sandbox;
mod shelf;
mod template;
mod workloads;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use serde_json::json;

use crate::{
    federation::Member,
    lab::{ClusterSpec, Lab, Node},
};

pub use front::Front;
pub use kubelet::{Kubelet, Pod, Ran};
pub use template::Probe;

/// A cluster with a front, and a kubelet on each node.
pub struct Kubernetes {
    member: Member,
    front: Arc<Front>,
    kubelets: Arc<[Arc<Kubelet>]>,
    kubeconfig: PathBuf,
}

impl Kubernetes {
    /// A cluster with `nodes` nodes, and nothing of ours on it.
    pub async fn start(lab: &Lab, spec: ClusterSpec, nodes: usize) -> Result<Self> {
        let cluster = lab.cluster(spec)?;
        let member = Member::start(lab, cluster.clone()).await?;
        let front = Front::start(cluster.control_plane(), member.api().clone())
            .with_context(|| format!("start what stands before the API server of {}", member.name()))?;
        let mut kubelets = Vec::new();
        for _ in 0..nodes {
            let node = cluster.add_node()?;
            register(&member, &node).await?;
            kubelets.push(Arc::new(Kubelet::new(lab, &member, &node, &front)));
        }
        let kubeconfig = lab.folder().join(format!("{}.conf", member.name()));
        let text = front.kubeconfig(member.name())?;
        std::fs::write(&kubeconfig, text).with_context(|| format!("write {}", kubeconfig.display()))?;
        let kubelets: Arc<[_]> = kubelets.into();
        tokio::spawn(workloads::run(Arc::clone(&front), Arc::clone(&kubelets)));
        Ok(Self { member, front, kubelets, kubeconfig })
    }

    /// The cluster as the rest of the lab knows it.
    pub fn member(&self) -> &Member {
        &self.member
    }

    pub fn front(&self) -> &Front {
        &self.front
    }

    /// The administrator's kubeconfig of its API, by way of the front.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// One for each node, in their order.
    pub fn kubelets(&self) -> &[Arc<Kubelet>] {
        &self.kubelets
    }
}

/// A node says of itself what a cloud's does.
async fn register(member: &Member, node: &Node) -> Result<()> {
    let spec = member.cluster().spec();
    let pods = Ipv4Net::new(node.gateway(), 24)?.trunc();
    let object: NodeObject = serde_json::from_value(json!({
        "metadata": { "name": node.name(), "labels": {
            "topology.kubernetes.io/region": spec.region, "topology.kubernetes.io/zone": spec.zone,
        } },
        "spec": { "podCIDR": pods, "podCIDRs": [pods], "providerID": format!("lab:///{}/{}", spec.zone, node.name()) },
    }))?;
    let nodes = Api::<NodeObject>::all(member.api().clone());
    nodes.create(&kube::api::PostParams::default(), &object).await.map(drop).context("register a node")
}
