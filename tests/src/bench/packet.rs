//! What a packet costs in the tc programs, over an empty program.
//!
//! The kernel repeats a program on one packet and tells the mean; a program that rewrites would meet its own output from
//! the second time on, so it is run in a form that puts the bytes back, and what the putting back costs is measured in
//! the same way and subtracted. Samples of both alternate, so that a busy moment hits both.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    programs::{SchedClassifier, TestRun as _},
};
use etherparse::PacketBuilder;
use federation_agent::{
    dataplane::{self, Config, DataPlane, TcAttach},
    model::{Protocol, Scope, ServiceKey},
    plan::{Backend, Frontend, Plan, Target},
};
use federation_ebpf::maps::{Range, SCHEMA};

use super::{Case, Measurement, Promise};

static YARDSTICK: &[u8] = aya::include_bytes_aligned!(env!("FEDERATION_YARDSTICK"));

/// Samples of each case.
const SAMPLES: usize = 60;
/// Packets in each sample: a millisecond or so, shorter than most disturbances.
const PACKETS: u32 = 20_000;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 8, 1, 2), 40_000);
const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 7), 80);
const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 8, 2, 2), 8080);

pub const CASES: &[&str] = &[
    "packet/from_pod/not_ours",
    "packet/from_pod/established",
    "packet/to_pod/not_ours",
    "packet/to_pod/established",
    EMPTY,
    EMPTY_RESTORED,
];
const EMPTY: &str = "packet/empty";
const EMPTY_RESTORED: &str = "packet/empty_restored";

/// What a program needs for one packet, less what an empty program needs for it.
#[derive(Clone, Copy, Debug)]
struct Sample {
    over: f64,
    empty: f64,
}

/// Measures `from_pod` and `to_pod`: nanoseconds a packet over an empty program, and those of the empty programs.
///
/// # Errors
/// The programs cannot be loaded here.
pub fn measure() -> Result<Vec<Measurement>> {
    let bench = Bench::new()?;
    let request = tcp(CLIENT, VIP)?;
    let answer = tcp(BACKEND, CLIENT)?;
    let stranger = tcp(CLIENT, BACKEND)?;
    // The first packet opens the flow; all that are measured are of an established one.
    bench.run("from_pod", &request, 1)?;
    let cases = [
        ("packet/from_pod/not_ours", 5.0, "from_pod", EMPTY, &stranger),
        ("packet/from_pod/established", 60.0, "from_pod_restored", EMPTY_RESTORED, &request),
        ("packet/to_pod/not_ours", 5.0, "to_pod", EMPTY, &stranger),
        ("packet/to_pod/established", 60.0, "to_pod_restored", EMPTY_RESTORED, &answer),
    ];
    let mut measured = Vec::new();
    let mut empty: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, promise, program, against, packet) in cases {
        let peer = if against == EMPTY { "empty" } else { "empty_restored" };
        let samples = bench.over(program, peer, packet)?;
        let promise = Some(Promise::AtMost(promise));
        let over: Vec<_> = samples.iter().map(|sample| sample.over).collect();
        measured.push(Case { name, unit: "ns", against: Some(against), promise }.alone(&over)?);
        empty.entry(against).or_default().extend(samples.iter().map(|sample| sample.empty));
    }
    for (name, samples) in empty {
        measured.push(Case { name, unit: "ns", against: None, promise: None }.alone(&samples)?);
    }
    Ok(measured)
}

/// The measured programs on the maps of a data plane with one frontend and one backend.
struct Bench {
    programs: Ebpf,
    _pins: PinGuard,
}

struct PinGuard(PathBuf);

impl Drop for PinGuard {
    fn drop(&mut self) {
        // Nobody is left to tell; what stays behind is seen by its name.
        let _ = dataplane::detach_all(&self.0);
        let _ = fs::remove_dir(&self.0);
    }
}

impl Bench {
    fn new() -> Result<Self> {
        ensure!(!YARDSTICK.is_empty(), "built without eBPF programs (AYA_BUILD_SKIP): build again");
        let pins = PinGuard(Path::new("/sys/fs/bpf").join(format!("fed-bench-{}", std::process::id())));
        let vip_ranges = vec!["198.18.0.0/16".parse().context("the range of VIPs")?];
        let mut data_plane = DataPlane::open(&Config {
            bpf_dir: pins.0.clone(),
            vip_ranges,
            tc_attach: TcAttach::Auto,
            seed: 1,
        })?;
        data_plane.apply(&plan())?;

        let maps = pins.0.join(format!("v{SCHEMA}/maps"));
        let mut paths = Vec::new();
        for entry in fs::read_dir(&maps).with_context(|| format!("list {}", maps.display()))? {
            let entry = entry?;
            paths.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
        let range: Range<[u8; 4]> = Range { network: [198, 18, 0, 0], mask: [255, 255, 0, 0] };
        let mut loader = EbpfLoader::new();
        loader.override_global("VIP_V4", &range, true);
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut programs = loader.load(YARDSTICK).context("load the measured programs")?;
        for program in
            ["from_pod", "to_pod", "empty", "from_pod_restored", "to_pod_restored", "empty_restored"]
        {
            let program: &mut SchedClassifier =
                programs.program_mut(program).with_context(|| format!("no program {program}"))?.try_into()?;
            program.load()?;
        }
        Ok(Self { programs, _pins: pins })
    }

    /// Mean nanoseconds of one run.
    fn run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<f64> {
        let loaded: &SchedClassifier =
            self.programs.program(program).with_context(|| format!("no program {program}"))?.try_into()?;
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        let result = loaded.test_run(options).with_context(|| format!("run {program}"))?;
        Ok(result.duration.as_nanos() as f64)
    }

    /// Samples of both programs, taken in turns.
    fn over(&self, program: &str, empty: &str, packet: &[u8]) -> Result<Vec<Sample>> {
        self.run(program, packet, PACKETS)?;
        self.run(empty, packet, PACKETS)?;
        (0..SAMPLES)
            .map(|_| {
                let (all, empty) = (self.run(program, packet, PACKETS)?, self.run(empty, packet, PACKETS)?);
                Ok(Sample { over: all - empty, empty })
            })
            .collect()
    }
}

fn plan() -> Plan {
    let backend = Backend {
        address: BACKEND.into(),
        protocol: Protocol::Tcp,
        cluster: "europe-west1-d".into(),
        local: false,
    };
    let target = Target {
        service: ServiceKey::new("my-namespace", "my-service"),
        scope: Scope::Nearest,
        client_ip_affinity: false,
        backends: [(backend, 100)].into(),
    };
    let frontend = Frontend { vip: (*VIP.ip()).into(), protocol: Protocol::Tcp, port: VIP.port() };
    Plan { frontends: [(frontend, target)].into(), dead: [].into() }
}

/// A segment of an established connection, with a payload that fills a small packet.
fn tcp(from: SocketAddrV4, to: SocketAddrV4) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.ip().octets(), to.ip().octets(), 63)
        .tcp(from.port(), to.port(), 1, 29_200)
        .ack(1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[0; 64]).context("build a packet")?;
    Ok(bytes)
}
