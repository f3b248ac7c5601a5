//! Whom to ask next, and when: shards that this node's traffic uses often, all others now and then, within one budget.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash as _, Hasher as _},
    net::SocketAddr,
};

use siphasher::sip::SipHasher24;
use tokio::time::{Duration, Instant};

use super::{
    ShardKey,
    passive::Backend,
    probe::Inquiry,
    targets::{Targets, backends},
};
use crate::{
    model::{ClusterName, Federation, HealthCheck, Service, ServiceKey, changes},
    plan::Place,
};

/// Endpoints of a shard that one inquiry asks; as many again of those that have failed, to see them come back.
const SAMPLE: usize = 3;

/// From one inquiry to the next where nothing of this node's goes.
const IDLE: Duration = Duration::from_secs(10);

/// Within this time a new shard is asked for the first time: nobody knows how far it is before, and nodes that hear of it at
/// once do not ask at once.
const FIRST: Duration = Duration::from_secs(1);

/// A shard counts as used for so long after it was.
const USED: Duration = Duration::from_secs(5);

/// Addresses that one node asks in a second.
const BUDGET: f64 = 2000.0;
/// How many of them at once.
const BURST: f64 = 250.0;

pub(super) struct Roster {
    place: Place,
    shards: BTreeMap<ShardKey, Shard>,
    /// Who is to be asked when: those who are used or have failed go first.
    urgent: BTreeSet<(Instant, ShardKey)>,
    idle: BTreeSet<(Instant, ShardKey)>,
    /// Nearly always one.
    whose: BTreeMap<Backend, Vec<ShardKey>>,
    /// By cluster, the services of which somebody can be asked there.
    asked: BTreeMap<ClusterName, BTreeSet<ServiceKey>>,
    /// Addresses that may be asked now, as of `counted`.
    allowance: f64,
    counted: Instant,
}

pub(super) struct Shard {
    pub targets: Targets,
    pub check: HealthCheck,
    /// Everybody that clients may be sent to.
    backends: Vec<Backend>,
    /// How many inquiries there were: where the next sample begins.
    round: usize,
    state: State,
    used_until: Option<Instant>,
    /// Some of its endpoints have failed.
    failing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Queued, as urgent or not.
    Waiting { due: Instant, urgent: bool },
    /// An inquiry is under way; the next is due then.
    Asked { next: Instant },
    /// There is nobody to be asked.
    Nobody,
}

impl Roster {
    pub(super) fn new(place: Place, now: Instant) -> Self {
        Self {
            place,
            shards: BTreeMap::new(),
            urgent: BTreeSet::new(),
            idle: BTreeSet::new(),
            whose: BTreeMap::new(),
            asked: BTreeMap::new(),
            allowance: BURST,
            counted: now,
        }
    }

    /// Follows what has changed in the federation; the services that it touched.
    pub(super) fn update(
        &mut self,
        before: &Federation,
        after: &Federation,
        now: Instant,
    ) -> Vec<ServiceKey> {
        let mut touched = Vec::new();
        for change in changes(&before.services, &after.services) {
            let both = change.before.into_iter().chain(change.after);
            let clusters: BTreeSet<_> = both.flat_map(|service| service.shards.keys()).collect();
            for cluster in clusters {
                let key = (change.service.clone(), cluster.clone());
                self.update_shard(key, change.after.map(|service| &**service), now);
            }
            touched.push(change.service.clone());
        }
        touched
    }

