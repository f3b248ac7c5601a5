//! Bare clusters: a host and two members, one of which has two nodes, with pods that could serve.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use federation_tests::{
    client,
    federation::PATIENCE,
    kubernetes::{Kubernetes, Pod as Container},
    lab::{ClusterSpec, Lab, Namespace, Pod},
};
use nix::net::if_::if_nameindex;

use crate::page::Page;

pub const EUROPE: &str = "europe-west1-d";
pub const AMERICA: &str = "us-east1-b";
/// The pod of a node's agent.
pub const AGENT: &str = "federation-agent-0";
/// Where agents answer DNS, as `deploy/settings` says.
pub const DNS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 11)), 53);

/// Dropping it removes everything.
pub struct World {
    pub host: Kubernetes,
    pub members: [Kubernetes; 2],
    folder: PathBuf,
    pub lab: Lab,
}

impl World {
    pub async fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let start = async |name: &str, region: &str, network, nodes| {
            Kubernetes::start(&lab, ClusterSpec::new(name, region, name, network), nodes).await
        };
        let host = start("host", "europe-west1", 7, 1).await?;
        let members = [start(EUROPE, "europe-west1", 8, 2).await?, start(AMERICA, "us-east1", 9, 1).await?];
        for cluster in &members {
            let node = cluster.kubelets()[0].node();
            cluster.member().add_server(&lab, node, "server").await?;
        }
        let folder = lab.folder().join("reader");
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        symlink(repository().join("deploy"), folder.join("deploy")).context("link the manifests")?;
        for cluster in [&host].into_iter().chain(&members) {
            let file = folder.join(format!("{}.conf", cluster.member().name()));
            fs::copy(cluster.kubeconfig(), file).context("hand the kubeconfigs out")?;
        }
        Ok(Self { host, members, folder, lab })
    }

    /// The page, for somebody who is where the host's API server is.
    pub fn page(&self) -> Result<Page<'_>> {
        let path = repository().join("docs/install.md");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let machine = self.host.member().cluster().control_plane();
        Ok(Page::new(&text, self.folder.clone(), machine.namespace(), &self.lab))
    }

    pub fn europe(&self) -> &Kubernetes {
        &self.members[0]
    }

    /// The agent of Europe's first node.
    pub fn agent(&self) -> Result<Arc<Container>> {
        self.europe().kubelets()[0].pod(AGENT)
    }

    /// A pod in Europe that asks.
    pub fn client(&self) -> Result<Pod> {
        self.europe().kubelets()[0].node().add_pod("client")
    }

    /// The members' endpoint controllers see the pods of a service.
    pub async fn publish(&self, namespace: &str, service: &str) -> Result<()> {
        for cluster in &self.members {
            cluster.member().publish(&self.lab, namespace, service).await?;
        }
        Ok(())
    }

    /// Waits until a cluster answers.
    pub async fn served_by(&self, from: &Namespace, server: SocketAddr, cluster: &str) -> Result<()> {
        let served = async || {
            let answer = client::get(from, server, PATIENCE).await?;
            ensure!(answer.cluster == cluster, "{answer:?} answers");
            Ok(())
        };
        self.lab.wait_for(format!("{cluster} answers at {server}"), PATIENCE, served).await
    }

    /// Nothing of ours is left on any node.
    pub fn is_clean(&self) -> Result<()> {
        for cluster in &self.members {
            for kubelet in cluster.kubelets() {
                for path in ["/sys/fs/bpf", "/var/lib/federation"] {
                    let folder = kubelet.path(path)?;
                    let left = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
                    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
                    ensure!(left.is_empty(), "{path} still has {left:?}");
                }
                let node = kubelet.node();
                let addresses = node.namespace().execute("ip", &["address", "show", "dev", "lo"])?;
                ensure!(!addresses.contains(&DNS.ip().to_string()), "{addresses}");
                let attached = node.namespace().run(programs)??;
                ensure!(attached.is_empty(), "still attached on {}: {attached:?}", node.host().name());
            }
        }
        Ok(())
    }
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The programs on all interfaces of this network namespace.
fn programs() -> Result<Vec<String>> {
    let mut attached = Vec::new();
    for interface in &if_nameindex()? {
        let name = interface.name().to_str()?.to_owned();
        for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx(&name, hook)
                .with_context(|| format!("ask what is attached to {name}"))?;
            attached.extend(programs.iter().map(|program| format!("{name}: {:?}", program.name_as_str())));
        }
    }
    Ok(attached)
}
