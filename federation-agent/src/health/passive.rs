//! Ejection for what traffic shows: who refuses client after client, or leaves them without an answer, is left out for a
//! time that grows. How many of a tier may be out at once is the plan's to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use tokio::time::{Duration, Instant};

use crate::model::Protocol;

/// First packets in a row that failed: one is an accident, and with as many as this even a backend that fails half of
/// its connections is found within some dozens.
const ENOUGH: u32 = 5;

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_mins(5);

/// Who stayed in for so long, or as long as it was out, begins anew.
const FORGIVEN: Duration = Duration::from_secs(30);

/// Whom connections go to.
pub(super) type Backend = (SocketAddr, Protocol);

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failing {
    Refused,
    Unanswered,
}

#[derive(Debug, Default)]
pub(super) struct Ejections {
    records: BTreeMap<Backend, Record>,
    /// Who is out, by when that ends.
    ends: BTreeSet<(Instant, Backend)>,
    next_rank: u64,
}

#[derive(Debug)]
struct Record {
    ejected: Option<Ejected>,
    /// How long it was, or is, out.
    time: Duration,
    /// When it came, or comes, back.
    until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ejected {
    /// Who was ejected before has a lower one.
    pub rank: u64,
    pub evidence: Arc<str>,
}

impl Ejections {
    /// How long the backend is out from now on, if this is what it took.
    pub(super) fn observe(
        &mut self,
        backend: Backend,
        failing: Failing,
        in_a_row: u32,
        now: Instant,
    ) -> Option<Duration> {
        if in_a_row < ENOUGH {
            return None;
        }
        let before = self.records.get(&backend);
        if before.is_some_and(|record| record.ejected.is_some()) {
            return None;
        }
        let time = match before {
            Some(record) if now < record.until + record.time.max(FORGIVEN) => (record.time * 2).min(LONGEST),
            _ => FIRST,
        };
        let evidence = match failing {
            Failing::Refused => format!("{in_a_row} connections in a row were refused"),
            Failing::Unanswered => format!("{in_a_row} connections in a row got no answer"),
        };
        let ejected = Some(Ejected { rank: self.next_rank, evidence: evidence.into() });
        self.next_rank += 1;
        self.records.insert(backend, Record { ejected, time, until: now + time });
        self.ends.insert((now + time, backend));
        Some(time)
    }

    pub(super) fn of(&self, backend: &Backend) -> Option<&Ejected> {
        self.records.get(backend)?.ejected.as_ref()
    }

    /// What was held against the backend is over. Whether it was out.
    pub(super) fn forgive(&mut self, backend: &Backend) -> bool {
        let Some(record) = self.records.remove(backend) else { return false };
        self.ends.remove(&(record.until, *backend));
        record.ejected.is_some()
    }

    /// Who is back by now.
    pub(super) fn end(&mut self, now: Instant) -> Vec<Backend> {
        let mut back = Vec::new();
        while let Some(end) = self.ends.first().copied().filter(|(until, _)| *until <= now) {
            self.ends.remove(&end);
            if let Some(record) = self.records.get_mut(&end.1) {
                record.ejected = None;
                back.push(end.1);
            }
        }
        // What is forgiven is forgotten.
        self.records
            .retain(|_, record| record.ejected.is_some() || now < record.until + record.time.max(FORGIVEN));
        back
    }

    /// When the next one is back.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> Backend {
        (([10, 8, 1, 2], 8080).into(), Protocol::Tcp)
    }

    #[test]
    fn few_failures_are_no_evidence() {
        let mut ejections = Ejections::default();
        assert_eq!(ejections.observe(backend(), Failing::Refused, 4, Instant::now()), None);
        assert_eq!(ejections.of(&backend()), None);
    }

    #[test]
    fn times_double_up_to_a_bound_and_a_good_stretch_is_a_new_beginning() {
        let mut ejections = Ejections::default();
        let mut now = Instant::now();
        let mut times = Vec::new();
        for _ in 0..10 {
            let time = ejections.observe(backend(), Failing::Refused, 5, now).expect("ejected");
            assert_eq!(ejections.observe(backend(), Failing::Refused, 6, now), None, "it is out already");
            times.push(time.as_secs());
            assert!(ejections.end(now + time - Duration::from_millis(1)).is_empty());
            now += time;
            assert_eq!(ejections.end(now), [backend()]);
            now += Duration::from_secs(1);
        }
        assert_eq!(times, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        now += LONGEST;
        ejections.end(now);
        assert_eq!(ejections.observe(backend(), Failing::Unanswered, 5, now), Some(FIRST));
        let evidence = &ejections.of(&backend()).expect("it is out").evidence;
        assert_eq!(&**evidence, "5 connections in a row got no answer");
    }

    #[test]
    fn who_is_ejected_first_has_the_lowest_rank() {
        let mut ejections = Ejections::default();
        let now = Instant::now();
        let backends = [1, 2, 3].map(|n| (SocketAddr::from(([10, 8, 1, n], 8080)), Protocol::Tcp));
        for backend in backends {
            ejections.observe(backend, Failing::Refused, 5, now);
        }
        let ranks = backends.map(|backend| ejections.of(&backend).expect("out").rank);
        assert!(ranks.is_sorted());
        assert_eq!(ejections.next_end(), Some(now + FIRST));
    }
}
