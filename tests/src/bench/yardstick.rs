//! The yardstick object: the programs in forms that can be repeated, on the maps of a data plane of their own.
//!
//! The kernel repeats a program on one packet and tells the mean; a program that rewrites would meet its own output from
//! the second time on, so it is run in a form that puts the bytes back, and what the putting back costs is measured in
//! the same way and subtracted. Samples of all programs alternate, so that a busy moment hits all.

use std::{
    cell::RefCell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Map, MapData, MapInfo, RingBuf},
    programs::{Program, SchedClassifier, TestRun as _, Xdp},
};
use etherparse::PacketBuilder;
use federation_agent::{
    dataplane::{self, Config, DataPlane, TcAttach, view::View},
    plan::Plan,
};
use federation_ebpf::{
    maps::{EVENTS, Event, Range, SCHEMA},
    outcome::Outcome,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FEDERATION_YARDSTICK"));

/// Turns, each with a sample of every case.
const TURNS: usize = 400;

/// Packets in each sample: less than a millisecond, shorter than most disturbances; and no more than the ring of events
/// has room for, so that telling of each is measured too.
const PACKETS: u32 = 3000;
// The ring takes headers of 8 bytes.
const _: () = assert!(PACKETS as usize * (size_of::<Event>() + 8) < EVENTS);

/// First packets before the first that counts: the map of flows is full by then, as it is on a node that serves.
pub const FILL: u32 = 300_000;

pub const VIPS_V4: Range<[u8; 4]> = Range { network: [198, 18, 0, 0], mask: [255, 255, 0, 0] };
pub const VIPS_V6: Range<[u8; 16]> = Range {
    network: [0xfd, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    mask: [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
};

/// The measured programs, and the maps that they work on.
pub struct Yardstick {
    programs: Ebpf,
    data_plane: DataPlane,
    view: View,
    events: RefCell<RingBuf<MapData>>,
    _pins: PinGuard,
}

struct PinGuard(PathBuf);

/// What is measured: a program on a packet.
#[derive(Clone, Debug)]
pub struct Probe {
    pub program: &'static str,
    /// The empty program of the same shape.
    pub empty: &'static str,
    pub packet: Vec<u8>,
    /// What shall become of nearly every packet, or else something else was measured. `None`: nobody counts.
    pub outcome: Option<Outcome>,
}

/// Nanoseconds a packet.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// What the program needs, less what the empty program needed right after it.
    pub over: Vec<f64>,
    pub empty: Vec<f64>,
}

/// What stands in a packet beside addresses and ports.
#[derive(Clone, Copy, Debug)]
pub enum Segment {
    Syn,
    Ack,
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        // Nobody is left to tell; what stays behind is seen by its name.
        let _ = dataplane::detach_all(&self.0);
        let _ = fs::remove_dir(&self.0);
    }
}

impl Yardstick {
    /// `name` is of this yardstick among those of this process.
    ///
    /// # Errors
    /// The programs cannot be loaded here.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(!OBJECT.is_empty(), "built without eBPF programs (AYA_BUILD_SKIP): build again");
        let pins =
            PinGuard(Path::new("/sys/fs/bpf").join(format!("fed-bench-{}-{name}", std::process::id())));
        let data_plane = DataPlane::open(&Config {
            bpf_dir: pins.0.clone(),
            vip_ranges: vec!["198.18.0.0/16".parse()?, "fd98::/112".parse()?],
            tc_attach: TcAttach::Auto,
            seed: 1,
            cgroup: None,
            node: "node".to_owned(),
        })?;
        let maps = pins.0.join(format!("v{SCHEMA}/maps"));
        let programs = load(&maps).context("load the measured programs")?;
        let events = MapData::from_pin(maps.join("EVENTS")).context("open the ring of events")?;
        let events = RingBuf::try_from(Map::RingBuf(events)).context("open the ring of events")?;
        let view = View::open(&pins.0)?;
        Ok(Self { programs, data_plane, view, events: RefCell::new(events), _pins: pins })
    }

    /// How long it takes until the maps say what the plan says.
    pub fn apply(&mut self, plan: &Plan) -> Result<Duration> {
        let begun = Instant::now();
        self.data_plane.apply(plan)?;
        Ok(begun.elapsed())
    }

    /// Mean nanoseconds of one run; the kernel tells whole ones.
    pub fn run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<f64> {
        let loaded = self.programs.program(program).with_context(|| format!("no program {program}"))?;
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        let result = match loaded {
            Program::SchedClassifier(loaded) => SchedClassifier::test_run(loaded, options),
            Program::Xdp(loaded) => Xdp::test_run(loaded, options),
            _ => anyhow::bail!("{program} is neither a tc nor an XDP program"),
        };
        Ok(result.with_context(|| format!("run {program}"))?.duration.as_nanos() as f64)
    }

    /// One sample of a probe and of its empty program.
    fn sample(&self, probe: &Probe) -> Result<(f64, f64)> {
        let mut events = self.events.borrow_mut();
        while events.next().is_some() {}
        // A flow that was silent for a second takes the long way once: that is not what is measured.
        self.run(probe.program, &probe.packet, 1)?;
        let own = self.run(probe.program, &probe.packet, PACKETS)?;
        let empty = self.run(probe.empty, &probe.packet, PACKETS)?;
        Ok((own, empty))
    }

    /// Runs one more sample and looks at what became of its packets.
    fn check(&self, probe: &Probe) -> Result<()> {
        let Some(outcome) = probe.outcome else { return Ok(()) };
        let before = self.count(outcome)?;
        self.sample(probe)?;
        let met = self.count(outcome)? - before;
        let least = u64::from(PACKETS) * 99 / 100;
        ensure!(met >= least, "{} made {outcome:?} of only {met} of {PACKETS} packets", probe.program);
        Ok(())
    }

    fn count(&self, outcome: Outcome) -> Result<u64> {
        let counts = self.view.outcomes()?;
        Ok(counts.into_iter().find(|(other, _)| *other == outcome).map_or(0, |(_, count)| count))
    }
}