    fn update_shard(&mut self, key: ShardKey, service: Option<&Service>, now: Instant) {
        let before = self.shards.remove(&key);
        for backend in before.iter().flat_map(|shard| &shard.backends) {
            if let Some(shards) = self.whose.get_mut(backend) {
                shards.retain(|other| *other != key);
                if shards.is_empty() {
                    self.whose.remove(backend);
                }
            }
        }
        if let Some(Shard { state: State::Waiting { due, urgent }, .. }) = &before {
            self.queue(*urgent).remove(&(*due, key.clone()));
        }
        if let Some(services) = self.asked.get_mut(&key.1) {
            services.remove(&key.0);
            if services.is_empty() {
                self.asked.remove(&key.1);
            }
        }
        let Some((service, shard)) = service.and_then(|it| Some((it, it.shards.get(&key.1)?))) else {
            return;
        };
        let targets = Targets::of(service, shard, key.1 == self.place.locality.cluster, &self.place);
        let serves: Vec<_> =
            shard.endpoints.iter().flat_map(|endpoint| backends(service, endpoint)).collect();
        for backend in &serves {
            let shards = self.whose.entry(*backend).or_insert_with(|| Vec::with_capacity(1));
            // Two ports of a service may be one of an endpoint's.
            if !shards.contains(&key) {
                shards.push(key.clone());
            }
        }
        let anybody = !targets.list.is_empty();
        if anybody {
            self.asked.entry(key.1.clone()).or_default().insert(key.0.clone());
        }
        let mut entry = Shard {
            targets,
            check: service.health_check.clone(),
            backends: serves,
            round: before.as_ref().map_or(0, |shard| shard.round),
            state: before.as_ref().map_or(State::Nobody, |shard| shard.state),
            used_until: before.as_ref().and_then(|shard| shard.used_until),
            failing: before.as_ref().is_some_and(|shard| shard.failing),
        };
        entry.state = match entry.state {
            State::Waiting { .. } | State::Nobody if !anybody => State::Nobody,
            State::Nobody => {
                let due = now + FIRST.mul_f64(spread(&self.place, &key, 0));
                self.idle.insert((due, key.clone()));
                State::Waiting { due, urgent: false }
            }
            State::Waiting { due, urgent } => {
                self.queue(urgent).insert((due, key.clone()));
                entry.state
            }
            State::Asked { .. } => entry.state,
        };
        self.shards.insert(key, entry);
    }

    /// This node's traffic goes there.
    pub(super) fn used(&mut self, backends: &[Backend], now: Instant) {
        let keys: BTreeSet<ShardKey> =
            backends.iter().filter_map(|backend| self.whose.get(backend)).flatten().cloned().collect();
        for key in keys {
            let Some(shard) = self.shards.get_mut(&key) else { continue };
            let news = !shard.is_urgent(now);
            shard.used_until = Some(now + USED);
            if news {
                self.hurry(&key, now);
            }
        }
    }

    /// The shard is asked at once, unless it is being asked.
    pub(super) fn hurry(&mut self, key: &ShardKey, now: Instant) {
        if let Some(Shard { state: State::Waiting { due, urgent }, .. }) = self.shards.get(key)
            && *due > now
        {
            let old = (*due, key.clone());
            self.queue(*urgent).remove(&old);
            self.wait(key, now, true);
        }
    }

    /// Traffic may come to the others of this service, and one shard of each other cluster is to say whether the network
    /// works.
    pub(super) fn hurry_others(&mut self, (service, cluster): &ShardKey, now: Instant) {
        let others: Vec<ShardKey> = self
            .asked
            .iter()
            .filter(|(name, _)| *name != cluster)
            .filter_map(|(name, services)| {
                let asked = services.get(service).or_else(|| services.first())?;
                Some((asked.clone(), name.clone()))
            })
            .collect();
        for key in &others {
            self.hurry(key, now);
        }
    }

    /// The inquiries that are due, as far as the budget reaches, the longest overdue first. `failed` tells who of a shard
    /// has failed, `patience` how long an answer may take.
    pub(super) fn due(
        &mut self,
        now: Instant,
        failed: impl Fn(&ShardKey) -> BTreeSet<SocketAddr>,
        patience: impl Fn(&ClusterName, &HealthCheck) -> Duration,
    ) -> Vec<Inquiry> {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.allowance = (self.allowance + passed * BUDGET).min(BURST);
        self.counted = now;
        let mut inquiries = Vec::new();
        while self.allowance > 0.0 {
            let is_due =
                |queue: &BTreeSet<(Instant, ShardKey)>| queue.first().is_some_and(|(due, _)| *due <= now);
            let next = match (is_due(&self.urgent), is_due(&self.idle)) {
                (true, _) => self.urgent.pop_first(),
                (false, true) => self.idle.pop_first(),
                (false, false) => None,
            };
            let Some((_, key)) = next else { break };
            let Some(shard) = self.shards.get_mut(&key) else { continue };
            let (sample, again) = shard.sample(&failed(&key));
            self.allowance -= (sample.len() + again.len()) as f64;
            let interval = if shard.is_urgent(now) { shard.check.interval } else { IDLE };
            let interval = interval.mul_f64(0.9 + 0.2 * spread(&self.place, &key, shard.round));
            shard.state = State::Asked { next: now + interval };
            let patience = patience(&key.1, &shard.check);
            let check = shard.check.clone();
            inquiries.push(Inquiry { shard: key, check, sample, again, patience });
        }
        inquiries
    }

