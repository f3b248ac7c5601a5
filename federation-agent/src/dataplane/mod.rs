//! The eBPF programs and maps of this node: loaded, attached, filled and read. The only room that knows aya.
//!
//! Maps and links are pinned: they outlive the agent, and the next one adopts them with all ids and flows in them.

mod ask;
mod attach;
mod batch;
mod diag;
mod events;
mod family;
mod flows;
mod host;
mod kernel;
mod mapped;
mod object;
mod packed;
mod pins;
mod prerequisites;
mod program_log;
mod protocol;
mod read;
mod slices;
mod sweep;
mod syscall;
mod tables;
mod trial;
mod usage;
pub mod view;

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, TestRunOptions, TestRunResult,
    programs::{Program, SchedClassifier, TestRun as _, Xdp},
};
use ipnet::IpNet;
use nix::{
    sys::sysinfo::sysinfo,
    time::{ClockId, clock_gettime},
};
use tracing::{info, warn};

pub use ask::{Course, Tuple};
pub use attach::{Mode, TcAttach, interface_name};
pub use events::{BackendName, Event, Events};
pub use host::cgroup2;
pub use object::jiffies;
pub use pins::{LinkPin, Place};
pub use prerequisites::{Lack, bpffs, btf, check_kernel, kernel_release};
pub use program_log::ProgramLog;
pub use sweep::Sweep;
pub use trial::{tc_way, trial};
pub use usage::Usage;

use crate::{model::Protocol, plan::Plan};
use attach::{Hook, TcMode};
use family::{Family, V4, V6};
use flows::Moment;
use kernel::Maps;
use object::Constants;
use packed::Packed;
use pins::Pins;
use tables::Tables;

/// Whether a pod's interface was still there to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    Attached,
    Gone,
}

/// Where maps and links are pinned unless told otherwise.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/federation";

/// What a node's data plane is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// A folder on a BPF file system, one a node.
    pub bpf_dir: PathBuf,
    /// At most one of each family. Programs look at nothing else.
    pub vip_ranges: Vec<IpNet>,
    pub tc_attach: TcAttach,
    /// Of the federation: equal on every node, so that all make the same tables.
    pub seed: u64,
    /// The cgroup below which sockets of this thread's network are served; none are without one.
    pub cgroup: Option<PathBuf>,
    /// This node's name, by which its sockets are one client where clients keep their backend.
    pub node: String,
}

/// The data plane of this node. Dropping it leaves everything in the kernel at work.
pub struct DataPlane {
    ebpf: Ebpf,
    pins: Pins,
    /// Whether the maps are those of an agent before this one.
    adopted: bool,
    tc: TcMode,
    cgroup: Option<PathBuf>,
    maps: Maps,
    tables: Tables,
}

impl DataPlane {
    /// Loads the programs onto new maps, or onto those that an agent before this one has left. Nothing is attached, and what
    /// is stays at work.
    ///
    /// # Errors
    /// The kernel lacks something, pinned maps do not fit, or a program is refused; then nothing new stays pinned.
    pub fn open(config: &Config) -> Result<Self> {
        check_kernel(&config.bpf_dir)?;
        let object = object::bytes()?;
        let pins = Pins::new(&config.bpf_dir);
        let adopted = pins.exist();
        if adopted {
            pins.verify_maps()?;
        }
        Self::load(config, object, &pins, adopted).inspect_err(|_| {
            if !adopted && let Err(error) = pins.remove() {
                warn!("cannot remove what was half made: {error:#}");
            }
        })
    }

