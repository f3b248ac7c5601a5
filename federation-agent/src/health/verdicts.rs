//! What the answers mean: who has failed, and whether that is to be believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use tokio::time::{Duration, Instant};

use super::{
    News, ShardKey, Turn,
    passive::{Backend, Ejections},
    probe::{Answer, Failure, Report},
    roster::Shard,
    targets::Target,
    witness::Witnesses,
};
use crate::plan::{ShardHealth, Verdict};

/// Who fails again within this time of coming back, or as long as it was held out, flaps.
const STEADY: Duration = Duration::from_secs(10);

/// How long who flaps is held out: at first, then twice as long each time.
const FIRST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Verdicts {
    shards: BTreeMap<ShardKey, Failings>,
    /// Who of a shard has come back lately: an endpoint, or the shard.
    returns: BTreeMap<ShardKey, BTreeMap<Option<SocketAddr>, Return>>,
    pub witnesses: Witnesses,
}

struct Return {
    at: Instant,
    /// How long it was held out before that.
    hold: Duration,
}

impl Return {
    /// Whether who fails now flaps.
    fn counts(&self, now: Instant) -> bool {
        now < self.at + STEADY.max(self.hold)
    }
}

/// What is wrong with a shard.
#[derive(Default)]
struct Failings {
    /// Nobody of a whole sample answered.
    all: Option<Failing>,
    /// By the address that is asked.
    endpoints: BTreeMap<SocketAddr, Failing>,
    /// Others have spoken since, and before the last attempt of the inquiry that is under way: if that is in silence too, it
    /// is not this node's network.
    witnessed: bool,
}

struct Failing {
    /// As it was when the verdict turned: what is only told in other words changes nothing.
    failure: Failure,
    /// When it was known to have failed.
    since: Instant,
    /// Answers in a row since then.
    good: u32,
    /// Whether it is dead, rather than this node cut off.
    believed: bool,
    /// The turn is known to people. One that is over with the next inquiry is not worth a word.
    told: bool,
    /// How long it stays out at least: none, unless it flaps.
    hold: Duration,
}

impl Verdicts {
    /// Takes an inquiry's answers. What is said of those who are gone does not count.
    pub(super) fn record(&mut self, report: &Report, shard: &Shard, now: Instant) -> Vec<News> {
        let known = |answers: &[Answer]| -> Vec<Answer> {
            answers.iter().filter(|answer| shard.targets.get(answer.address).is_some()).cloned().collect()
        };
        let (sample, again) = (known(&report.sample), known(&report.again));
        for answer in sample.iter().chain(&again) {
            let spoke = answer.result.as_ref().err().is_none_or(|failure| !failure.silent);
            let remote = shard.targets.get(answer.address).is_some_and(|target| target.remote);
            if spoke && remote {
                self.witnesses.answered(&report.shard.1, answer.at);
            }
        }
        let mut failings = self.shards.remove(&report.shard).unwrap_or_default();
        let witnessed = std::mem::take(&mut failings.witnessed);
        let mut news = Vec::new();
        for Answer { address, result, .. } in sample.iter().chain(&again) {
            let tell = |turn| News { shard: report.shard.clone(), endpoint: Some(*address), turn };
            match (result, failings.endpoints.get_mut(address)) {
                (Ok(()), None) => {}
                (Ok(()), Some(failing)) => {
                    failing.good += 1;
                    if failing.good >= shard.check.healthy_threshold && failing.may_return(now) {
                        news.extend(failing.told.then(|| tell(Turn::Back)));
                        self.returned(&report.shard, Some(*address), failing.hold, now);
                        failings.endpoints.remove(address);
                    }
                }
                (Err(failure), Some(failing)) => {
                    news.extend(failing.again(witnessed, failure).map(tell));
                }
                (Err(failure), None) => {
                    let remote = shard.targets.get(*address).is_some_and(|target| target.remote);
                    let failing = self.failing(&report.shard, Some(*address), failure.clone(), remote, now);
                    news.extend(failing.told.then(|| tell(failing.turn())));
                    failings.endpoints.insert(*address, failing);
                }
            }
        }
        if let Some(change) = self.judge_shard(&mut failings, report, &sample, shard, witnessed, now) {
            // What is said of all need not be said of each.
            news.clear();
            news.push(News { shard: report.shard.clone(), endpoint: None, turn: change });
        }
        self.keep(report.shard.clone(), failings);
        news
    }

