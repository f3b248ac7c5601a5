//! The eBPF programs and maps of this node: loaded, attached, filled and read. The only room that knows aya.
//!
//! Maps and links are pinned: they outlive the agent, and the next one adopts them with all ids and flows in them.

mod attach;
mod kernel;
mod pins;
mod prerequisites;
mod slices;
mod tables;
pub mod view;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions, TestRunResult,
    programs::{Program, SchedClassifier, TcAttachType, TestRun as _, Xdp},
};
use federation_ebpf::maps::Range;
use ipnet::{IpNet, Ipv4Net};
use nix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

pub use attach::Mode;
pub use pins::LinkPin;
pub use prerequisites::check_kernel;

use crate::plan::Plan;
use kernel::Maps;
use pins::Pins;
use tables::Tables;

/// Where maps and links are pinned unless told otherwise.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/federation";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/federation-ebpf"));

/// What a node's data plane is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// A folder on a BPF file system, one a node.
    pub bpf_dir: PathBuf,
    /// Programs look at nothing else; IPv6 ranges have no programs yet.
    pub vip_ranges: Vec<IpNet>,
    /// Of the federation: equal on every node, so that all make the same tables.
    pub seed: u64,
}

/// The data plane of this node. Dropping it leaves everything in the kernel at work.
pub struct DataPlane {
    ebpf: Ebpf,
    pins: Pins,
    maps: Maps,
    tables: Tables,
}

impl DataPlane {
    /// Loads the programs onto new maps, or onto those that an agent before this one has left.
    ///
    /// # Errors
    /// The kernel lacks something, pinned maps do not fit, or a program is refused; then nothing new stays pinned.
    pub fn open(config: &Config) -> Result<Self> {
        check_kernel(&config.bpf_dir)?;
        ensure!(
            !OBJECT.is_empty(),
            "this agent was built without its eBPF programs (AYA_BUILD_SKIP): build it again"
        );
        let pins = Pins::new(&config.bpf_dir);
        let adopted = pins.exist();
        if adopted {
            pins.verify_maps()?;
        }
        Self::load(config, &pins).inspect_err(|_| {
            if !adopted && let Err(error) = pins.remove() {
                warn!("cannot remove what was half made: {error:#}");
            }
        })
    }

    fn load(config: &Config, pins: &Pins) -> Result<Self> {
        pins.create()?;
        let range = v4_range(&config.vip_ranges)?;
        let paths: Vec<_> = Pins::map_names().map(|name| (name, pins.map(name))).collect();
        let mut loader = EbpfLoader::new();
        loader.override_global("VIP_V4", &range, true);
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut ebpf = loader.load(OBJECT).context("load the eBPF object")?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                _ => continue,
            }
            .map_err(|error| verifier_tail(name, &error.to_string()))?;
        }
        let maps = Maps::take(&mut ebpf)?;
        let mut tables = Tables::new(config.seed);
        tables.adopt(maps.backends()?, maps.frontends()?, maps.filter()?, now()?)?;
        attach::forget_departed(pins)?;
        Ok(Self { ebpf, pins: pins.clone(), maps, tables })
    }

    /// Serves off-node clients through this interface.
    ///
    /// # Errors
    /// It does not exist, or the kernel refuses.
    pub fn attach_uplink(&mut self, interface: u32) -> Result<Mode> {
        let mode = attach::xdp(&mut self.ebpf, &self.pins, "edge", interface)?;
        attach::tc(&mut self.ebpf, &self.pins, "to_wire", TcAttachType::Egress, interface)?;
        info!(interface, %mode, "attached to the uplink");
        Ok(mode)
    }

    /// Serves the pod behind this interface.
    ///
    /// # Errors
    /// It does not exist (any more), or the kernel refuses.
    pub fn attach_pod(&mut self, interface: u32) -> Result<()> {
        // Replies first: a translated request must not meet an untranslated answer.
        attach::tc(&mut self.ebpf, &self.pins, "to_pod", TcAttachType::Egress, interface)?;
        attach::tc(&mut self.ebpf, &self.pins, "from_pod", TcAttachType::Ingress, interface)
    }

    /// The interface is gone, and its links with it: removes their pins.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn forget_interface(&self, interface: u32) -> Result<()> {
        attach::forget(&self.pins, interface)
    }

    /// Makes the maps say what `plan` says, without a moment in between at which a packet meets half of it.
    ///
    /// # Errors
    /// A map is too small, or refuses a write; what was written before stands.
    pub fn apply(&mut self, plan: &Plan) -> Result<()> {
        let maps = &self.maps;
        let writes = self.tables.follow(plan, now()?, || maps.backends_in_use())?;
        for write in &writes {
            self.maps.write(write)?;
        }
        Ok(())
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

/// Removes all programs and maps of a node.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach_all(bpf_dir: &Path) -> Result<()> {
    Pins::new(bpf_dir).remove()
}

/// What is attached where.
///
/// # Errors
/// The pins cannot be listed.
pub fn links(bpf_dir: &Path) -> Result<Vec<LinkPin>> {
    Pins::new(bpf_dir).links()
}

/// Programs know one range; without any IPv4 range, one that no packet is in.
fn v4_range(ranges: &[IpNet]) -> Result<Range<[u8; 4]>> {
    let mut v4 = ranges.iter().filter_map(|range| match range {
        IpNet::V4(range) => Some(range.trunc()),
        IpNet::V6(_) => None,
    });
    let range = v4.next().unwrap_or(Ipv4Net::new_assert([255, 255, 255, 255].into(), 32));
    ensure!(v4.next().is_none(), "more than one IPv4 range for VIPs was given");
    Ok(Range { network: range.network().octets(), mask: range.netmask().octets() })
}

/// The clock of flows' `last_seen`.
fn now() -> Result<Duration> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).context("read the monotonic clock")
}

/// The verifier's log can be megabytes; its end says what is wrong.
fn verifier_tail(program: &str, log: &str) -> anyhow::Error {
    let lines: Vec<_> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    anyhow::anyhow!("the kernel refuses the program {program}: {tail}")
}
