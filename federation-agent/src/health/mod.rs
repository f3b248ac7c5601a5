//! Which backends answer and how far they are: found out by asking them, and by what this node's traffic shows.
//!
//! Says nothing of readiness, which clusters declare themselves, nor of what follows: that is the plan's. Here are the
//! task and its clock alone; whom to ask is in [`roster`], the questions in [`probe`], what answers mean in [`verdicts`]
//! and [`witness`], what traffic shows in [`passive`], how far clusters are in [`distance`]. All but the questions are
//! pure and are told the time.

mod distance;
mod news;
mod passive;
mod probe;
mod roster;
mod targets;
mod verdicts;
mod witness;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    model::{ClusterName, Federation, HealthCheck, Protocol, ServiceKey},
    plan::{Health, Place, ServiceHealth, ShardHealth},
};
use distance::Distances;
pub use news::{News, Turn};
use passive::{Backend, Ejections, Failing};
use probe::{Progress, Report};
use roster::Roster;
use verdicts::Verdicts;

/// A service in a cluster.
pub type ShardKey = (ServiceKey, ClusterName);

/// How long the first answer of a cluster may take, when nobody knows how far it is.
const UNMEASURED: Duration = Duration::from_secs(1);

/// Longest sleep of a task that has nothing to do.
const REST: Duration = Duration::from_secs(1);

/// From one complaint about this node's own trouble to the next.
const COMPLAINTS: Duration = Duration::from_secs(10);

/// What the data plane saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// This node's traffic went to these lately. Told every half second or so.
    Used(Vec<(SocketAddr, Protocol)>),
    /// The backend refused a client's first packet, as it did so many in a row.
    Refused { backend: SocketAddr, protocol: Protocol, in_a_row: u32 },
    /// A client's first packet got no answer, as so many in a row.
    Unanswered { backend: SocketAddr, protocol: Protocol, in_a_row: u32 },
    /// A handshake took so long.
    RoundTrip { backend: SocketAddr, protocol: Protocol, time: Duration },
}

/// What is known where the watch begins.
#[derive(Debug)]
pub struct Beginning {
    pub place: Place,
    /// Backends that the data plane holds to be dead, from an agent before this one: so they are until they answer.
    pub dead: Vec<(SocketAddr, Protocol)>,
}

/// Probes the shards of `federation`, weighs what the data plane saw, and publishes what it finds, until nobody listens or
/// the federation ends. `news` are never waited for.
pub async fn watch_health(
    beginning: Beginning,
    mut federation: watch::Receiver<Option<Arc<Federation>>>,
    mut observations: mpsc::Receiver<Observation>,
    health: watch::Sender<Arc<Health>>,
    news: mpsc::Sender<News>,
) {
    let (progress, mut heard) = mpsc::unbounded_channel();
    let mut watch = Watch::new(beginning, Instant::now());
    federation.mark_changed();
    loop {
        let now = Instant::now();
        for inquiry in watch.due(now) {
            tokio::spawn(probe::inquire(inquiry, progress.clone()));
        }
        let wake = watch.next_wake(now);
        tokio::select! {
            () = health.closed() => return,
            changed = federation.changed() => {
                if changed.is_err() {
                    return;
                }
                let federation = federation.borrow_and_update().clone();
                watch.follow(federation.as_deref().unwrap_or(&Federation::default()), Instant::now());
            }
            Some(observation) = observations.recv() => watch.observe(observation, Instant::now()),
            Some(progress) = heard.recv() => watch.hear(progress, Instant::now()),
            () = sleep_until(wake) => watch.end_ejections(Instant::now()),
        }
        for item in watch.news.drain(..) {
            if item.is_good() {
                info!("{}: {item}", item.service());
            } else {
                warn!("{}: {item}", item.service());
            }
            // Whoever tells others may be slower than the news come; they are in the log.
            let _ = news.try_send(item);
        }
        if let Some(found) = watch.take_changed() {
            health.send_replace(Arc::new(found));
        }
    }
}

/// Everything that is known, and what follows from each new thing.
struct Watch {
    federation: Federation,
    roster: Roster,
    verdicts: Verdicts,
    ejections: Ejections,
    distances: Distances,
    inherited: BTreeSet<Backend>,
    health: Health,
    /// Services of which something new may be said.
    touched: BTreeSet<ServiceKey>,
    distances_changed: bool,
    news: Vec<News>,
    complained: Option<Instant>,
}