    /// A shard is lost when its whole sample is, and back when anybody of it is.
    fn judge_shard(
        &mut self,
        failings: &mut Failings,
        report: &Report,
        sample: &[Answer],
        shard: &Shard,
        witnessed: bool,
        now: Instant,
    ) -> Option<Turn> {
        let failed = |answer: &Answer| answer.result.is_err();
        if sample.iter().any(|answer| !failings.endpoints.contains_key(&answer.address)) {
            let back = failings.all.take_if(|all| all.may_return(now))?;
            self.returned(&report.shard, None, back.hold, now);
            return back.told.then_some(Turn::Back);
        }
        let speaks_for_all = shard.targets.represent(sample.iter().map(|answer| answer.address));
        if sample.is_empty() || !sample.iter().all(failed) || !speaks_for_all {
            return None;
        }
        let failure = sample.iter().filter_map(|answer| answer.result.as_ref().err());
        // One that says no shows that the network works.
        let failure = failure.min_by_key(|failure| failure.silent)?.clone();
        if let Some(all) = &mut failings.all {
            return all.again(witnessed, &failure);
        }
        let remote =
            sample.iter().all(|answer| shard.targets.get(answer.address).is_some_and(|target| target.remote));
        let failing = self.failing(&report.shard, None, failure, remote, now);
        let turn = failing.told.then(|| failing.turn());
        failings.all = Some(failing);
        turn
    }

    fn failing(
        &self,
        shard: &ShardKey,
        endpoint: Option<SocketAddr>,
        failure: Failure,
        remote: bool,
        now: Instant,
    ) -> Failing {
        // Silence is believed with the next inquiry at the earliest, if others have spoken before it began: when this node's
        // network is back, nobody speaks first to another's harm.
        let believed = !failure.silent || !remote;
        let hold = match self.returns.get(shard).and_then(|returns| returns.get(&endpoint)) {
            Some(before) if before.counts(now) => (before.hold * 2).clamp(FIRST_HOLD, LONGEST_HOLD),
            _ => Duration::ZERO,
        };
        Failing { failure, since: now, good: 0, believed, told: believed, hold }
    }

    fn returned(&mut self, shard: &ShardKey, who: Option<SocketAddr>, hold: Duration, now: Instant) {
        let returns = self.returns.entry(shard.clone()).or_default();
        returns.retain(|_, before| before.counts(now));
        returns.insert(who, Return { at: now, hold });
    }

    /// An inquiry has put its last question. Where the shard fails: have others spoken since its silence began, and before
    /// that? Asked at this moment, for of each cluster the latest word alone is known.
    pub(super) fn call_witnesses(&mut self, key: &ShardKey, last_attempt: Instant) {
        let Some(failings) = self.shards.get_mut(key) else { return };
        let all = || failings.all.iter().chain(failings.endpoints.values());
        let Some(since) = all().map(|failing| failing.since).min() else { return };
        // Without any other cluster it is what this node's own network says that counts.
        let no_route = all().any(|failing| failing.failure.no_route);
        failings.witnessed = self.witnesses.confirm(&key.1, since, last_attempt).unwrap_or(!no_route);
    }

    /// Holds these backends, dead by the maps of an agent before this one, to be so until they answer.
    pub(super) fn inherit(&mut self, key: &ShardKey, shard: &Shard, dead: &BTreeSet<Backend>, now: Instant) {
        let is_dead = |covers: &[Backend]| covers.iter().any(|backend| dead.contains(backend));
        let mut failings = self.shards.remove(key).unwrap_or_default();
        for target in shard.targets.list.iter().filter(|target| is_dead(target.covers())) {
            let failure = Failure {
                silent: true,
                no_route: false,
                evidence: "it was dead before this agent began".into(),
            };
            let failing =
                Failing { failure, since: now, good: 0, believed: true, told: true, hold: Duration::ZERO };
            failings.endpoints.entry(target.address).or_insert(failing);
        }
        self.keep(key.clone(), failings);
    }