    /// When something is due next, as far as the budget reaches.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let first = |queue: &BTreeSet<(Instant, ShardKey)>| queue.first().map(|(due, _)| *due);
        let due = [first(&self.urgent), first(&self.idle)].into_iter().flatten().min()?;
        // An allowance that is used up comes back soon.
        let allowed = if self.allowance > 0.0 { now } else { now + Duration::from_millis(10) };
        Some(due.max(allowed))
    }

    /// An inquiry has ended: the shard may be asked again. `failing`: some of its endpoints have failed.
    pub(super) fn take_back(&mut self, key: &ShardKey, failing: bool, now: Instant) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        shard.failing = failing;
        let State::Asked { next } = shard.state else { return };
        if shard.targets.list.is_empty() {
            shard.state = State::Nobody;
            return;
        }
        let urgent = shard.is_urgent(now);
        // Who has become urgent meanwhile does not wait for an idle turn.
        let next = if urgent { next.min(now + shard.check.interval) } else { next };
        self.wait(key, next.max(now), urgent);
    }

    /// Whether anybody of the cluster is asked.
    pub(super) fn asks(&self, cluster: &ClusterName) -> bool {
        self.asked.contains_key(cluster)
    }

    pub(super) fn get(&self, key: &ShardKey) -> Option<&Shard> {
        self.shards.get(key)
    }

    /// The shards that send clients to this backend.
    pub(super) fn whose(&self, backend: &Backend) -> impl Iterator<Item = &ShardKey> {
        self.whose.get(backend).into_iter().flatten()
    }

    fn wait(&mut self, key: &ShardKey, due: Instant, urgent: bool) {
        if let Some(shard) = self.shards.get_mut(key) {
            shard.state = State::Waiting { due, urgent };
            self.queue(urgent).insert((due, key.clone()));
        }
    }

    fn queue(&mut self, urgent: bool) -> &mut BTreeSet<(Instant, ShardKey)> {
        if urgent { &mut self.urgent } else { &mut self.idle }
    }
}

impl Shard {
    fn is_urgent(&self, now: Instant) -> bool {
        self.failing || self.used_until.is_some_and(|until| now < until)
    }

    /// Who is asked this time: a sample that rotates, and some of the failed outside of it.
    fn sample(&mut self, failed: &BTreeSet<SocketAddr>) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let rotated = |addresses: &[SocketAddr], round: usize| -> Vec<SocketAddr> {
            let start = round * SAMPLE;
            let count = addresses.len().min(SAMPLE);
            (start..start + count).map(|n| addresses[n % addresses.len()]).collect()
        };
        let all: Vec<_> = self.targets.list.iter().map(|target| target.address).collect();
        let sample = rotated(&all, self.round);
        let others: Vec<_> = all
            .iter()
            .filter(|address| failed.contains(address) && !sample.contains(address))
            .copied()
            .collect();
        let again = rotated(&others, self.round);
        self.round = self.round.wrapping_add(1) % all.len().max(1);
        (sample, again)
    }

    pub(super) fn backends(&self) -> &[Backend] {
        &self.backends
    }
}

/// A fraction that differs from node to node, shard to shard and round to round, so that they do not beat together.
fn spread(place: &Place, key: &ShardKey, round: usize) -> f64 {
    let mut hasher = SipHasher24::new();
    (&place.node, place.locality.cluster.as_str(), key, round).hash(&mut hasher);
    (hasher.finish() >> 32) as f64 / f64::from(u32::MAX)
}