impl Watch {
    fn new(beginning: Beginning, now: Instant) -> Self {
        Self {
            federation: Federation::default(),
            roster: Roster::new(beginning.place, now),
            verdicts: Verdicts::default(),
            ejections: Ejections::default(),
            distances: Distances::default(),
            inherited: beginning.dead.into_iter().collect(),
            health: Health::default(),
            touched: BTreeSet::new(),
            distances_changed: false,
            news: Vec::new(),
            complained: None,
        }
    }

    fn due(&mut self, now: Instant) -> Vec<probe::Inquiry> {
        let (verdicts, distances) = (&self.verdicts, &self.distances);
        let patience = |cluster: &ClusterName, check: &HealthCheck| patience(distances, cluster, check);
        self.roster.due(now, |key| verdicts.failed(key), patience)
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let wakes = [self.roster.next_due(now), self.ejections.next_end()];
        wakes.into_iter().flatten().fold(now + REST, Instant::min)
    }

    fn follow(&mut self, federation: &Federation, now: Instant) {
        let before = std::mem::replace(&mut self.federation, federation.clone());
        for service in self.roster.update(&before, &self.federation, now) {
            let clusters = [&before, &self.federation].into_iter().filter_map(|it| it.services.get(&service));
            let clusters: BTreeSet<ClusterName> =
                clusters.flat_map(|service| service.shards.keys()).cloned().collect();
            for cluster in clusters {
                let key = (service.clone(), cluster);
                let shard = self.roster.get(&key);
                self.verdicts.forget(&key, shard);
                if let Some(shard) = shard.filter(|_| !self.inherited.is_empty()) {
                    self.verdicts.inherit(&key, shard, &self.inherited, now);
                    // Those who are dead are asked at once: they may be back.
                    if self.verdicts.is_failing(&key) {
                        self.roster.hurry(&key, now);
                    }
                }
            }
            self.touched.insert(service);
        }
        if before.clusters != self.federation.clusters {
            let known = &self.federation.clusters;
            self.distances.forget(|cluster| known.contains_key(cluster));
            self.distances_changed = true;
        }
        // Who is not asked any more cannot speak.
        let roster = &self.roster;
        self.verdicts.witnesses.forget(|cluster| roster.asks(cluster));
        // Whoever appears later is new.
        if !self.federation.services.is_empty() {
            self.inherited.clear();
        }
    }

    fn observe(&mut self, observation: Observation, now: Instant) {
        match observation {
            Observation::Used(backends) => self.roster.used(&backends, now),
            Observation::Refused { backend, protocol, in_a_row } => {
                self.suspect((backend, protocol), Failing::Refused, in_a_row, now);
            }
            Observation::Unanswered { backend, protocol, in_a_row } => {
                self.suspect((backend, protocol), Failing::Unanswered, in_a_row, now);
            }
            Observation::RoundTrip { backend, protocol, time } => {
                if let Some((_, cluster)) = self.roster.whose(&(backend, protocol)).next().cloned() {
                    self.distances_changed |= self.distances.measure(&cluster, time);
                }
            }
        }
    }

    fn suspect(&mut self, backend: Backend, failing: Failing, in_a_row: u32, now: Instant) {
        let shards: Vec<ShardKey> = self.roster.whose(&backend).cloned().collect();
        // Whether a silence is the backend's own is for probes to say, once they have noticed it: a node that loses its uplink
        // time and again must not hold it against others for ever longer.
        let is_out =
            |key| self.roster.get(key).is_some_and(|it| self.verdicts.speak_against(key, it, &backend));
        if failing == Failing::Unanswered && shards.iter().any(is_out) {
            return;
        }
        let ejected = self.ejections.observe(backend, failing, in_a_row, now);
        for shard in shards {
            self.roster.hurry(&shard, now);
            if let (Some(time), Some(record)) = (ejected, self.ejections.of(&backend)) {
                self.touched.insert(shard.0.clone());
                let turn = Turn::Ejected { evidence: record.evidence.clone(), time };
                self.news.push(News { shard, endpoint: Some(backend.0), turn });
            }
        }
    }

