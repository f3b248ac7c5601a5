//! The controllers of `DaemonSets` and Deployments, with the endless loops of kubelets: what is applied runs, what is applied
//! anew is replaced pod by pod, what is deleted ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Front, Kubelet, Pod, template::Probe, template::Template};
use crate::lab::Namespace;

/// How often a kubelet looks after its pods.
const RELIST: Duration = Duration::from_millis(200);

/// How long it waits before it tries again what has failed.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Which pods of a workload there are: of which generation, and whether ready.
type States = Mutex<BTreeMap<String, (u64, bool)>>;

/// A workload, and what its pods share.
#[derive(Clone)]
struct Workload {
    front: Arc<Front>,
    kind: &'static str,
    namespace: String,
    name: String,
    states: Arc<States>,
    /// Who may be away: one pod at a time.
    turn: Arc<Semaphore>,
}

/// The place of one pod.
struct Place {
    workload: Workload,
    kubelet: Arc<Kubelet>,
    /// Of the pod.
    name: String,
    network: Namespace,
    pod: Option<Arc<Pod>>,
    generation: u64,
    /// Held while the pod is being replaced, until it is ready again.
    away: Option<OwnedSemaphorePermit>,
    ready: bool,
    failures: u32,
    next_readiness: Instant,
    next_liveness: Instant,
    next_start: Instant,
}

