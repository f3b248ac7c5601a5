//! Who leads among several controllers: what the Lease says, and what to do about it. Pure: both clocks come in.
//!
//! As in client-go, nobody compares clocks of two machines. A lease is over when it has not changed for its duration by
//! the reader's own clock; the times in it are for people.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{ArgAction, Args};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::core::{Duration as Span, ObjectMeta};

/// Whether and how this process is elected.
#[derive(Args, Clone, Debug)]
pub struct ElectionSettings {
    /// Act only while holding the Lease, so that several controllers can stand by
    #[arg(
        long,
        env = "FEDERATION_LEADER_ELECT",
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    pub leader_elect: bool,

    /// How long the others wait for a leader that has fallen silent
    #[arg(
        long = "leader-elect-lease-duration",
        env = "FEDERATION_LEASE_DURATION",
        value_name = "DURATION",
        default_value = "15s"
    )]
    lease_duration: Span,

    /// How long a leader that cannot renew its lease goes on
    #[arg(
        long = "leader-elect-renew-deadline",
        env = "FEDERATION_RENEW_DEADLINE",
        value_name = "DURATION",
        default_value = "10s"
    )]
    renew_deadline: Span,

    /// How often the lease is renewed, or asked for
    #[arg(
        long = "leader-elect-retry-period",
        env = "FEDERATION_RETRY_PERIOD",
        value_name = "DURATION",
        default_value = "2s"
    )]
    retry_period: Span,
}

/// The three times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub lease: Duration,
    pub renew_deadline: Duration,
    pub retry: Duration,
}

/// One candidate's view.
#[derive(Debug)]
pub struct Election {
    identity: String,
    terms: Terms,
    seen: Option<Seen>,
}

/// What the lease said, and since when it has said so.
#[derive(Debug)]
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write the first lease.
    Create(Lease),
    /// Write this one in place of the one that was read, if that is still there.
    Replace(Lease),
    /// Somebody else leads.
    Wait { holder: String },
}

// === impl ElectionSettings ===

impl ElectionSettings {
    /// # Errors
    /// Times with which two could lead at once, or nobody for long.
    pub fn terms(&self) -> Result<Terms> {
        let named = [
            ("lease-duration", self.lease_duration),
            ("renew-deadline", self.renew_deadline),
            ("retry-period", self.retry_period),
        ];
        for (name, span) in named {
            ensure!(span > Duration::ZERO, "--leader-elect-{name} {span:?} must be greater than 0");
        }
        let [lease, renew_deadline, retry] = named.map(|(_, span)| Duration::from(span));
        ensure!(
            lease >= Duration::from_secs(1),
            "--leader-elect-lease-duration {lease:?} is too short: a Lease counts whole seconds, give at least 1s"
        );
        ensure!(
            renew_deadline < lease,
            "--leader-elect-renew-deadline {renew_deadline:?} must be shorter than --leader-elect-lease-duration {lease:?}, \
             or two would lead at once"
        );
        ensure!(
            retry < renew_deadline,
            "--leader-elect-retry-period {retry:?} must be shorter than --leader-elect-renew-deadline {renew_deadline:?}, or \
             a leader would give up before it has tried"
        );
        Ok(Terms { lease, renew_deadline, retry })
    }
}

// === impl Election ===

impl Election {
    pub fn new(identity: String, terms: Terms) -> Self {
        Self { identity, terms, seen: None }
    }

