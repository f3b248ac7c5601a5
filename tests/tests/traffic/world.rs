//! A federation with a dual-stack service and a client, as every test here needs it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::{api::ScopeKind, dataplane::view::View};
use federation_ebpf::outcome::Outcome;
use federation_tests::{
    client,
    federation::{Federation, Member, PATIENCE, SERVICE_HTTP_PORT, my_dual_stack_service, three_clusters},
    lab::{Lab, Namespace, Node, Pod},
};
use k8s_openapi::api::core::v1::{Service, ServicePort};

pub const NEAR: &str = "europe-west1-d";
pub const NEXT: &str = "europe-west1-b";
pub const FAR: &str = "us-east1-b";

/// A port of the service behind which tests listen themselves, at the same number.
pub const STREAM: u16 = 9;

/// How long one request may take before it counts as failed.
pub const REQUEST: Duration = Duration::from_millis(500);

pub struct World {
    pub federation: Federation,
    /// On the only node of the first cluster.
    pub client: Pod,
    pub node: Node,
    /// One of each family.
    pub vips: [IpAddr; 2],
}

impl World {
    /// Clusters of the story, as many as asked for, with `servers` pods that serve in each.
    pub async fn new(clusters: usize, servers: usize) -> Result<Self> {
        let mut federation = Federation::start(Lab::new()?).await?;
        for spec in three_clusters().into_iter().take(clusters) {
            federation.add_cluster(spec, servers).await?;
        }
        federation.register_all().await?;
        federation.start_agents().await?;
        federation.create(&service()?).await?;
        federation.publish_all().await?;
        let node = node_of(federation.member(NEAR)?)?;
        let client = node.add_pod("client")?;
        let v4 = federation.vip(ScopeKind::Nearest, None).await?;
        let v6 = federation.vip_v6(ScopeKind::Nearest, None).await?;
        let world = Self { federation, client, node, vips: [v4.into(), v6.into()] };
        for vip in world.vips {
            world.leads_to(vip, NEAR).await?;
        }
        Ok(world)
    }

    pub fn lab(&self) -> &Lab {
        self.federation.lab()
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.federation.member(name)
    }

    /// Waits until requests of the client to the VIP are answered by `cluster`.
    pub async fn leads_to(&self, vip: IpAddr, cluster: &str) -> Result<()> {
        self.leads_from(self.client.namespace(), vip, cluster).await
    }

    /// Waits until requests from this network are.
    pub async fn leads_from(&self, from: &Namespace, vip: IpAddr, cluster: &str) -> Result<()> {
        let server = SocketAddr::new(vip, SERVICE_HTTP_PORT);
        let answered = async || {
            let answer = client::get(from, server, REQUEST).await?;
            ensure!(answer.cluster == cluster, "{answer:?} answers");
            Ok(())
        };
        let what = format!("{cluster} answers {} at {server}", from.name());
        self.lab().wait_for(what, PATIENCE, answered).await
    }

    /// Makes all pods of `cluster` unready and waits until both VIPs lead to `next`.
    pub async fn leave(&self, cluster: &str, next: &str) -> Result<()> {
        self.member(cluster)?.set_all_ready(false).await?;
        for vip in self.vips {
            self.leads_to(vip, next).await?;
        }
        Ok(())
    }

    /// What the client's node pins.
    pub fn view(&self) -> Result<View> {
        View::open(&self.member(NEAR)?.bpf_folder(self.lab(), &self.node))
    }

    /// Packets of the client's node with this outcome.
    pub fn count(&self, outcome: Outcome) -> Result<u64> {
        let outcomes = self.view()?.outcomes()?;
        let counted = outcomes.into_iter().find(|(counted, _)| *counted == outcome);
        counted.map(|(_, packets)| packets).with_context(|| format!("{outcome:?} is not counted"))
    }
}

/// The service of the story for both families, with one port more.
fn service() -> Result<Service> {
    let mut service = my_dual_stack_service()?;
    service.spec.get_or_insert_default().ports.get_or_insert_default().push(ServicePort {
        name: Some("stream".to_owned()),
        port: STREAM.into(),
        ..ServicePort::default()
    });
    Ok(service)
}

pub fn node_of(member: &Member) -> Result<Node> {
    member.cluster().nodes().pop().context("the cluster has a node")
}

/// The unspecified address of the same family.
pub fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}