/// Samples of all probes, each on its yardstick, taken in turns.
///
/// # Errors
/// Too many packets met another outcome than the probe's.
pub fn in_turns(probes: &[(&Yardstick, &Probe)]) -> Result<Vec<Samples>> {
    let mut all = vec![Samples::default(); probes.len()];
    // The first turn warms up.
    for turn in 0..=TURNS {
        for ((yardstick, probe), samples) in probes.iter().zip(&mut all) {
            let (own, empty) = yardstick.sample(probe)?;
            if turn > 0 {
                samples.over.push(own - empty);
                samples.empty.push(empty);
            }
        }
    }
    probes.iter().try_for_each(|(yardstick, probe)| yardstick.check(probe))?;
    Ok(all)
}

/// Every program of the object, on the pinned maps.
fn load(maps: &Path) -> Result<Ebpf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(maps).with_context(|| format!("list {}", maps.display()))? {
        let entry = entry?;
        paths.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    // As many as the machine affords, which the object does not know.
    let slots = MapInfo::from_pin(maps.join("SLOTS")).context("look at SLOTS")?.max_entries();
    let mut loader = EbpfLoader::new();
    let jiffies = dataplane::jiffies()?;
    loader.override_global("VIP_V4", &VIPS_V4, true).override_global("VIP_V6", &VIPS_V6, true);
    loader.override_global("JIFFIES", &jiffies, true);
    loader.map_max_entries("SLOTS", slots);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let mut programs = loader.load(OBJECT)?;
    for (name, program) in programs.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            _ => continue,
        }
        .with_context(|| format!("load {name}"))?;
    }
    Ok(programs)
}

/// A TCP segment with some payload: a small packet, but larger than all that is put back of it.
///
/// # Errors
/// The ends are of different families.
pub fn tcp(from: SocketAddr, to: SocketAddr, segment: Segment) -> Result<Vec<u8>> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => link.ipv4(from.ip().octets(), to.ip().octets(), 63),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => link.ipv6(from.ip().octets(), to.ip().octets(), 63),
        _ => anyhow::bail!("{from} and {to} are of different families"),
    };
    let transport = network.tcp(from.port(), to.port(), 1, 29_200);
    let transport = match segment {
        Segment::Syn => transport.syn(),
        Segment::Ack => transport.ack(1),
    };
    let mut bytes = Vec::new();
    transport.write(&mut bytes, &[0; 64]).context("build a packet")?;
    Ok(bytes)
}
