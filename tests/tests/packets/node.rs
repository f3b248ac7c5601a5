//! A node's data plane without a network: programs run on packets that tests hand them.

use std::{net::SocketAddr, path::Path, sync::Arc};

use federation_agent::{
    dataplane::{DataPlane, view::View},
    model::{Protocol, ServiceKey},
    plan::{Backend, Frontend, Plan, ServicePlan, Target},
};
use federation_ebpf::outcome::{Outcome, Verdict};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    evidence::Told,
    frames::Frame,
    loaded::{Loaded, unpin},
};

/// Programs for packets to a VIP, and for those from a backend.
pub const TO_VIP: [&str; 2] = ["from_pod", "edge"];
pub const REPLY: [&str; 2] = ["to_pod", "to_wire"];
pub const PROGRAMS: [&str; 4] = ["from_pod", "edge", "to_pod", "to_wire"];

/// Loaded programs, with the maps as a test has made them.
pub struct Node {
    /// Until this is dropped.
    loaded: Option<Loaded>,
    view: View,
    /// No other test can use them.
    is_spoilt: bool,
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(loaded) = self.loaded.take() else { return };
        if self.is_spoilt || std::thread::panicking() {
            unpin(&loaded.bpf_dir);
        } else {
            loaded.give_back();
        }
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
    /// Serves these, and knows of nothing else.
    pub fn serving(services: &[Service]) -> Self {
        Self::on(Loaded::idle(), services)
    }

    /// As [`Node::serving`], on new maps, which nobody uses afterwards: for tests that change what the agent keeps there
    /// for itself, or count it.
    pub fn fresh(services: &[Service]) -> Self {
        let mut node = Self::on(Loaded::fresh(), services);
        node.is_spoilt = true;
        node
    }

    fn on(loaded: Loaded, services: &[Service]) -> Self {
        let view = View::open(&loaded.bpf_dir).expect("pinned maps");
        let mut node = Self { loaded: Some(loaded), view, is_spoilt: false };
        node.serve(services);
        node
    }

    /// What an agent that is started anew finds.
    pub fn restart(mut self) -> Self {
        self.loaded = self.loaded.take().map(Loaded::restart);
        self
    }

    /// From now on these.
    pub fn serve(&mut self, services: &[Service]) {
        self.serve_without(services, &[]);
    }

    /// From now on these, while the backends of `dead` are.
    pub fn serve_without(&mut self, services: &[Service], dead: &[Service]) {
        let loaded = self.loaded.as_mut().expect("not dropped yet");
        let sweep = loaded.data_plane.apply(&plan(services, dead)).expect("the plan fits");
        // Its segments would go out into this machine's own network.
        drop(sweep);
        if !loaded.is_fresh {
            self.mark(services.iter().flat_map(|service| &service.backends));
        }
    }

    /// What the programs tell from now on. Nobody else can hear it then.
    pub fn listen(&mut self) -> Told {
        self.is_spoilt = true;
        Told::by(&mut self.loaded.as_mut().expect("not dropped yet").data_plane)
    }

    pub fn data_plane(&self) -> &DataPlane {
        &self.loaded().data_plane
    }

    pub fn bpf_dir(&self) -> &Path {
        &self.loaded().bpf_dir
    }

    fn loaded(&self) -> &Loaded {
        self.loaded.as_ref().expect("not dropped yet")
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// How many packets had this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        let outcomes = self.view().outcomes().expect("counters");
        outcomes.into_iter().find(|(other, _)| *other == outcome).map_or(0, |(_, count)| count)
    }

    /// Runs `program` on raw bytes, if the kernel takes them for a frame at all.
    pub fn try_send_bytes(&self, program: &str, bytes: &[u8]) -> Option<Sent> {
        let before = self.view().outcomes().expect("counters");
        let (verdict, bytes) = self.run(program, bytes)?;
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
        Some(Sent { verdict, bytes, outcome: moved.first().copied() })
    }

    /// Runs `program` without a look at the counters, which others move too.
    pub fn run(&self, program: &str, bytes: &[u8]) -> Option<(Verdict, Vec<u8>)> {
        let mut out = vec![0; bytes.len() + 128];
        let result = self.data_plane().test_run(program, bytes, &mut out, 1).ok()?;
        out.truncate(result.data_size_out as usize);
        Some((verdict(program, result.return_value), out))
    }