    /// Drops what is said of those who are gone.
    pub(super) fn forget(&mut self, key: &ShardKey, shard: Option<&Shard>) {
        if shard.is_none() {
            self.returns.remove(key);
        }
        let Some(mut failings) = self.shards.remove(key) else { return };
        let Some(shard) = shard.filter(|shard| !shard.targets.list.is_empty()) else { return };
        failings.endpoints.retain(|address, _| shard.targets.get(*address).is_some());
        failings.all = failings.all.filter(|_| !failings.endpoints.is_empty());
        self.keep(key.clone(), failings);
    }

    fn keep(&mut self, key: ShardKey, failings: Failings) {
        if failings.all.is_some() || !failings.endpoints.is_empty() {
            self.shards.insert(key, failings);
        }
    }

    /// The addresses of a shard that have failed.
    pub(super) fn failed(&self, key: &ShardKey) -> BTreeSet<SocketAddr> {
        self.shards.get(key).map(|it| it.endpoints.keys().copied().collect()).unwrap_or_default()
    }

    pub(super) fn is_failing(&self, key: &ShardKey) -> bool {
        self.shards.contains_key(key)
    }

    /// Whether probes speak against a backend of the shard.
    pub(super) fn speak_against(&self, key: &ShardKey, shard: &Shard, backend: &Backend) -> bool {
        let Some(failings) = self.shards.get(key) else { return false };
        let fails = |target: &Target| {
            failings.endpoints.contains_key(&target.address) && target.covers().contains(backend)
        };
        failings.all.is_some() || shard.targets.list.iter().any(fails)
    }

    /// What the plan is to know of a shard.
    pub(super) fn health(&self, key: &ShardKey, shard: &Shard, ejections: &Ejections) -> ShardHealth {
        let mut health = ShardHealth::default();
        for backend in shard.backends() {
            if let Some(ejected) = ejections.of(backend) {
                let verdict = Verdict::Ejected { rank: ejected.rank, evidence: ejected.evidence.clone() };
                health.endpoints.insert(*backend, verdict);
            }
        }
        let Some(failings) = self.shards.get(key) else { return health };
        health.all = failings.all.as_ref().map(Failing::verdict);
        for target in &shard.targets.list {
            let Some(failing) = failings.endpoints.get(&target.address) else { continue };
            health.endpoints.extend(target.covers().iter().map(|backend| (*backend, failing.verdict())));
            let others = shard.targets.list.iter().filter(|other| other.endpoint == target.endpoint);
            if others.into_iter().all(|other| failings.endpoints.contains_key(&other.address)) {
                let unasked = &shard.targets.unasked[target.endpoint];
                health.endpoints.extend(unasked.iter().map(|backend| (*backend, failing.verdict())));
            }
        }
        health
    }
}

impl Failing {
    /// It has failed once more; what there is to tell of it.
    fn again(&mut self, witnessed: bool, failure: &Failure) -> Option<Turn> {
        self.good = 0;
        // Who says no is no victim of the network.
        let believes = !self.believed && (!failure.silent || witnessed);
        if believes {
            self.believed = true;
            self.failure = failure.clone();
        }
        let told = std::mem::replace(&mut self.told, true);
        (believes || !told).then(|| self.turn())
    }

    fn may_return(&self, now: Instant) -> bool {
        now >= self.since + self.hold
    }

    fn turn(&self) -> Turn {
        let evidence = self.failure.evidence.clone();
        if self.believed { Turn::Failed { evidence } } else { Turn::Doubted { evidence } }
    }

    fn verdict(&self) -> Verdict {
        let evidence = self.failure.evidence.clone();
        if self.believed { Verdict::Failed { evidence } } else { Verdict::Doubted { evidence } }
    }
}
