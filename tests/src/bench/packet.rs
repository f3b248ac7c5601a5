//! What a packet costs in the programs, over an empty program.

use std::{collections::BTreeMap, net::SocketAddr, slice, sync::Arc};

use anyhow::{Context as _, Result};
use federation_agent::{
    model::{Protocol, ServiceKey},
    plan::{Backend, Frontend, Plan, ServicePlan, Target},
};
use federation_ebpf::outcome::Outcome;

use super::{
    Case, Measurement, Promise,
    yardstick::{self, FILL, Probe, Samples, Segment, Yardstick, tcp},
};

pub const GROUP: &str = "packet/";

const NOT_OURS: f64 = 5.0;
const ESTABLISHED: f64 = 60.0;
const EDGE: f64 = 80.0;
/// Established, in floors.
const FLOORS: f64 = 1.5;

/// The floor program: the least that translating takes by this kernel's means.
const FLOOR: &str = "packet/floor";

/// The cases of one family that are measured of both.
struct Names {
    from_pod_not_ours: &'static str,
    from_pod_established: &'static str,
    to_pod_not_ours: &'static str,
    to_pod_established: &'static str,
}

const V4: Names = Names {
    from_pod_not_ours: "packet/from_pod/not_ours/v4",
    from_pod_established: "packet/from_pod/established/v4",
    to_pod_not_ours: "packet/to_pod/not_ours/v4",
    to_pod_established: "packet/to_pod/established/v4",
};
const V6: Names = Names {
    from_pod_not_ours: "packet/from_pod/not_ours/v6",
    from_pod_established: "packet/from_pod/established/v6",
    to_pod_not_ours: "packet/to_pod/not_ours/v6",
    to_pod_established: "packet/to_pod/established/v6",
};

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

/// A case: what is measured, and against the case of which empty program.
struct Row {
    name: &'static str,
    against: &'static str,
    /// Nanoseconds over the empty program, at most.
    promise: Option<f64>,
    probe: Probe,
}

/// Measures nanoseconds a packet over an empty program, and those of the empty programs.
///
/// # Errors
/// The programs cannot be loaded here, or do something else than what is to be measured.
pub fn measure() -> Result<Vec<Measurement>> {
    let (v4, v6) = (Ends::v4()?, Ends::v6()?);
    let mut yardstick = Yardstick::new("packet")?;
    yardstick.apply(&plan(&[&v4, &v6]))?;
    let mut rows = Vec::new();
    for (ends, names) in [(&v4, &V4), (&v6, &V6)] {
        ends.open(&yardstick)?;
        rows.extend(tc_rows(ends, names)?);
    }
    rows.extend(other_rows(&v4)?);
    let mut samples = in_turns(&yardstick, &rows)?;
    let by_floor = by_floor(&rows, &samples)?;

    // Last, for it drives the flows of all others out.
    let first = first(&v4)?;
    yardstick.run(first.probe.program, &first.probe.packet, FILL)?;
    samples.extend(in_turns(&yardstick, slice::from_ref(&first))?);
    rows.push(first);

    let mut measured = Vec::new();
    let mut empty: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (row, samples) in rows.iter().zip(&samples) {
        let Row { name, against, promise, .. } = *row;
        let promise = promise.map(Promise::AtMost);
        measured.push(Case { name, unit: "ns", against: Some(against), promise }.alone(&samples.over)?);
        empty.entry(against).or_default().extend(&samples.empty);
    }
    measured.extend(by_floor);
    for (name, samples) in empty {
        measured.push(Case { name, unit: "ns", against: None, promise: None }.alone(&samples)?);
    }
    Ok(measured)
}

fn in_turns(yardstick: &Yardstick, rows: &[Row]) -> Result<Vec<Samples>> {
    yardstick::in_turns(&rows.iter().map(|row| (yardstick, &row.probe)).collect::<Vec<_>>())
}

