//! A node's data plane without a network: programs run on packets that tests hand them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use federation_agent::{
    dataplane::{self, Config, DataPlane, TcAttach, view::View},
    model::{Protocol, Scope, ServiceKey},
    plan::{Backend, Frontend, Plan, Target},
};
use federation_ebpf::outcome::{Outcome, Verdict};

use crate::frames::Frame;

/// The range of every VIP here.
pub const VIP_RANGE: &str = "198.18.0.0/16";

/// Loaded programs on maps of their own, which go when this is dropped.
pub struct Node {
    pub data_plane: DataPlane,
    pins: PinGuard,
}

struct PinGuard(PathBuf);

impl Drop for PinGuard {
    fn drop(&mut self) {
        // Nothing to tell a test that has failed already; what stays behind is seen by its name.
        let _ = dataplane::detach_all(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// What became of one packet.
#[derive(Debug, PartialEq)]
pub struct Sent {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
    /// The outcome whose counter moved.
    pub outcome: Option<Outcome>,
}

impl Node {
    /// Loads the programs and applies `plan`.
    pub fn with(plan: &Plan) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fed-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pins = PinGuard(Path::new("/sys/fs/bpf").join(name));
        let data_plane = open(&pins.0);
        let mut node = Self { data_plane, pins };
        node.apply(plan);
        node
    }

    /// What an agent that is started anew finds.
    pub fn restart(self) -> Self {
        let Self { data_plane, pins } = self;
        drop(data_plane);
        Self { data_plane: open(&pins.0), pins }
    }

    pub fn apply(&mut self, plan: &Plan) {
        self.data_plane.apply(plan).expect("the plan fits");
    }

    pub fn bpf_dir(&self) -> &Path {
        &self.pins.0
    }

    pub fn view(&self) -> View {
        View::open(&self.pins.0).expect("pinned maps")
    }

    /// Runs `program` on raw bytes.
    pub fn send_bytes(&self, program: &str, bytes: &[u8]) -> Sent {
        let before = self.view().outcomes().expect("counters");
        let mut out = vec![0; bytes.len() + 64];
        let result =
            self.data_plane.test_run(program, bytes, &mut out, 1).expect("a packet that the kernel takes");
        out.truncate(result.data_size_out as usize);
        let moved: Vec<_> = before
            .iter()
            .zip(self.view().outcomes().expect("counters"))
            .filter(|(before, after)| before.1 != after.1)
            .map(|(before, after)| {
                assert_eq!(before.1 + 1, after.1, "one packet counts once");
                before.0
            })
            .collect();
        assert!(moved.len() <= 1, "one packet has one outcome: {moved:?}");
        Sent { verdict: verdict(program, result.return_value), bytes: out, outcome: moved.first().copied() }
    }

    pub fn send(&self, program: &str, frame: &Frame) -> Sent {
        self.send_bytes(program, &frame.bytes())
    }

    /// The packet goes on as `out`.
    #[track_caller]
    pub fn translates(&self, program: &str, packet: &Frame, out: &Frame, outcome: Outcome) {
        let expected = Sent { verdict: Verdict::Pass, bytes: out.bytes(), outcome: Some(outcome) };
        assert_eq!(self.send(program, packet), expected, "{program} on {packet:?}");
    }

    /// The packet goes on as it came.
    #[track_caller]
    pub fn leaves(&self, program: &str, bytes: &[u8], outcome: Option<Outcome>) {
        let expected = Sent { verdict: Verdict::Pass, bytes: bytes.to_vec(), outcome };
        assert_eq!(self.send_bytes(program, bytes), expected, "{program}");
    }

    /// The packet ends here, unchanged.
    #[track_caller]
    pub fn drops(&self, program: &str, bytes: &[u8], outcome: Outcome) {
        let expected = Sent { verdict: Verdict::Drop, bytes: bytes.to_vec(), outcome: Some(outcome) };
        assert_eq!(self.send_bytes(program, bytes), expected, "{program}");
    }
}

fn open(bpf_dir: &Path) -> DataPlane {
    let vip_ranges = vec![VIP_RANGE.parse().expect("a range")];
    DataPlane::open(&Config { bpf_dir: bpf_dir.to_owned(), vip_ranges, tc_attach: TcAttach::Auto, seed: 7 })
        .expect("the programs load")
}

/// By the numbers of the kernel's headers (`linux/pkt_cls.h`, `linux/bpf.h`).
fn verdict(program: &str, value: u32) -> Verdict {
    match (program, value) {
        ("edge", 2) | ("from_pod" | "to_pod" | "to_wire", u32::MAX) => Verdict::Pass,
        ("edge", 1) | ("from_pod" | "to_pod" | "to_wire", 2) => Verdict::Drop,
        other => panic!("a verdict that no program gives: {other:?}"),
    }
}

/// One frontend of a plan to be.
#[derive(Clone)]
pub struct Service<'a> {
    pub vip: &'a str,
    pub protocol: Protocol,
    pub backends: &'a [&'a str],
    /// Those of `backends` that run on this node.
    pub local: &'a [&'a str],
    pub affinity: bool,
}

pub fn service<'a>(protocol: Protocol, vip: &'a str, backends: &'a [&'a str]) -> Service<'a> {
    Service { vip, protocol, backends, local: &[], affinity: false }
}

pub fn plan(services: &[Service<'_>]) -> Plan {
    plan_with_dead(services, &[])
}

/// `dead` are backends of the first service.
pub fn plan_with_dead(services: &[Service<'_>], dead: &[&str]) -> Plan {
    let mut plan = Plan::default();
    for service in services {
        let vip: SocketAddr = service.vip.parse().expect("a VIP and a port");
        let backends = service.backends.iter().map(|address| (backend(service, address), 100)).collect();
        let target = Target {
            service: ServiceKey::new("my-namespace", "my-service"),
            scope: Scope::Nearest,
            client_ip_affinity: service.affinity,
            backends,
        };
        plan.frontends
            .insert(Frontend { vip: vip.ip(), protocol: service.protocol, port: vip.port() }, target);
    }
    plan.dead = dead.iter().map(|address| backend(&services[0], address)).collect();
    plan
}

fn backend(service: &Service<'_>, address: &str) -> Backend {
    Backend {
        address: address.parse().expect("an address and a port"),
        protocol: service.protocol,
        cluster: "europe-west1-d".into(),
        local: service.local.contains(&address),
    }
}
