//! What the requests add up to. Pure: instants come in as arguments.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::traffic::Sample;

/// Seconds that the live view looks back.
pub const HISTORY: usize = 60;
/// Answers from the expected cluster alone for this long mean that an event is over.
const CALM: Duration = Duration::from_secs(1);
/// Answers whose round trip the live view shows.
const RECENT: usize = 400;

/// An event with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub expected: String,
    pub since: Instant,
    pub first_success: Option<Instant>,
    pub failed: u64,
    /// The last thing that was not an answer of the expected cluster.
    last_stray: Instant,
}

impl Event {
    pub fn seconds_to_recover(&self) -> Option<f64> {
        Some((self.first_success? - self.since).as_secs_f64())
    }

    /// Whether traffic goes where it should, and nowhere else any more.
    pub fn is_over(&self, now: Instant) -> bool {
        self.first_success.is_some() && now.saturating_duration_since(self.last_stray) >= CALM
    }
}

/// A second of traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Second {
    pub answered: BTreeMap<String, u64>,
    pub failed: u64,
}

#[derive(Debug)]
pub struct Tally {
    began: Instant,
    pub requests: u64,
    pub failed: u64,
    pub by_cluster: BTreeMap<String, u64>,
    pub events: Vec<Event>,
    /// The last seconds, the newest at the back.
    pub seconds: VecDeque<Second>,
    current: u64,
    round_trips: VecDeque<Duration>,
}

impl Tally {
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            requests: 0,
            failed: 0,
            by_cluster: BTreeMap::new(),
            events: Vec::new(),
            seconds: VecDeque::from([Second::default()]),
            current: 0,
            round_trips: VecDeque::new(),
        }
    }

    pub fn begin(&mut self, name: &str, expected: &str, now: Instant) {
        let (name, expected) = (name.to_owned(), expected.to_owned());
        self.events.push(Event {
            name,
            expected,
            since: now,
            first_success: None,
            failed: 0,
            last_stray: now,
        });
    }

    pub fn record(&mut self, sample: &Sample) {
        self.roll(sample.ended);
        self.requests += 1;
        let event = self.events.last_mut();
        let second = self.seconds.back_mut().expect("never empty");
        let Ok(answer) = &sample.outcome else {
            self.failed += 1;
            second.failed += 1;
            if let Some(event) = event {
                event.failed += 1;
                event.last_stray = sample.ended;
            }
            return;
        };
        *self.by_cluster.entry(answer.cluster.clone()).or_default() += 1;
        *second.answered.entry(answer.cluster.clone()).or_default() += 1;
        self.round_trips.push_back(sample.ended - sample.began);
        if self.round_trips.len() > RECENT {
            self.round_trips.pop_front();
        }
        if let Some(event) = event {
            if answer.cluster != event.expected {
                event.last_stray = sample.ended;
            } else if sample.began >= event.since {
                // Asked before the event, answered after it, would say nothing of the recovery.
                event.first_success.get_or_insert(sample.ended);
            }
        }
    }

    /// Begins the seconds that have begun.
    pub fn roll(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.began).as_secs();
        while self.current < second {
            self.current += 1;
            self.seconds.push_back(Second::default());
            if self.seconds.len() > HISTORY {
                self.seconds.pop_front();
            }
        }
    }

    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// The median of the recent round trips.
    pub fn round_trip(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.round_trips.iter().copied().collect();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Answer;

    fn sample(at: Instant, cluster: Option<&str>) -> Sample {
        let answer = |cluster: &str| Answer { cluster: cluster.to_owned(), pod: "pod1".to_owned() };
        let outcome = cluster.map(answer).ok_or_else(|| "no answer".to_owned());
        Sample { began: at, ended: at + Duration::from_millis(2), outcome }
    }

    #[test]
    fn an_event_ends_when_only_the_expected_cluster_has_answered_for_a_while() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let mut tally = Tally::new(began);
        tally.record(&sample(at(0), Some("near")));
        tally.begin("power cut", "far", at(1000));
        tally.record(&sample(at(1100), None));
        tally.record(&sample(at(1300), Some("far")));
        tally.record(&sample(at(1350), Some("near")));
        let event = tally.events[0].clone();
        assert_eq!(event.seconds_to_recover(), Some(0.302));
        assert_eq!(event.failed, 1);
        assert!(!event.is_over(at(2000)));
        assert!(event.is_over(at(2352)));
        assert_eq!((tally.requests, tally.failed, tally.by_cluster["near"]), (4, 1, 2));
    }

    #[test]
    fn an_answer_to_an_older_question_is_no_recovery() {
        let began = Instant::now();
        let mut tally = Tally::new(began);
        tally.begin("e", "far", began + Duration::from_millis(1));
        tally.record(&sample(began, Some("far")));
        assert_eq!(tally.events[0].first_success, None);
    }

    #[test]
    fn seconds_roll_on_without_traffic_and_are_forgotten() {
        let began = Instant::now();
        let mut tally = Tally::new(began);
        tally.record(&sample(began, Some("near")));
        tally.roll(began + Duration::from_secs(3));
        assert_eq!(tally.seconds.len(), 4);
        tally.roll(began + Duration::from_secs(500));
        assert_eq!(tally.seconds.len(), HISTORY);
        assert!(tally.seconds.iter().all(|second| second.answered.is_empty()));
    }
}