/// What both programs do with both kinds of packets that they see most.
fn tc_rows(ends: &Ends, names: &Names) -> Result<[Row; 4]> {
    let (empty, restored) = ("packet/empty", "packet/empty_restored");
    let stranger = || tcp(ends.client, ends.backend, Segment::Ack);
    let answer = tcp(ends.backend, ends.client, Segment::Ack)?;
    Ok([
        Row::new(names.from_pod_not_ours, "from_pod", empty, stranger()?)?.at_most(NOT_OURS),
        Row::new(names.from_pod_established, "from_pod_restored", restored, ends.request()?)?
            .at_most(ESTABLISHED)
            .meeting(Outcome::Forwarded),
        Row::new(names.to_pod_not_ours, "to_pod", empty, stranger()?)?.at_most(NOT_OURS),
        Row::new(names.to_pod_established, "to_pod_restored", restored, answer)?
            .at_most(ESTABLISHED)
            .meeting(Outcome::Replied),
    ])
}

fn other_rows(v4: &Ends) -> Result<[Row; 4]> {
    let refused = tcp(v4.client, v4.closed, Segment::Syn)?;
    let stranger = tcp(v4.client, v4.backend, Segment::Ack)?;
    let outside = tcp(v4.client, v4.local_vip, Segment::Ack)?;
    Ok([
        Row::new(FLOOR, "floor_restored", "packet/empty_restored", v4.request()?)?,
        Row::new("packet/from_pod/refused/v4", "from_pod_refused", "packet/empty_reshaped", refused)?
            .meeting(Outcome::NoFrontend),
        Row::new("packet/edge/not_ours/v4", "edge", "packet/empty_xdp", stranger)?,
        Row::new("packet/edge/established/v4", "edge_restored", "packet/empty_xdp_restored", outside)?
            .at_most(EDGE)
            .meeting(Outcome::Forwarded),
    ])
}

/// The first packet of another connection each time.
fn first(v4: &Ends) -> Result<Row> {
    let syn = tcp(v4.client, v4.vip, Segment::Syn)?;
    let row = Row::new("packet/from_pod/first/v4", "from_pod_first", "packet/empty_first", syn)?;
    Ok(row.meeting(Outcome::Opened))
}

/// The established flows of IPv4 against the floor program, both over the same empty one.
fn by_floor(rows: &[Row], samples: &[Samples]) -> Result<Vec<Measurement>> {
    let of = |name: &str| {
        let row = rows.iter().position(|row| row.name == name).with_context(|| format!("no case {name}"))?;
        anyhow::Ok(&samples[row].over)
    };
    [
        ("packet/from_pod/established/v4_by_floor", V4.from_pod_established),
        ("packet/to_pod/established/v4_by_floor", V4.to_pod_established),
    ]
    .into_iter()
    .map(|(name, own)| {
        let promise = Some(Promise::RatioAtMost(FLOORS));
        Case { name, unit: "ns", against: Some(FLOOR), promise }.beside(of(own)?, of(FLOOR)?)
    })
    .collect()
}

impl Row {
    fn new(
        name: &'static str,
        program: &'static str,
        against: &'static str,
        packet: Vec<u8>,
    ) -> Result<Self> {
        let empty = against.strip_prefix(GROUP);
        let empty = empty.with_context(|| format!("{name} is measured against no program"))?;
        Ok(Self { name, against, promise: None, probe: Probe { program, empty, packet, outcome: None } })
    }

    fn at_most(self, nanoseconds: f64) -> Self {
        Self { promise: Some(nanoseconds), ..self }
    }

    fn meeting(self, outcome: Outcome) -> Self {
        Self { probe: Probe { outcome: Some(outcome), ..self.probe }, ..self }
    }
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
    let service = ServicePlan { frontends: frontends.collect(), dead: [].into() };
    [(ServiceKey::new("my-namespace", "my-service"), service)].into_iter().collect()
}

/// A service with one endpoint.
fn frontend(vip: SocketAddr, backend: SocketAddr, local: bool) -> (Frontend, Arc<Target>) {
    let backend =
        Backend { address: backend, protocol: Protocol::Tcp, cluster: "europe-west1-d".into(), local };
    let target = Arc::new(Target::of([(backend, 100)]));
    (Frontend { vip: vip.ip(), protocol: Protocol::Tcp, port: vip.port() }, target)
}
