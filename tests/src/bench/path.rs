//! What a VIP costs on the way of real packets: round trips and throughput against the pod's own address.
//!
//! A client pod and a server pod on two nodes of one cluster. Both connections stay open, and blocks over the one and
//! the other alternate, so that whatever else the machine does hits both.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::ScopeKind;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::{
    Case, Measurement, Promise,
    stream::{self, Connection},
    wanted,
};
use crate::{
    federation::{Federation, NAMESPACE, PATIENCE, SERVICE, three_clusters},
    figures::percentile,
    lab::{Lab, Namespace},
};

const LATENCY: &str = "path/latency/vip";
const LATENCY_DIRECT: &str = "path/latency/direct";
const THROUGHPUT: &str = "path/throughput/vip";
const THROUGHPUT_DIRECT: &str = "path/throughput/direct";

pub const GROUP: &str = "path/";
const LATENCY_GROUP: &str = "path/latency/";
const THROUGHPUT_GROUP: &str = "path/throughput/";

/// Where the measured server listens, behind the VIP and on the pod.
const PORT: u16 = 9;

/// Pairs of blocks of round trips, and the round trips of a block: some tens of milliseconds each.
const LATENCY_BLOCKS: usize = 150;
const ROUND_TRIPS: usize = 500;

/// Pairs of blocks of bytes, each as many as take about a second.
const THROUGHPUT_BLOCKS: usize = 30;
const FIRST_BLOCK: u64 = 256 << 20;

/// The lab that both cases need.
struct Ways {
    client: Namespace,
    vip: SocketAddr,
    direct: SocketAddr,
    /// Keeps all of it alive.
    _federation: Federation,
}

/// Samples of both ways, taken in turns.
#[derive(Default)]
struct Pairs {
    vip: Vec<f64>,
    direct: Vec<f64>,
}

/// Measures those of the cases whose names begin with `only`, each with its peer.
pub async fn measure(only: &str) -> Result<Vec<Measurement>> {
    eprintln!("a lab starts: a client pod and a server pod on two nodes");
    let ways = Ways::lay().await?;
    let mut measured = Vec::new();
    if wanted(LATENCY_GROUP, only) {
        eprintln!("round trips through the VIP and to the pod's own address");
        let pairs = ways.latency()?;
        measured.extend(pairs.measured(LATENCY, LATENCY_DIRECT, "us", Promise::RatioAtMost(1.02))?);
    }
    if wanted(THROUGHPUT_GROUP, only) {
        eprintln!("throughput through the VIP and to the pod's own address");
        let pairs = ways.throughput()?;
        measured.extend(pairs.measured(
            THROUGHPUT,
            THROUGHPUT_DIRECT,
            "Gbit/s",
            Promise::RatioAtLeast(0.98),
        )?);
    }
    Ok(measured)
}

impl Ways {
    async fn lay() -> Result<Self> {
        let mut federation = Federation::start(Lab::new()?).await?;
        let [spec, ..] = three_clusters();
        let member = federation.add_cluster(spec, 0).await?;
        let [near, far] = [member.cluster().nodes().into_iter().next(), Some(member.cluster().add_node()?)];
        let (near, far) = near.zip(far).context("a cluster without nodes")?;
        federation.register_all().await?;
        federation.start_agents().await?;

        let server = member.add_server(federation.lab(), &far, "server").await?;
        stream::serve(server.namespace(), (Ipv4Addr::UNSPECIFIED, PORT).into())?;
        federation.create(&service()?).await?;
        federation.publish_all().await?;
        let vip = SocketAddr::from((federation.vip(ScopeKind::Nearest, None).await?, PORT));
        let client = near.add_pod("client")?.namespace().clone();
        let through = async || Connection::open(&client, vip).and_then(|mut way| way.round_trips(1));
        federation.lab().wait_for(format!("{vip} leads to the server"), PATIENCE, through).await?;
        Ok(Self { client, vip, direct: (server.address(), PORT).into(), _federation: federation })
    }

    fn open(&self) -> Result<[Connection; 2]> {
        Ok([Connection::open(&self.client, self.vip)?, Connection::open(&self.client, self.direct)?])
    }

    /// Each sample is the median of a block.
    fn latency(&self) -> Result<Pairs> {
        let block = |way: &mut Connection| {
            percentile(&way.round_trips(ROUND_TRIPS)?, 0.5).context("a block without round trips")
        };
        self.alternate(LATENCY_BLOCKS, block)
    }

    /// Each sample is the rate of a block.
    #[expect(clippy::cast_precision_loss, reason = "far fewer bytes than 2^53")]
    fn throughput(&self) -> Result<Pairs> {
        let [_, mut direct] = self.open()?;
        let seconds = direct.transfer(FIRST_BLOCK)?.as_secs_f64();
        ensure!(seconds > 0.0, "{FIRST_BLOCK} bytes took no time");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
        let bytes = (FIRST_BLOCK as f64 / seconds) as u64;
        self.alternate(THROUGHPUT_BLOCKS, |way| {
            let seconds = way.transfer(bytes)?.as_secs_f64();
            Ok(bytes as f64 * 8.0 / seconds / 1e9)
        })
    }

    /// Blocks over both ways in turns; who is first alternates too, and the first pair warms up and does not count.
    fn alternate(
        &self,
        blocks: usize,
        mut block: impl FnMut(&mut Connection) -> Result<f64>,
    ) -> Result<Pairs> {
        let [mut vip, mut direct] = self.open()?;
        let mut pairs = Pairs::default();
        for number in 0..=blocks {
            let (through, own) = if number % 2 == 0 {
                let through = block(&mut vip)?;
                (through, block(&mut direct)?)
            } else {
                let own = block(&mut direct)?;
                (block(&mut vip)?, own)
            };
            if number > 0 {
                pairs.vip.push(through);
                pairs.direct.push(own);
            }
        }
        Ok(pairs)
    }
}

impl Pairs {
    fn measured(
        &self,
        vip: &'static str,
        direct: &'static str,
        unit: &'static str,
        promise: Promise,
    ) -> Result<[Measurement; 2]> {
        let case = Case { name: vip, unit, against: Some(direct), promise: Some(promise) };
        let peer = Case { name: direct, unit, against: None, promise: None };
        Ok([case.beside(&self.vip, &self.direct)?, peer.alone(&self.direct)?])
    }
}

fn service() -> Result<Service> {
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE },
        "spec": { "ports": [{ "name": "stream", "protocol": "TCP", "port": PORT, "targetPort": PORT }] },
    });
    serde_json::from_value(manifest).context("the manifest of the service")
}