    pub fn send_bytes(&self, program: &str, bytes: &[u8]) -> Sent {
        self.try_send_bytes(program, bytes).expect("a frame that the kernel takes")
    }

    pub fn send(&self, program: &str, frame: &Frame) -> Sent {
        self.send_bytes(program, &frame.bytes())
    }

    /// The packet becomes `out`, with the verdict that `outcome` has.
    #[track_caller]
    pub fn turns(&self, program: &str, packet: &Frame, out: &Frame, outcome: Outcome) {
        let expected = Sent { verdict: outcome.verdict(), bytes: out.bytes(), outcome: Some(outcome) };
        assert_eq!(self.send(program, packet), expected, "{program} on {packet:?}");
    }

    /// The packet stays as it came: by this outcome, or as nobody's business.
    #[track_caller]
    pub fn leaves(&self, program: &str, packet: &Frame, outcome: impl Into<Option<Outcome>>) {
        let sent = self.send(program, packet);
        let (bytes, outcome) = (packet.bytes(), outcome.into());
        let verdict = outcome.unwrap_or(Outcome::NotOurs).verdict();
        assert_eq!(sent, Sent { verdict, bytes, outcome }, "{program} on {packet:?}");
    }

    /// Opens a flow and says to which of `backends` it goes.
    #[track_caller]
    pub fn opens(&self, first: &Frame, backends: &[SocketAddr]) -> SocketAddr {
        let sent = self.send("from_pod", first);
        assert_eq!((sent.verdict, sent.outcome), (Verdict::Pass, Some(Outcome::Opened)), "{first:?}");
        *backends
            .iter()
            .find(|backend| sent.bytes == first.to(**backend).bytes())
            .unwrap_or_else(|| panic!("{first:?} goes to none of {backends:?}"))
    }
}

/// By the numbers of the kernel's headers (`linux/pkt_cls.h`, `linux/bpf.h`).
fn verdict(program: &str, value: u32) -> Verdict {
    match (program, value) {
        ("edge", 2) | ("from_pod" | "to_pod" | "to_wire", u32::MAX) => Verdict::Pass,
        ("edge", 1) | ("from_pod" | "to_pod" | "to_wire", 2) => Verdict::Drop,
        ("edge", 3) | ("from_pod" | "to_pod" | "to_wire", 7) => Verdict::Back,
        other => panic!("a verdict that no program gives: {other:?}"),
    }
}

/// Does the work in a thread that stays on this CPU.
pub fn on_cpu<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    let pinned = move || {
        let mut cpus = CpuSet::new();
        cpus.set(cpu).expect("the number of a CPU");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU that is there");
        work()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join().expect("the work is done"))
}

/// One frontend of a plan to be.
#[derive(Clone, Debug)]
pub struct Service {
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub backends: Vec<SocketAddr>,
    /// Those of `backends` that run on this node.
    pub local: Vec<SocketAddr>,
    pub affinity: bool,
}

pub fn service(protocol: Protocol, vip: SocketAddr, backends: &[SocketAddr]) -> Service {
    Service { vip, protocol, backends: backends.to_vec(), local: Vec::new(), affinity: false }
}

impl Service {
    /// The same with all backends on this node.
    #[must_use]
    pub fn local(self) -> Self {
        Self { local: self.backends.clone(), ..self }
    }

    /// The same with session affinity.
    #[must_use]
    pub fn with_affinity(self) -> Self {
        Self { affinity: true, ..self }
    }

    fn named(&self) -> impl Iterator<Item = Backend> {
        self.backends.iter().map(|address| Backend {
            address: *address,
            protocol: self.protocol,
            cluster: "europe-west1-d".into(),
            local: self.local.contains(address),
        })
    }
}

fn plan(services: &[Service], dead: &[Service]) -> Plan {
    let mut plan = ServicePlan::default();
    for service in services {
        let target = Target {
            client_ip_affinity: service.affinity,
            ..Target::of(service.named().map(|backend| (backend, 100)))
        };
        let (vip, port) = (service.vip.ip(), service.vip.port());
        plan.frontends.insert(Frontend { vip, protocol: service.protocol, port }, Arc::new(target));
    }
    plan.dead = dead.iter().flat_map(Service::named).map(Arc::new).collect();
    [(ServiceKey::new("my-namespace", "my-service"), plan)].into_iter().collect()
}