/// Sees to all workloads of a cluster, for ever.
pub async fn run(front: Arc<Front>, kubelets: Arc<[Arc<Kubelet>]>) {
    let mut changes = front.shelf().changes();
    let mut known = BTreeSet::new();
    loop {
        for kind in ["DaemonSet", "Deployment"] {
            for object in front.shelf().all(kind) {
                let uid = text(&object["metadata"]["uid"]);
                if known.insert(uid) {
                    tend_all(&front, &kubelets, kind, &object);
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// One loop for each pod that a workload shall have.
fn tend_all(front: &Arc<Front>, kubelets: &[Arc<Kubelet>], kind: &'static str, object: &Value) {
    let workload = Workload {
        front: Arc::clone(front),
        kind,
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
        states: Arc::default(),
        turn: Arc::new(Semaphore::new(1)),
    };
    let on_each_node = kind == "DaemonSet";
    let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
    let count = if on_each_node { kubelets.len() } else { usize::try_from(replicas).unwrap_or(0) };
    for (number, kubelet) in kubelets.iter().cycle().take(count).enumerate() {
        let name = format!("{}-{number}", workload.name);
        workload.states().insert(name.clone(), (0, false));
        let (workload, kubelet) = (workload.clone(), Arc::clone(kubelet));
        tokio::spawn(async move {
            match Place::new(workload, Arc::clone(&kubelet), name.clone()) {
                Ok(place) => place.tend().await,
                Err(error) => kubelet.note(&name, Err(error)),
            }
        });
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

// === impl Workload ===

impl Workload {
    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (u64, bool)>> {
        self.states.lock().expect("no holder of the states panics")
    }

    /// Writes how far it is into its status, as `kubectl rollout status` reads it.
    fn report(&self, object: &Value) {
        let generation = object["metadata"]["generation"].as_u64().unwrap_or_default();
        let states: Vec<_> = self.states().values().copied().collect();
        let all = states.len();
        let updated = states.iter().filter(|(of, _)| *of == generation).count();
        let ready = states.iter().filter(|(_, ready)| *ready).count();
        let status = if self.kind == "DaemonSet" {
            json!({
                "observedGeneration": generation, "desiredNumberScheduled": all, "currentNumberScheduled": all,
                "numberMisscheduled": 0, "updatedNumberScheduled": updated, "numberReady": ready, "numberAvailable": ready,
            })
        } else {
            json!({
                "observedGeneration": generation, "replicas": all, "updatedReplicas": updated,
                "readyReplicas": ready, "availableReplicas": ready,
            })
        };
        self.front.shelf().set_status(object, &status);
    }
}

// === impl Place ===

impl Place {
    fn new(workload: Workload, kubelet: Arc<Kubelet>, name: String) -> Result<Self> {
        let object = workload.front.get(workload.kind, &workload.namespace, &workload.name);
        let host_network =
            object.is_some_and(|object| object["spec"]["template"]["spec"]["hostNetwork"] == true);
        let network = if host_network {
            kubelet.node().namespace().clone()
        } else {
            kubelet.node().add_pod(&name)?.namespace().clone()
        };
        let now = Instant::now();
        Ok(Self {
            workload,
            kubelet,
            name,
            network,
            pod: None,
            generation: 0,
            away: None,
            ready: false,
            failures: 0,
            next_readiness: now,
            next_liveness: now,
            next_start: now,
        })
    }

    async fn tend(mut self) {
        let mut ticks = interval(RELIST);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Workload { front, kind, namespace, name, .. } = &self.workload;
            let Some(object) = front.get(kind, namespace, name) else { return };
            if !object["metadata"]["deletionTimestamp"].is_null() {
                return self.end(&object).await;
            }
            if let Err(error) = self.step(&object).await {
                self.next_start = Instant::now() + BACK_OFF;
                self.ready = false;
                self.kubelet.note(&self.name, Err(error));
            }
            self.workload.states().insert(self.name.clone(), (self.generation, self.ready));
            self.workload.report(&object);
            if self.ready {
                self.away = None;
            }
        }
    }

    /// The pod ends, and with the last one the workload.
    async fn end(mut self, object: &Value) {
        let stopped = self.stop().await;
        self.kubelet.forget(&self.name, stopped);
        let left = {
            let mut states = self.workload.states();
            states.remove(&self.name);
            states.len()
        };
        if left == 0 {
            self.workload.front.shelf().remove(self.workload.kind, object);
        }
    }

    /// Comes one step closer to what the workload says.
    async fn step(&mut self, object: &Value) -> Result<()> {
        let now = Instant::now();
        let generation = object["metadata"]["generation"].as_u64().context("an object without generation")?;
        if generation != self.generation && now >= self.next_start {
            if self.away.is_none() {
                // Somebody else may be away still.
                let Ok(turn) = Arc::clone(&self.workload.turn).try_acquire_owned() else { return Ok(()) };
                self.away = Some(turn);
            }
            self.stop().await?;
            let template = Template::of(object)?;
            let pod =
                self.kubelet.start(&self.workload.namespace, &self.name, &template, &self.network).await?;
            let pod = Arc::new(pod);
            self.kubelet.note(&self.name, Ok(Arc::clone(&pod)));
            self.pod = Some(pod);
            self.generation = generation;
            self.begun();
        }
        let Some(pod) = self.pod.clone() else { return Ok(()) };
        if pod.process().ended()?.is_some() && now >= self.next_start {
            pod.start_again()?;
            self.next_start = now + BACK_OFF;
            self.begun();
        }
        self.probe(&pod).await
    }

    async fn probe(&mut self, pod: &Pod) -> Result<()> {
        let period = |probe: &Probe| Duration::from_secs(probe.period_seconds);
        match pod.readiness() {
            None => self.ready = pod.process().ended()?.is_none(),
            // It becomes ready as soon as it can be seen to be.
            Some(probe) if !self.ready || Instant::now() >= self.next_readiness => {
                self.ready = pod.probe(probe).await?.success;
                self.next_readiness = Instant::now() + period(probe);
            }
            Some(_) => {}
        }
        if let Some(probe) = pod.liveness().filter(|_| Instant::now() >= self.next_liveness) {
            self.next_liveness = Instant::now() + period(probe);
            self.failures = if pod.probe(probe).await?.success { 0 } else { self.failures + 1 };
            if self.failures >= probe.failure_threshold {
                pod.process().kill();
            }
        }
        Ok(())
    }

    /// The container has been started just now.
    fn begun(&mut self) {
        self.ready = false;
        self.failures = 0;
        if let Some(probe) = self.pod.as_ref().and_then(|pod| pod.liveness()) {
            self.next_liveness = Instant::now() + Duration::from_secs(probe.period_seconds);
        }
    }

    async fn stop(&mut self) -> Result<()> {
        self.ready = false;
        if let Some(pod) = self.pod.take() {
            pod.stop().await?;
        }
        Ok(())
    }
}
