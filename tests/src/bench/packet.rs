//! What a packet costs in the programs, over an empty program.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result};
use federation_agent::{
    model::{Protocol, Scope, ServiceKey},
    plan::{Backend, Frontend, Plan, Target},
};
use federation_ebpf::outcome::Outcome;

use super::{
    Case, Measurement, Promise,
    yardstick::{self, FILL, Probe, Samples, Segment, Yardstick, tcp},
};

pub const GROUP: &str = "packet/";

const NOT_OURS: Option<f64> = Some(5.0);
const ESTABLISHED: Option<f64> = Some(60.0);
const EDGE: Option<f64> = Some(80.0);
/// Established, in floors.
const FLOORS: f64 = 1.5;

/// The floor program: the least that translating takes by this kernel's means.
const FLOOR: &str = "packet/floor";

/// The ends of all packets, of one family.
struct Ends {
    client: SocketAddr,
    vip: SocketAddr,
    /// A VIP whose backend is on this node.
    local_vip: SocketAddr,
    /// A port that the VIP does not serve.
    closed: SocketAddr,
    backend: SocketAddr,
    local_backend: SocketAddr,
}

/// A case: its name, the measured program, the empty one by its case's name, and what is promised over that.
struct Row(&'static str, &'static str, &'static str, Option<f64>, Vec<u8>, Option<Outcome>);

/// Measures nanoseconds a packet over an empty program, and those of the empty programs.
///
/// # Errors
/// The programs cannot be loaded here, or do something else than what is to be measured.
pub fn measure() -> Result<Vec<Measurement>> {
    let (v4, v6) = (Ends::v4()?, Ends::v6()?);
    let mut yardstick = Yardstick::new("packet")?;
    yardstick.apply(&plan(&[&v4, &v6]))?;
    for ends in [&v4, &v6] {
        ends.open(&yardstick)?;
    }
    let rows = rows(&v4, &v6)?;
    let samples = in_turns(&yardstick, &rows)?;

    // Last, for it drives the flows of all others out.
    let first = first(&v4)?;
    yardstick.run("from_pod_first", &first[0].4, FILL)?;
    let first_samples = in_turns(&yardstick, &first)?;

    let mut measured = Vec::new();
    let mut empty: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (Row(name, _, against, promise, ..), samples) in
        rows.iter().chain(&first).zip(samples.iter().chain(&first_samples))
    {
        let promise = promise.map(Promise::AtMost);
        measured.push(Case { name, unit: "ns", against: Some(against), promise }.alone(&samples.over)?);
        empty.entry(against).or_default().extend(&samples.empty);
    }
    measured.extend(by_floor(&rows, &samples)?);
    for (name, samples) in empty {
        measured.push(Case { name, unit: "ns", against: None, promise: None }.alone(&samples)?);
    }
    Ok(measured)
}

fn rows(v4: &Ends, v6: &Ends) -> Result<Vec<Row>> {
    let (empty, restored) = ("packet/empty", "packet/empty_restored");
    let (xdp, xdp_restored) = ("packet/empty_xdp", "packet/empty_xdp_restored");
    let (forwarded, replied) = (Some(Outcome::Forwarded), Some(Outcome::Replied));
    let mut rows = Vec::new();
    for (ends, names) in [(v4, NAMES_V4), (v6, NAMES_V6)] {
        let [from_not_ours, from_established, to_not_ours, to_established] = names;
        let stranger = tcp(ends.client, ends.backend, Segment::Ack)?;
        let (request, answer) = (ends.request()?, tcp(ends.backend, ends.client, Segment::Ack)?);
        rows.extend([
            Row(from_not_ours, "from_pod", empty, NOT_OURS, stranger.clone(), None),
            Row(from_established, "from_pod_restored", restored, ESTABLISHED, request, forwarded),
            Row(to_not_ours, "to_pod", empty, NOT_OURS, stranger, None),
            Row(to_established, "to_pod_restored", restored, ESTABLISHED, answer, replied),
        ]);
    }
    let stranger = tcp(v4.client, v4.backend, Segment::Ack)?;
    let refused = tcp(v4.client, v4.closed, Segment::Syn)?;
    let outside = tcp(v4.client, v4.local_vip, Segment::Ack)?;
    rows.extend([
        Row(FLOOR, "floor_restored", restored, None, v4.request()?, None),
        Row(
            "packet/from_pod/refused/v4",
            "from_pod_refused",
            "packet/empty_reshaped",
            None,
            refused,
            Some(Outcome::NoFrontend),
        ),
        Row("packet/edge/not_ours/v4", "edge", xdp, None, stranger, None),
        Row("packet/edge/established/v4", "edge_restored", xdp_restored, EDGE, outside, forwarded),
    ]);
    Ok(rows)
}

const NAMES_V4: [&str; 4] = [
    "packet/from_pod/not_ours/v4",
    "packet/from_pod/established/v4",
    "packet/to_pod/not_ours/v4",
    "packet/to_pod/established/v4",
];
const NAMES_V6: [&str; 4] = [
    "packet/from_pod/not_ours/v6",
    "packet/from_pod/established/v6",
    "packet/to_pod/not_ours/v6",
    "packet/to_pod/established/v6",
];

/// The first packet of another connection each time.
fn first(v4: &Ends) -> Result<[Row; 1]> {
    let syn = tcp(v4.client, v4.vip, Segment::Syn)?;
    let (name, empty) = ("packet/from_pod/first/v4", "packet/empty_first");
    Ok([Row(name, "from_pod_first", empty, None, syn, Some(Outcome::Opened))])
}

fn in_turns(yardstick: &Yardstick, rows: &[Row]) -> Result<Vec<Samples>> {
    let probes = rows.iter().map(|Row(name, program, against, _, packet, outcome)| {
        let empty = against.strip_prefix(GROUP);
        let empty = empty.with_context(|| format!("{name} is measured against no program"))?;
        Ok((yardstick, Probe { program, empty, packet: packet.clone(), outcome: *outcome }))
    });
    yardstick::in_turns(&probes.collect::<Result<Vec<_>>>()?)
}

/// The established flows of IPv4 against the floor program, both over the same empty one.
fn by_floor(rows: &[Row], samples: &[Samples]) -> Result<Vec<Measurement>> {
    let of = |name: &str| {
        let row = rows.iter().position(|row| row.0 == name).with_context(|| format!("no case {name}"))?;
        anyhow::Ok(&samples[row].over)
    };
    [
        ("packet/from_pod/established/v4_by_floor", "packet/from_pod/established/v4"),
        ("packet/to_pod/established/v4_by_floor", "packet/to_pod/established/v4"),
    ]
    .into_iter()
    .map(|(name, own)| {
        let promise = Some(Promise::RatioAtMost(FLOORS));
        Case { name, unit: "ns", against: Some(FLOOR), promise }.beside(of(own)?, of(FLOOR)?)
    })
    .collect()
}

impl Ends {
    fn v4() -> Result<Self> {
        Ok(Self {
            client: "10.8.1.2:40000".parse()?,
            vip: "198.18.0.7:80".parse()?,
            local_vip: "198.18.0.8:80".parse()?,
            closed: "198.18.0.7:81".parse()?,
            backend: "10.8.2.2:8080".parse()?,
            local_backend: "10.8.1.3:8080".parse()?,
        })
    }

    fn v6() -> Result<Self> {
        Ok(Self {
            client: "[fd08::1:2]:40000".parse()?,
            vip: "[fd98::7]:80".parse()?,
            local_vip: "[fd98::8]:80".parse()?,
            closed: "[fd98::7]:81".parse()?,
            backend: "[fd08::2:2]:8080".parse()?,
            local_backend: "[fd08::1:3]:8080".parse()?,
        })
    }

    /// Of an established connection.
    fn request(&self) -> Result<Vec<u8>> {
        tcp(self.client, self.vip, Segment::Ack)
    }

    /// Opens the connections that are measured, so far that nothing more is to be noted of them.
    fn open(&self, yardstick: &Yardstick) -> Result<()> {
        for segment in [Segment::Syn, Segment::Ack] {
            yardstick.run("from_pod", &tcp(self.client, self.vip, segment)?, 1)?;
            yardstick.run("edge", &tcp(self.client, self.local_vip, segment)?, 1)?;
        }
        Ok(())
    }
}

fn plan(families: &[&Ends]) -> Plan {
    let frontends = families.iter().flat_map(|ends| {
        [frontend(ends.vip, ends.backend, false), frontend(ends.local_vip, ends.local_backend, true)]
    });
    Plan { frontends: frontends.collect(), dead: [].into() }
}

/// A service with one endpoint.
fn frontend(vip: SocketAddr, backend: SocketAddr, local: bool) -> (Frontend, Target) {
    let backend =
        Backend { address: backend, protocol: Protocol::Tcp, cluster: "europe-west1-d".into(), local };
    let target = Target {
        service: ServiceKey::new("my-namespace", "my-service"),
        scope: Scope::Nearest,
        client_ip_affinity: false,
        backends: [(backend, 100)].into(),
    };
    (Frontend { vip: vip.ip(), protocol: Protocol::Tcp, port: vip.port() }, target)
}