    fn end_ejections(&mut self, now: Instant) {
        for backend in self.ejections.end(now) {
            for shard in self.roster.whose(&backend) {
                self.touched.insert(shard.0.clone());
                let (shard, endpoint) = (shard.clone(), Some(backend.0));
                self.news.push(News { shard, endpoint, turn: Turn::Readmitted });
            }
        }
    }

    fn hear(&mut self, progress: Progress, now: Instant) {
        match progress {
            Progress::LastAttempt { shard, at } => self.verdicts.call_witnesses(&shard, at),
            Progress::Uneasy { shard } => {
                if !self.verdicts.is_failing(&shard) {
                    self.roster.hurry_others(&shard, now);
                }
            }
            Progress::Done(report) => self.take(&report, now),
        }
    }

    fn take(&mut self, report: &Report, now: Instant) {
        for round_trip in report.sample.iter().chain(&report.again).filter_map(|answer| answer.round_trip) {
            self.distances_changed |= self.distances.measure(&report.shard.1, round_trip);
        }
        let failed = self.verdicts.is_failing(&report.shard);
        if let Some(shard) = self.roster.get(&report.shard) {
            let before = self.verdicts.failed(&report.shard);
            self.news.extend(self.verdicts.record(report, shard, now));
            let after = self.verdicts.failed(&report.shard);
            // An outage that probes saw begin and end explains what clients met meanwhile.
            let back = before.difference(&after).filter_map(|address| shard.targets.get(*address));
            for backend in back.flat_map(targets::Target::covers) {
                if self.ejections.forgive(backend) {
                    let (shard, endpoint) = (report.shard.clone(), Some(backend.0));
                    self.news.push(News { shard, endpoint, turn: Turn::Readmitted });
                }
            }
        }
        let failing = self.verdicts.is_failing(&report.shard);
        if failing && !failed {
            // What others say from now on tells whether it is this node that is cut off.
            self.roster.hurry_others(&report.shard, now);
        }
        if let Some(trouble) = &report.trouble {
            self.complain(trouble, now);
        }
        self.roster.take_back(&report.shard, failing, now);
        if failed || failing {
            self.touched.insert(report.shard.0.clone());
        }
    }

    /// Of this node's own trouble, now and then: it may well come two thousand times a second.
    fn complain(&mut self, trouble: &str, now: Instant) {
        if self.complained.is_none_or(|last| now > last + COMPLAINTS) {
            self.complained = Some(now);
            warn!("probes cannot be made, and those they were for are held to be as before: {trouble}");
        }
    }

    /// The state of health, if it is another one than before.
    fn take_changed(&mut self) -> Option<Health> {
        let mut changed = false;
        for service in std::mem::take(&mut self.touched) {
            let found = self.service_health(&service);
            if found.is_empty() {
                changed |= self.health.services.remove(&service).is_some();
            } else if self.health.services.get(&service).is_none_or(|before| **before != found) {
                self.health.services.insert(service, Arc::new(found));
                changed = true;
            }
        }
        if std::mem::take(&mut self.distances_changed) {
            let bands = self.distances.bands();
            if *self.health.distances != bands {
                self.health.distances = Arc::new(bands);
                changed = true;
            }
        }
        changed.then(|| self.health.clone())
    }

    fn service_health(&self, service: &ServiceKey) -> ServiceHealth {
        let clusters = self.federation.services.get(service).into_iter().flat_map(|it| it.shards.keys());
        clusters
            .filter_map(|cluster| {
                let key = (service.clone(), cluster.clone());
                let health = self.verdicts.health(&key, self.roster.get(&key)?, &self.ejections);
                (health != ShardHealth::default()).then(|| (cluster.clone(), health))
            })
            .collect()
    }
}

/// How long an answer of a cluster may take: the check's timeout beyond a connection and an exchange.
fn patience(distances: &Distances, cluster: &ClusterName, check: &HealthCheck) -> Duration {
    match distances.round_trip(cluster) {
        Some(round_trip) => check.timeout + 2 * round_trip,
        None => check.timeout.max(UNMEASURED),
    }
}

#[cfg(test)]
mod tests;
