//! What a window of requests says of what happened in it. Pure.

use std::time::{Duration, Instant};

use super::{
    book::{AT_ONCE, Failure, Request, Right},
    scenario::Course,
};

/// Requests of one shard that lie further apart than this belong to two times in which it was used.
const APART: Duration = Duration::from_millis(250);

/// Deviations of chance that a share may lie above its bound.
const CHANCE: f64 = 4.0;

/// Seconds from `start` until all was as `course` says; `None` if it never was.
///
/// Where traffic moves, until the first right answer to a request that was begun after `start`; where it heals, until
/// the first good answer after the last request that was hurt, and 0 if none was.
pub fn seconds(window: &[Request], start: Instant, course: Course, right: Right) -> Option<f64> {
    let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
    match course {
        Course::Moves => {
            let answers = window.iter().filter_map(Request::answer);
            answers.filter(|(_, answer)| right(answer)).map(|(at, _)| since(at)).min_by(f64::total_cmp)
        }
        Course::Heals => match window.iter().rposition(|request| !request.is_well(right, AT_ONCE)) {
            None => Some(0.0),
            Some(last) => window[last + 1..].iter().find_map(Request::answer).map(|(at, _)| since(at)),
        },
        Course::Stays => {
            let moved = window.iter().rfind(|request| !request.is_well(right, AT_ONCE));
            Some(moved.map_or(0.0, |request| since(request.begun)))
        }
    }
}

pub fn failed(window: &[Request]) -> usize {
    window.iter().filter(|request| request.failure().is_some()).count()
}

/// How many failed for each reason, in words.
pub fn reasons(window: &[Request]) -> String {
    let kinds = [Failure::Refused, Failure::Reset, Failure::Silence, Failure::Other];
    let counts = kinds.map(|kind| window.iter().filter(|request| request.failure() == Some(kind)).count());
    let some = kinds.iter().zip(counts).filter(|(_, count)| *count > 0);
    some.map(|(kind, count)| format!("{count} {kind:?}").to_lowercase()).collect::<Vec<_>>().join(", ")
}

/// The longest time without any answer, in seconds.
pub fn longest_silence(window: &[Request], from: Instant, to: Instant) -> f64 {
    let mut answers: Vec<_> = window.iter().filter_map(Request::answer).map(|(at, _)| at).collect();
    answers.extend([from, to]);
    answers.sort();
    let gaps = answers.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0]).as_secs_f64());
    gaps.max_by(f64::total_cmp).unwrap_or(0.0)
}

/// How often those that `whose` names came back after they had not been used for a while.
pub fn returns(window: &[Request], whose: Right) -> usize {
    let theirs = window.iter().filter(|request| request.answer().is_some_and(|(_, answer)| whose(answer)));
    let begun: Vec<_> = theirs.map(|request| request.begun).collect();
    begun.windows(2).filter(|pair| pair[1].saturating_duration_since(pair[0]) > APART).count()
}

/// The part of all answers that came from `whose`, if it is more than `bound` and chance explain.
pub fn too_large_a_share(window: &[Request], whose: Right, bound: f64) -> Option<f64> {
    let answers: Vec<_> = window.iter().filter_map(Request::answer).collect();
    let all = answers.len().max(1) as f64;
    let share = answers.iter().filter(|(_, answer)| whose(answer)).count() as f64 / all;
    let chance = (bound * (1.0 - bound).max(0.0) / all).sqrt();
    (share > bound + CHANCE * chance).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::{super::book::Outcome, super::book::tests::answered, *};
    use crate::client::Answer;

    const STEP: Duration = Duration::from_millis(100);

    fn near(answer: &Answer) -> bool {
        answer.cluster == "near"
    }

    fn far(answer: &Answer) -> bool {
        answer.cluster == "far"
    }

    /// A request each 100 ms; of each, who answered (nobody: `-`), and after how many milliseconds.
    fn window(start: Instant, story: &[(&str, u64)]) -> Vec<Request> {
        let request = |(number, (who, after)): (u32, &(&str, u64))| {
            let begun = start + STEP * number;
            let outcome = if *who == "-" { Outcome::Failed(Failure::Silence) } else { answered(who) };
            Request { begun, end: Some((begun + Duration::from_millis(*after), outcome)) }
        };
        (0..).zip(story).map(request).collect()
    }

    /// Who answers one request after the other, and how many milliseconds later.
    type Story<'a> = &'a [(&'a str, u64)];

    #[test]
    fn seconds_last_until_the_traffic_is_where_it_shall_be() {
        let start = Instant::now();
        let cases: [(&str, Story<'_>, Course, Option<f64>); 9] = [
            ("moves", &[("near", 1), ("-", 2000), ("far", 5)], Course::Moves, Some(0.205)),
            ("a repeated SYN", &[("far", 1005), ("far", 1005)], Course::Moves, Some(1.005)),
            ("one overtakes", &[("far", 1005), ("near", 1), ("far", 5)], Course::Moves, Some(0.205)),
            ("nobody takes over", &[("-", 2000), ("-", 2000)], Course::Moves, None),
            ("heals", &[("far", 5), ("-", 2000), ("far", 5)], Course::Heals, Some(0.205)),
            ("a late one is hurt", &[("far", 5), ("far", 1005), ("far", 5)], Course::Heals, Some(0.205)),
            ("nobody is hurt", &[("far", 5), ("far", 5)], Course::Heals, Some(0.0)),
            ("never heals", &[("far", 5), ("-", 2000)], Course::Heals, None),
            ("stays", &[("far", 5), ("far", 5)], Course::Stays, Some(0.0)),
        ];
        for (name, story, course, expected) in cases {
            let seconds = seconds(&window(start, story), start, course, &far);
            let same = match (seconds, expected) {
                (Some(seconds), Some(expected)) => (seconds - expected).abs() < 1e-6,
                (seconds, expected) => seconds.is_none() && expected.is_none(),
            };
            assert!(same, "{name}: {seconds:?}, not {expected:?}");
        }
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let start = Instant::now();
        let window = window(start, &[("-", 2000), ("far", 1), ("-", 2000)]);
        assert_eq!((failed(&window), reasons(&window).as_str()), (2, "2 silence"));
    }

    #[test]
    fn silence_is_measured_to_both_ends_of_the_window() {
        let start = Instant::now();
        let window = window(start, &[("-", 2000), ("far", 0), ("far", 0), ("-", 2000), ("far", 0)]);
        for (end, expected) in [(4, 0.2), (10, 0.6)] {
            let silence = longest_silence(&window, start, start + STEP * end);
            assert!((silence - expected).abs() < 1e-6, "{silence}");
        }
    }

    #[test]
    fn a_shard_returns_when_it_is_used_again_after_a_while() {
        let start = Instant::now();
        let used = ("near", 1);
        let other = ("far", 1);
        let story = [used, other, used, other, other, other, used, used, other, other, other, used];
        assert_eq!(returns(&window(start, &story), &near), 2);
    }

    #[test]
    fn a_share_is_too_large_beyond_its_bound_and_chance() {
        let start = Instant::now();
        for (near_ones, too_large) in [(0, false), (5, false), (10, false), (20, true)] {
            let story: Vec<_> =
                (0..100).map(|n| if n < near_ones { ("near", 1) } else { ("far", 1) }).collect();
            let share = too_large_a_share(&window(start, &story), &near, 0.047);
            assert_eq!(share.is_some(), too_large, "{near_ones}");
        }
    }
}
