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
    /// Shards of which something is not believed yet.
    doubted: BTreeSet<ShardKey>,
    /// Who has come back lately: an endpoint, or the shard.
    returns: BTreeMap<(ShardKey, Option<SocketAddr>), Return>,
    pub witnesses: Witnesses,
}

struct Return {
    at: Instant,
    /// How long it was held out before that.
    hold: Duration,
}

/// What is wrong with a shard.
#[derive(Default)]
struct Failings {
    /// Nobody of a whole sample answered.
    all: Option<Failing>,
    /// By the address that is asked.
    endpoints: BTreeMap<SocketAddr, Failing>,
}

struct Failing {
    failure: Failure,
    /// When the first question was put that failed.
    since: Instant,
    /// Answers in a row since then.
    good: u32,
    /// Whether it is dead, rather than this node cut off.
    believed: bool,
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
                self.witnesses.answered(&report.shard.1, now);
            }
        }
        let mut failings = self.shards.remove(&report.shard).unwrap_or_default();
        let mut news = Vec::new();
        for Answer { address, result, .. } in sample.iter().chain(&again) {
            let tell = |turn| News { shard: report.shard.clone(), endpoint: Some(*address), turn };
            match (result, failings.endpoints.get_mut(address)) {
                (Ok(()), None) => {}
                (Ok(()), Some(failing)) => {
                    failing.good += 1;
                    if failing.good >= shard.check.healthy_threshold && failing.may_return(now) {
                        self.returned((report.shard.clone(), Some(*address)), failing.hold, now);
                        failings.endpoints.remove(address);
                        news.push(tell(Turn::Back));
                    }
                }
                (Err(failure), Some(failing)) => {
                    failing.good = 0;
                    // Who says no is no victim of the network.
                    failing.believed |= !failure.silent;
                    failing.failure = failure.clone();
                }
                (Err(failure), None) => {
                    let remote = shard.targets.get(*address).is_some_and(|target| target.remote);
                    let failing = self.failing(report, Some(*address), failure.clone(), remote);
                    news.push(tell(failing.turn()));
                    failings.endpoints.insert(*address, failing);
                }
            }
        }
        if let Some(change) = self.judge_shard(&mut failings, report, &sample, shard, now) {
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
        now: Instant,
    ) -> Option<Turn> {
        let failed = |answer: &Answer| answer.result.is_err();
        if sample.iter().any(|answer| !failings.endpoints.contains_key(&answer.address)) {
            let back = failings.all.take_if(|all| all.may_return(now))?;
            self.returned((report.shard.clone(), None), back.hold, now);
            return Some(Turn::Back);
        }
        if failings.all.is_some() || sample.is_empty() || !sample.iter().all(failed) {
            return None;
        }
        let failure = sample.iter().filter_map(|answer| answer.result.as_ref().err());
        // One that says no shows that the network works.
        let failure = failure.min_by_key(|failure| failure.silent)?.clone();
        let remote =
            sample.iter().all(|answer| shard.targets.get(answer.address).is_some_and(|target| target.remote));
        let failing = self.failing(report, None, failure, remote);
        let turn = failing.turn();
        failings.all = Some(failing);
        Some(turn)
    }

    fn failing(
        &self,
        report: &Report,
        endpoint: Option<SocketAddr>,
        failure: Failure,
        remote: bool,
    ) -> Failing {
        let believed = !failure.silent || !remote || self.witnesses.confirm(&report.shard.1, report.asked);
        let hold = match self.returns.get(&(report.shard.clone(), endpoint)) {
            Some(Return { at, hold }) if report.asked < *at + STEADY.max(*hold) => {
                (*hold * 2).clamp(FIRST_HOLD, LONGEST_HOLD)
            }
            _ => Duration::ZERO,
        };
        Failing { failure, since: report.asked, good: 0, believed, hold }
    }

    fn returned(&mut self, who: (ShardKey, Option<SocketAddr>), hold: Duration, now: Instant) {
        self.returns.retain(|_, before| now < before.at + STEADY.max(before.hold));
        self.returns.insert(who, Return { at: now, hold });
    }

    /// Somebody has answered: what was doubted may be believed now. The shards of which that is so.
    pub(super) fn reconsider(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        for key in std::mem::take(&mut self.doubted) {
            let Some(mut failings) = self.shards.remove(&key) else { continue };
            let endpoints = failings.endpoints.iter_mut().map(|(address, failing)| (Some(*address), failing));
            let mut all_told = false;
            for (endpoint, failing) in failings.all.iter_mut().map(|failing| (None, failing)).chain(endpoints)
            {
                if !failing.believed && self.witnesses.confirm(&key.1, failing.since) {
                    failing.believed = true;
                    if !all_told {
                        news.push(News { shard: key.clone(), endpoint, turn: failing.turn() });
                    }
                    all_told |= endpoint.is_none();
                }
            }
            self.keep(key, failings);
        }
        news
    }

    /// Holds these backends, dead by the maps of an agent before this one, to be so until they answer.
    pub(super) fn inherit(&mut self, key: &ShardKey, shard: &Shard, dead: &BTreeSet<Backend>, now: Instant) {
        let is_dead = |covers: &[Backend]| covers.iter().any(|backend| dead.contains(backend));
        let mut failings = self.shards.remove(key).unwrap_or_default();
        for target in shard.targets.list.iter().filter(|target| is_dead(&target.covers)) {
            let failure = Failure { silent: true, evidence: "it was dead before this agent began".into() };
            let failing = Failing { failure, since: now, good: 0, believed: true, hold: Duration::ZERO };
            failings.endpoints.entry(target.address).or_insert(failing);
        }
        self.keep(key.clone(), failings);
    }

    /// Drops what is said of those who are gone.
    pub(super) fn forget(&mut self, key: &ShardKey, shard: Option<&Shard>) {
        let Some(mut failings) = self.shards.remove(key) else { return };
        let Some(shard) = shard.filter(|shard| !shard.targets.list.is_empty()) else {
            self.doubted.remove(key);
            return;
        };
        failings.endpoints.retain(|address, _| shard.targets.get(*address).is_some());
        failings.all = failings.all.filter(|_| !failings.endpoints.is_empty());
        self.keep(key.clone(), failings);
    }

    fn keep(&mut self, key: ShardKey, failings: Failings) {
        let mut all = failings.all.iter().chain(failings.endpoints.values());
        if all.any(|failing| !failing.believed) {
            self.doubted.insert(key.clone());
        } else {
            self.doubted.remove(&key);
        }
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
            health.endpoints.extend(target.covers.iter().map(|backend| (*backend, failing.verdict())));
            let others = shard.targets.list.iter().filter(|other| other.endpoint == target.endpoint);
            if others.into_iter().all(|other| failings.endpoints.contains_key(&other.address)) {
                let silent = &shard.targets.silent[target.endpoint];
                health.endpoints.extend(silent.iter().map(|backend| (*backend, failing.verdict())));
            }
        }
        health
    }
}

impl Failing {
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