    /// Removes what [`DataPlane::open`] has made, if there was nothing before: it will not be used.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn abandon(self) -> Result<()> {
        if self.adopted { Ok(()) } else { self.pins.remove() }
    }

    fn load(config: &Config, object: &[u8], pins: &Pins, adopted: bool) -> Result<Self> {
        pins.create()?;
        pins.claim_netns()?;
        let constants = Constants::new(&config.vip_ranges, host::network(&config.node)?)?;
        let slots = match pins.room("SLOTS")? {
            Some(room) => room,
            None => slices::affordable(sysinfo().context("ask for the machine's memory")?.ram_total()),
        };
        let paths: Vec<_> = Pins::map_names().map(|name| (name, pins.map(name))).collect();
        let mut loader = constants.loader();
        loader.map_max_entries("SLOTS", slots);
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut ebpf = loader.load(object).context("load the eBPF object")?;
        object::load_programs(&mut ebpf).map_err(|(name, error)| verifier_tail(&name, &error.to_string()))?;
        let maps = Maps::take(&mut ebpf)?;
        let mut tables = Tables::new(config.seed, slots);
        let slots = read::open(pins, "SLOTS")?;
        let words = |words| kernel::read_slots(&slots, words).context("read SLOTS");
        let table = |table| Packed::read(table, words);
        tables.adopt(read::backends(pins)?, read::frontends(pins)?, read::filter(pins)?, table, now()?)?;
        attach::forget_departed(pins)?;
        let (tc, cgroup) = (config.tc_attach.choose(), config.cgroup.clone());
        Ok(Self { ebpf, pins: pins.clone(), adopted, tc, cgroup, maps, tables })
    }

    /// Removes what agents of other versions have left: right before anything is attached, for two that translate would
    /// stand in each other's way.
    ///
    /// # Errors
    /// A pin cannot be removed, or is of another network namespace.
    pub fn replace_others(&self) -> Result<()> {
        remove_others(self.pins.folder())
    }

    /// Serves off-node clients through this interface.
    ///
    /// # Errors
    /// It does not exist, or the kernel refuses.
    pub fn attach_uplink(&mut self, interface: u32) -> Result<Mode> {
        let mode = attach::xdp(&mut self.ebpf, &self.pins, interface)?;
        attach::tc(&mut self.ebpf, &self.pins, Hook::ToWire, self.tc, interface)?;
        info!(interface, %mode, "attached to the uplink");
        Ok(mode)
    }

    /// Serves sockets in this thread's network, of processes below the cgroup that was asked for.
    ///
    /// # Errors
    /// It is no cgroup, or the kernel refuses.
    pub fn attach_host(&mut self) -> Result<()> {
        attach::cgroup(&mut self.ebpf, &self.pins, self.cgroup.as_deref())
    }

    /// Serves the pod behind this interface, if it is not gone before that is done.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_pod(&mut self, interface: u32) -> Result<Reached> {
        // Replies first: a translated request must not meet an untranslated answer.
        let attached = [Hook::ToPod, Hook::FromPod]
            .into_iter()
            .try_for_each(|hook| attach::tc(&mut self.ebpf, &self.pins, hook, self.tc, interface));
        match attached {
            Ok(()) => Ok(Reached::Attached),
            Err(_) if !attach::exists(interface) => {
                self.forget_interface(interface)?;
                Ok(Reached::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// The interface is gone, or not to be served any more: removes what was attached there.
    ///
    /// # Errors
    /// A pin or a filter cannot be removed.
    pub fn forget_interface(&self, interface: u32) -> Result<()> {
        attach::forget(&self.pins, interface)
    }

    /// Makes the maps say what `plan` says, without a moment in between at which a packet meets half of it. When
    /// backends have died by it, their waiting clients are yet to be told: by the sweep.
    ///
    /// # Errors
    /// A map is too small, or refuses a write; what was written before stands.
    pub fn apply(&mut self, plan: &Plan) -> Result<Option<Sweep>> {
        let (now, pins) = (now()?, &self.pins);
        let (mut outcome, mut killed) = (Ok(()), Vec::new());
        let maps = &mut self.maps;
        let in_use = || backends_in_use(pins, Moment::at(now));
        let makeshift = self.tables.makeshift();
        let followed = self.tables.follow(plan, now, in_use, &mut |write| {
            if outcome.is_ok() {
                outcome = maps.write(&write);
                killed.extend(sweep::killed(&write));
            }
        });
        tell_of_room(makeshift, self.tables.makeshift());
        // Also where there is no room for the rest: the dead come first.
        outcome?;
        followed?;
        Ok(Sweep::of(killed, pins))
    }

    /// The backends that are dead by the maps: before the first plan, as an agent before this one left them.
    pub fn dead(&self) -> Vec<(SocketAddr, Protocol)> {
        self.tables.dead()
    }

    /// What the programs tell from now on. There is one reader.
    ///
    /// # Errors
    /// There is no ring (any more), or this is no asynchronous runtime.
    pub fn events(&mut self) -> Result<Events> {
        let ring = self.ebpf.take_map("EVENTS").context("there is no map EVENTS to be taken")?;
        Events::new(ring, &self.pins)
    }

    /// Which backends this node's traffic uses, to be asked from anywhere.
    ///
    /// # Errors
    /// A map cannot be opened.
    pub fn usage(&self) -> Result<Usage> {
        Usage::open(&self.pins)
    }

    /// What the programs log, if they do.
    ///
    /// # Errors
    /// This is no asynchronous runtime.
    pub fn program_log(&mut self) -> Result<Option<ProgramLog>> {
        ProgramLog::new(&mut self.ebpf)
    }

    /// Runs a program on a packet (an Ethernet frame) `repeat` times, in the kernel, on the maps as they are.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses the packet.
    pub fn test_run(
        &self,
        program: &str,
        packet: &[u8],
        out: &mut [u8],
        repeat: u32,
    ) -> Result<TestRunResult> {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(out),
            repeat,
            ..TestRunOptions::default()
        };
        let loaded = self.ebpf.program(program).with_context(|| format!("there is no program {program}"))?;
        let result = match loaded {
            Program::SchedClassifier(loaded) => SchedClassifier::test_run(loaded, options),
            Program::Xdp(loaded) => Xdp::test_run(loaded, options),
            _ => anyhow::bail!("{program} is neither a tc nor an XDP program"),
        };
        result.with_context(|| format!("run {program}"))
    }

    /// Instructions that the verifier walked through, by program.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        self.ebpf
            .programs()
            .map(|(name, program)| {
                let info = program.info().with_context(|| format!("ask about {name}"))?;
                Ok((name.to_owned(), info.verified_instruction_count().unwrap_or_default()))
            })
            .collect()
    }
}

