//! A lab: a world of network namespaces around one backbone, that leaves nothing behind.
//!
//! Nothing is created outside of namespaces and cgroups called `fed-<lab>-...`, the folder of pins `/sys/fs/bpf/fed-<lab>` and
//! the folder `/run/federation-lab/<lab>`. A lab's number is in the name of everything it owns, and in the environment
//! of every process, so it can be found and removed even if the process that made it was killed halfway.
//!
//! ```text
//!   hub        outside      control plane        node ── pod
//!    │            │              │                │ └─── pod
//!    └────────────┴── backbone ──┴────────────────┘
//! ```

mod addresses;
mod backbone;
mod cgroup;
mod cluster;
mod host;
mod lease;
mod loss;
mod namespace;
mod node;
mod pod;
mod process;
mod service_account;
mod settle;
mod sweep;
mod wait;
pub mod xdp;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, anyhow};

use backbone::Backbone;
use lease::Lease;

pub use cluster::{Cluster, ClusterSpec};
pub use host::Host;
pub use lease::LabId;
pub use namespace::{FOLDER as NETNS_FOLDER, Namespace};
pub use node::Node;
pub use pod::Pod;
pub use process::{MARK, Process, program};
pub use service_account::ServiceAccount;
pub use sweep::{Found, Owner, Remains, labs, remains, remove};
pub use wait::eventually;

/// Lines of each process's log that are shown when something went wrong.
const LOG_TAIL: usize = 25;

/// The lab itself. Dropping it removes everything in it, also while a panic unwinds.
pub struct Lab {
    core: Arc<Core>,
}

/// What the lab's parts share: its names, its backbone, its processes.
struct Core {
    /// Taken out when the lab is removed.
    lease: Mutex<Option<Lease>>,
    id: LabId,
    folder: PathBuf,
    backbone: Backbone,
    processes: Mutex<Vec<Arc<Process>>>,
    kept: AtomicBool,
}

impl Lab {
    /// An empty lab: a number of its own and a backbone.
    pub fn new() -> Result<Self> {
        let lease = Lease::claim()?;
        let id = lease.id();
        // From here on the lab exists on the machine: whatever fails must sweep it.
        match Self::lay_out(&lease) {
            Ok(backbone) => {
                let core = Core {
                    id,
                    folder: lease.folder().to_owned(),
                    lease: Mutex::new(Some(lease)),
                    backbone,
                    processes: Mutex::default(),
                    kept: AtomicBool::default(),
                };
                Ok(Self { core: Arc::new(core) })
            }
            Err(error) => {
                sweep::clear(lease)?;
                Err(error).with_context(|| format!("start lab {id}"))
            }
        }
    }

    fn lay_out(lease: &Lease) -> Result<Backbone> {
        for folder in [lease.folder().join("logs"), lease.id().bpf_folder()] {
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Backbone::new(lease.id())
    }

    pub fn id(&self) -> LabId {
        self.core.id
    }

    /// Logs, stores, kubeconfigs: the lab's files, gone with the lab.
    pub fn folder(&self) -> &Path {
        &self.core.folder
    }

    /// A host of its own on the backbone.
    pub fn host(&self, name: &str) -> Result<Host> {
        Host::new(&self.core, name, None)
    }

    /// A cluster: a host for its control plane, no nodes yet.
    pub fn cluster(&self, spec: ClusterSpec) -> Result<Cluster> {
        Cluster::new(&self.core, spec)
    }

    /// The backbone sends packets for `range` to `node`: how clients outside of all nodes reach virtual IPs. It takes
    /// what the node's XDP programs send back, too.
    pub fn route_via(&self, range: ipnet::IpNet, node: &Node) -> Result<()> {
        node.host().accept_reflected(&self.id().bpf_folder())?;
        node.host().announce(range)
    }

    /// These hosts lose their power in one instant.
    pub fn power_off(&self, hosts: &[Host]) -> Result<()> {
        // The kernel waits for its readers once a command.
        let lines = hosts.iter().map(Host::line_for_cut);
        self.core.backbone.namespace().ip(lines).context("cut the power of several hosts")
    }

    /// What these hosts send is lost from now on; what is sent to them arrives.
    pub fn mute(&self, hosts: &[Host]) -> Result<()> {
        loss::mute(self.core.backbone.namespace(), hosts).context("mute hosts")
    }

    /// What `host` and `others` send each other is lost from now on; with everybody else they talk as before.
    pub fn part(&self, host: &Host, others: &[Host]) -> Result<()> {
        loss::part(self.core.backbone.namespace(), host, others)
            .with_context(|| format!("part {} from others", host.name()))
    }

    /// Nothing that [`mute`](Self::mute) and [`part`](Self::part) have begun is lost any more.
    pub fn end_losses(&self) -> Result<()> {
        loss::end(self.core.backbone.namespace()).context("end all losses")
    }

    /// The process of this name, running or ended.
    pub fn process(&self, name: &str) -> Result<Arc<Process>> {
        self.core.process(name)
    }

    /// Waits for `probe` as [`eventually`] does; on failure the error ends with what the lab's processes said last.
    pub async fn wait_for<T>(
        &self,
        what: impl std::fmt::Display,
        deadline: std::time::Duration,
        probe: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        // As one message: a context would stand before the cause, and push it out of sight.
        eventually(what, deadline, probe).await.map_err(|error| anyhow!("{error:#}\n{}", self.core.logs()))
    }

    /// What its processes said last, for a person who has to find out what went wrong.
    pub fn logs(&self) -> String {
        self.core.logs()
    }

    /// Leaves everything running when this value is dropped, until `cargo xtask down`.
    pub fn keep(&self) -> Result<()> {
        lease::mark_kept(&self.core.folder)?;
        self.core.kept.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.core.logs());
        }
        if self.core.kept.load(Ordering::Relaxed) {
            return;
        }
        for process in self.core.processes().iter() {
            process.kill();
        }
        let lease = self.core.lease.lock().expect("no holder of the lease panics").take();
        if let Some(lease) = lease
            && let Err(error) = sweep::clear(lease)
        {
            eprintln!("lab {} was not removed completely: {error:#}", self.core.id);
        }
    }
}

impl Core {
    fn processes(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.processes.lock().expect("no holder of the list panics")
    }

    fn process(&self, name: &str) -> Result<Arc<Process>> {
        let processes = self.processes();
        let process = processes.iter().find(|process| process.name() == name).cloned();
        process.with_context(|| format!("lab {} has no process {name}", self.id))
    }

    /// Kills the processes of this name; what they said stays.
    fn kill(&self, name: &str) {
        for process in self.processes().iter().filter(|process| process.name() == name) {
            process.kill();
        }
    }

    /// The ends of all logs, for a person who has to find out what went wrong.
    fn logs(&self) -> String {
        let mut text = format!("the processes of lab {} said last:", self.id);
        for process in self.processes().iter() {
            text.push_str(&process.describe(LOG_TAIL));
        }
        text
    }
}