    /// What to do about the lease that was found.
    pub fn step(&mut self, name: &str, found: Option<&Lease>, now: Instant, today: Timestamp) -> Step {
        let Some(lease) = found else {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            return Step::Create(Lease { metadata, spec: Some(self.held(&LeaseSpec::default(), today)) });
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let is_ours = holder == self.identity;
        if !is_ours && !holder.is_empty() && !self.is_over(&spec, now) {
            return Step::Wait { holder };
        }
        Step::Replace(Lease { metadata: named(lease), spec: Some(self.held(&spec, today)) })
    }

    /// The lease given back, if it is ours: the next one need not wait.
    pub fn release(&self, lease: &Lease, today: Timestamp) -> Option<Lease> {
        let spec = lease.spec.clone().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))?;
        let spec = LeaseSpec {
            // Not an empty one: newer API servers refuse that.
            holder_identity: None,
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(today)),
            ..spec
        };
        Some(Lease { metadata: named(lease), spec: Some(spec) })
    }

    /// Whether a lease of somebody else has not changed for its duration, as far as we have seen it.
    fn is_over(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        let since = match &self.seen {
            Some(seen) if seen.spec == *spec => seen.since,
            _ => {
                self.seen = Some(Seen { spec: spec.clone(), since: now });
                now
            }
        };
        let its = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        // Its holder goes by its own, which may be set otherwise there.
        let duration = its.map_or(self.terms.lease, |its| Duration::from_secs(its).max(self.terms.lease));
        now.saturating_duration_since(since) >= duration
    }

    /// The lease as ours, from `before`.
    fn held(&self, before: &LeaseSpec, today: Timestamp) -> LeaseSpec {
        let goes_on = before.holder_identity.as_ref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        // One that was given back has no holder, but a time.
        let is_first = before.renew_time.is_none();
        // Whole seconds, and never shorter than promised.
        let seconds = self.terms.lease.as_secs() + u64::from(self.terms.lease.subsec_nanos() > 0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(seconds).ok(),
            acquire_time: if goes_on { before.acquire_time.clone() } else { Some(MicroTime(today)) },
            renew_time: Some(MicroTime(today)),
            lease_transitions: Some(if goes_on || is_first {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }
}

/// What names the very version of a lease that was read.
fn named(lease: &Lease) -> ObjectMeta {
    let mut metadata = lease.metadata.clone();
    metadata.managed_fields = None;
    metadata
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const NAME: &str = "controller";
    const TERMS: Terms = Terms {
        lease: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    fn election(identity: &str) -> Election {
        Election::new(identity.to_owned(), TERMS)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn written(step: Step) -> Lease {
        match step {
            Step::Create(lease) | Step::Replace(lease) => lease,
            Step::Wait { holder } => panic!("{holder} leads"),
        }
    }

    fn holder(lease: &Lease) -> (&str, i32) {
        let spec = lease.spec.as_ref().expect("a spec");
        (spec.holder_identity.as_deref().expect("a holder"), spec.lease_transitions.expect("a count"))
    }

    #[test]
    fn the_first_makes_the_lease_and_the_second_waits_for_as_long_as_it_changes() {
        let start = Instant::now();
        let seconds = |count| start + Duration::from_secs(count);
        let (mut one, mut two) = (election("one"), election("two"));
        let step = one.step(NAME, None, start, at(0));
        assert!(matches!(step, Step::Create(_)));
        let first = written(step);
        assert_eq!(holder(&first), ("one", 0));
        let waits = Step::Wait { holder: "one".to_owned() };
        assert_eq!(two.step(NAME, Some(&first), seconds(100), at(100)), waits, "seen for the first time");
        assert_eq!(two.step(NAME, Some(&first), seconds(114), at(900)), waits, "by its own clock alone");
        let renewed = written(one.step(NAME, Some(&first), seconds(114), at(114)));
        assert_eq!(two.step(NAME, Some(&renewed), seconds(116), at(116)), waits);
        assert_eq!(two.step(NAME, Some(&renewed), seconds(130), at(130)), waits);
        let taken = written(two.step(NAME, Some(&renewed), seconds(131), at(131)));
        assert_eq!(holder(&taken), ("two", 1));
        assert_eq!(
            one.step(NAME, Some(&taken), seconds(132), at(132)),
            Step::Wait { holder: "two".to_owned() }
        );
    }

    #[test]
    fn a_renewal_says_which_version_it_replaces_and_keeps_when_the_lease_was_taken() {
        let mut one = election("one");
        let mut found = written(one.step(NAME, None, Instant::now(), at(0)));
        found.metadata.resource_version = Some("7".to_owned());
        found.metadata.managed_fields = Some(Vec::new());
        let step = one.step(NAME, Some(&found), Instant::now(), at(9));
        let Step::Replace(renewed) = step else { panic!("{step:?}") };
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(renewed.metadata.managed_fields, None);
        let spec = renewed.spec.expect("a spec");
        assert_eq!(spec.acquire_time, Some(MicroTime(at(0))));
        assert_eq!(spec.renew_time, Some(MicroTime(at(9))));
        assert_eq!(spec.lease_duration_seconds, Some(15));
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once_and_only_its_holder_gives_it_back() {
        let (mut one, mut two) = (election("one"), election("two"));
        let lease = written(one.step(NAME, None, Instant::now(), at(0)));
        assert_eq!(two.release(&lease, at(1)), None);
        let free = one.release(&lease, at(1)).expect("it is its own");
        assert_eq!(holder(&written(two.step(NAME, Some(&free), Instant::now(), at(2)))), ("two", 1));
    }

    #[test]
    fn who_takes_over_waits_for_the_longer_of_both_durations() {
        let start = Instant::now();
        let long = Terms { lease: Duration::from_mins(1), ..TERMS };
        let lease = written(Election::new("one".to_owned(), long).step(NAME, None, start, at(0)));
        let mut two = election("two");
        for (second, waits) in [(0, true), (59, true), (60, false)] {
            let step = two.step(NAME, Some(&lease), start + Duration::from_secs(second), at(0));
            assert_eq!(matches!(step, Step::Wait { .. }), waits, "after {second} s");
        }
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: ElectionSettings,
    }

    fn settings(flags: &[&str]) -> ElectionSettings {
        Line::parse_from(["controller"].iter().chain(flags)).settings
    }

    #[test]
    fn times_that_cannot_work_are_refused_in_a_sentence() {
        assert_eq!(settings(&[]).terms().expect("the usual ones"), TERMS);
        assert!(settings(&[]).leader_elect && settings(&["--leader-elect"]).leader_elect);
        assert!(!settings(&["--leader-elect=false"]).leader_elect);
        let cases = [
            ("--leader-elect-lease-duration=10s", "--leader-elect-renew-deadline 10s must be shorter than"),
            ("--leader-elect-lease-duration=500ms", "a Lease counts whole seconds"),
            ("--leader-elect-retry-period=10s", "--leader-elect-retry-period 10s must be shorter than"),
            ("--leader-elect-retry-period=0s", "must be greater than 0"),
            ("--leader-elect-renew-deadline=-1s", "must be greater than 0"),
        ];
        for (flag, part) in cases {
            let error = settings(&[flag]).terms().expect_err(flag).to_string();
            assert!(error.contains(part), "{flag}: {error}");
        }
    }
}