/// Removes all programs and maps of a node, and the folder of pins where nothing else is in it.
///
/// # Errors
/// A pin cannot be removed, or a program is attached by clsact in another network namespace than this thread's.
pub fn detach_all(bpf_dir: &Path) -> Result<()> {
    if bpf_dir.exists() {
        remove_others(bpf_dir)?;
    }
    remove(&Pins::new(bpf_dir))?;
    match fs::remove_dir(bpf_dir) {
        Err(error)
            if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty, ErrorKind::ResourceBusy]
                .contains(&error.kind()) =>
        {
            Err(error).with_context(|| format!("remove {}", bpf_dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what agents have left whose maps are laid out otherwise: nobody can adopt it. Connections heal, since tables of
/// the same backends are the same.
fn remove_others(bpf_dir: &Path) -> Result<()> {
    for pins in Pins::of_others(bpf_dir)? {
        remove(&pins)?;
        info!("removed {}, the programs and maps of an agent of another version", pins.root().display());
    }
    Ok(())
}

fn remove(pins: &Pins) -> Result<()> {
    attach::detach_filters(pins)?;
    pins.remove()
}

/// What is attached where.
///
/// # Errors
/// The pins cannot be listed.
pub fn links(bpf_dir: &Path) -> Result<Vec<LinkPin>> {
    Pins::new(bpf_dir).links()
}

/// Backends of either family with flows that may still see packets.
fn backends_in_use(pins: &Pins, now: Moment) -> Result<BTreeSet<u32>> {
    let mut in_use = in_use_of::<V4>(pins, now)?;
    in_use.extend(in_use_of::<V6>(pins, now)?);
    Ok(in_use)
}

fn in_use_of<A: Family>(pins: &Pins, now: Moment) -> Result<BTreeSet<u32>> {
    let flows = read::flows::<A>(pins)?;
    Ok(flows::backends_in_use(flows.iter().map(|(key, flow)| (key.protocol, flow)), now))
}

/// The clock of flows' `last_seen`.
fn now() -> Result<Duration> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).context("read the monotonic clock")
}

/// Says when tables begin to be coarse for want of room, and when none is any more.
fn tell_of_room(makeshift_before: usize, makeshift: usize) {
    match (makeshift_before, makeshift) {
        (0, 1..) => warn!(
            tables = makeshift,
            "the map SLOTS is nearly full: new tables are coarse, and shares may be off by a tenth, until there are fewer \
             services; the map has the 128th part of the memory that the machine had when it was made"
        ),
        (1.., 0) => info!("all tables in the map SLOTS are fine again"),
        _ => {}
    }
}

/// The verifier's log can be megabytes; its end says what is wrong.
fn verifier_tail(program: &str, log: &str) -> anyhow::Error {
    let lines: Vec<_> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    anyhow::anyhow!("the kernel refuses the program {program}: {tail}")
}
