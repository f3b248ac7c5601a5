//! What became of every request. Pure: instants come in as arguments.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::Answer;

/// How soon requests are to be answered.
#[derive(Clone, Copy, Debug)]
pub struct Haste {
    /// One that takes longer was hurt, even if it was answered.
    pub hurt: Duration,
    /// How long one may be under way before calm traffic needs its answer.
    pub grace: Duration,
}

/// Far above a round trip in the lab, and below the second after which a client repeats its SYN.
pub const AT_ONCE: Haste = Haste { hurt: Duration::from_millis(500), grace: Duration::from_millis(100) };

/// Where each client has to repeat its SYN once.
pub const AT_THE_SECOND_SYN: Haste =
    Haste { hurt: Duration::from_millis(1500), grace: Duration::from_millis(1500) };

/// Traffic is calm when nothing but right answers came for this long.
const CALM: Duration = Duration::from_secs(1);

/// Who may answer.
pub type Right<'a> = &'a (dyn Fn(&Answer) -> bool + Sync);

#[derive(Clone, Debug)]
pub struct Request {
    /// When it was due: one that the sender was late with has waited, too.
    pub begun: Instant,
    /// When and how it ended; `None` while it is under way.
    pub end: Option<(Instant, Outcome)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(Arc<Answer>),
    Failed(Failure),
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Refused,
    Reset,
    /// Nothing came in time.
    Silence,
    Other,
}

/// All requests since the book was begun, or since what came before was forgotten.
#[derive(Default)]
pub struct Book {
    /// How many have been forgotten.
    forgotten: usize,
    requests: VecDeque<Request>,
}

impl Book {
    /// Notes a request; its number.
    pub fn begin(&mut self, due: Instant) -> usize {
        self.requests.push_back(Request { begun: due, end: None });
        self.forgotten + self.requests.len() - 1
    }

    pub fn end(&mut self, number: usize, at: Instant, outcome: Outcome) {
        let request = number.checked_sub(self.forgotten).and_then(|place| self.requests.get_mut(place));
        // One that is forgotten interests nobody.
        if let Some(request) = request {
            request.end = Some((at, outcome));
        }
    }

    pub fn forget(&mut self) {
        self.forgotten += self.requests.len();
        self.requests.clear();
    }

    /// The requests that were begun from one instant on and before another.
    pub fn window(&self, from: Instant, to: Instant) -> Vec<Request> {
        self.since(from).filter(|request| request.begun < to).cloned().collect()
    }

    /// Whether all that were begun in that time have ended.
    pub fn is_complete(&self, from: Instant, to: Instant) -> bool {
        self.since(from).all(|request| request.begun >= to || request.end.is_some())
    }

    /// Whether nobody was hurt in the last second and only those answered who should.
    ///
    /// # Errors
    /// Why it is not calm.
    pub fn check_calm(&self, now: Instant, right: Right, haste: Haste) -> Result<()> {
        let start = now.checked_sub(CALM + haste.grace).context("the clock has just begun")?;
        let long_enough = self.requests.front().is_some_and(|request| request.begun <= start);
        ensure!(long_enough, "traffic has only begun");
        let is_fine = |request: &Request| match request.end {
            None => now.saturating_duration_since(request.begun) < haste.grace,
            Some(_) => request.is_well(right, haste),
        };
        let mut disturbing = self.since(start).filter(|request| !is_fine(request));
        let Some(last) = disturbing.next_back() else { return Ok(()) };
        let count = disturbing.count() + 1;
        let end = match &last.end {
            None => "is waiting".to_owned(),
            Some((_, Outcome::Failed(failure))) => format!("failed: {failure:?}"),
            Some((at, Outcome::Answered(answer))) => {
                format!("was answered by {answer:?} after {:?}", at.saturating_duration_since(last.begun))
            }
        };
        bail!("{count} requests of the last second disturb, the last of them {end}")
    }

    fn since(&self, from: Instant) -> impl DoubleEndedIterator<Item = &Request> {
        let start = self.requests.partition_point(|request| request.begun < from);
        self.requests.range(start..)
    }
}

impl Request {
    pub fn answer(&self) -> Option<(Instant, &Answer)> {
        match &self.end {
            Some((at, Outcome::Answered(answer))) => Some((*at, answer)),
            _ => None,
        }
    }

    pub fn failure(&self) -> Option<Failure> {
        match &self.end {
            Some((_, Outcome::Failed(failure))) => Some(*failure),
            _ => None,
        }
    }

    /// Answered by the right one, and soon.
    pub fn is_well(&self, right: Right, haste: Haste) -> bool {
        let soon = |at: Instant| at.saturating_duration_since(self.begun) <= haste.hurt;
        self.answer().is_some_and(|(at, answer)| soon(at) && right(answer))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn answered(by: &str) -> Outcome {
        Outcome::Answered(Arc::new(Answer { cluster: by.to_owned(), pod: "pod1".to_owned() }))
    }

    /// A request every 10 ms for as long as there are outcomes, each ended 1 ms later.
    fn book(start: Instant, outcomes: impl IntoIterator<Item = Option<Outcome>>) -> Book {
        let mut book = Book::default();
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let due = start + Duration::from_millis(10) * u32::try_from(number).unwrap();
            let number = book.begin(due);
            if let Some(outcome) = outcome {
                book.end(number, due + Duration::from_millis(1), outcome);
            }
        }
        book
    }

    #[test]
    fn calm_takes_a_whole_second_of_right_answers() {
        let start = Instant::now();
        let near = |answer: &Answer| answer.cluster == "near";
        let all = |count| vec![Some(answered("near")); count];
        let with = |place: usize, outcome| {
            let mut outcomes = all(200);
            outcomes[place] = outcome;
            outcomes
        };
        let cases = [
            ("all is well", all(200), true),
            ("too short", all(50), false),
            ("none at all", vec![], false),
            ("a failure long ago", with(10, Some(Outcome::Failed(Failure::Reset))), true),
            ("a failure", with(150, Some(Outcome::Failed(Failure::Reset))), false),
            ("a stranger", with(150, Some(answered("far"))), false),
            ("one waits", with(150, None), false),
            ("the last is under way", with(199, None), true),
        ];
        for (name, outcomes, calm) in cases {
            let now = start + Duration::from_millis(10) * u32::try_from(outcomes.len()).unwrap();
            assert_eq!(book(start, outcomes).check_calm(now, &near, AT_ONCE).is_ok(), calm, "{name}");
        }
    }

    #[test]
    fn a_window_is_complete_when_all_that_began_in_it_have_ended() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut book = book(start, [Some(answered("near")), None, None]);
        assert_eq!(book.window(at(0), at(20)).len(), 2);
        assert!(book.is_complete(at(0), at(10)));
        assert!(!book.is_complete(at(0), at(20)));
        book.end(1, at(30), Outcome::Failed(Failure::Silence));
        assert!(book.is_complete(at(0), at(20)));
        book.forget();
        book.end(2, at(40), answered("near"));
        assert_eq!(book.begin(at(50)), 3);
        assert_eq!(book.window(at(0), at(60)).len(), 1);
    }
}
