//! What may happen to a federation, and what users shall see of it. Data; [`super::act`] does it.

use std::time::Duration;

/// What fails, and what is expected.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Stable: reports are compared by it.
    pub name: &'static str,
    pub kind: Kind,
    /// What 99 of 100 runs shall take at most, printed beside the figure.
    pub seconds: Option<f64>,
    /// Whether any request may fail at all; if not, one that does fails the command.
    pub loss: Loss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Allowed,
    Forbidden,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Event(Event),
    /// The power of the shard that serves comes and goes.
    Flapping,
    /// The nearest shard starts with none of its pods ready.
    ScaleFromZero,
    /// The client's node is cut off from all others and joined again.
    UplinkLost,
}

/// One thing that happens at one instant.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub serving: Serving,
    pub act: Act,
    pub course: Course,
}

/// Who serves when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// The client's own cluster.
    Home,
    /// The other cluster in its zone, since the own one's pods are unready.
    Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    LoseReadiness,
    KillServers,
    CutNode,
    CutNext,
    CutRegion,
    CutControlPlane,
    CutNextWithoutHub,
    CutNextWithoutAgent,
    MuteNext,
    PartNext,
    SlowDown,
}

/// What shall become of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// All who served are struck: others take over.
    Moves,
    /// Some of those who served are struck: the others take all.
    Heals,
    /// Nobody is struck: nothing moves.
    Stays,
}

/// What the design promises for silent deaths.
const PROMISE: Option<f64> = Some(1.0);

/// Two attempts of a check each, and the second that the promise leaves for one.
const TWO_CHECKS: Option<f64> = Some(2.0);

/// A shard that comes and goes for [`FLAPPING`] comes back into use at most so often: each time it is trusted less.
pub const MOST_RETURNS: usize = 10;
pub const FLAPPING: Duration = Duration::from_mins(1);
pub const FLAP: Duration = Duration::from_secs(1);

pub const ALL: [Scenario; 14] = [
    Scenario {
        loss: Loss::Forbidden,
        seconds: PROMISE,
        ..event("readiness-lost", Serving::Home, Act::LoseReadiness, Course::Moves)
    },
    event("pods-killed", Serving::Home, Act::KillServers, Course::Moves),
    event("node-power-cut", Serving::Home, Act::CutNode, Course::Heals),
    event("cluster-power-cut", Serving::Next, Act::CutNext, Course::Moves),
    event("region-power-cut", Serving::Next, Act::CutRegion, Course::Moves),
    Scenario {
        loss: Loss::Forbidden,
        seconds: Some(0.0),
        ..event("control-plane-down", Serving::Home, Act::CutControlPlane, Course::Stays)
    },
    event("hub-down-power-cut", Serving::Next, Act::CutNextWithoutHub, Course::Moves),
    Scenario {
        // The kernel acts on the client's second SYN, a second after the first.
        seconds: Some(1.2),
        ..event("agent-frozen", Serving::Next, Act::CutNextWithoutAgent, Course::Moves)
    },
    event("one-way-loss", Serving::Next, Act::MuteNext, Course::Moves),
    event("partition-one-side", Serving::Next, Act::PartNext, Course::Moves),
    Scenario { seconds: TWO_CHECKS, ..event("slow-answers", Serving::Home, Act::SlowDown, Course::Moves) },
    Scenario { name: "flapping", kind: Kind::Flapping, seconds: PROMISE, loss: Loss::Allowed },
    Scenario { name: "scale-from-zero", kind: Kind::ScaleFromZero, seconds: PROMISE, loss: Loss::Forbidden },
    Scenario { name: "uplink-lost", kind: Kind::UplinkLost, seconds: PROMISE, loss: Loss::Allowed },
];

const fn event(name: &'static str, serving: Serving, act: Act, course: Course) -> Scenario {
    let kind = Kind::Event(Event { serving, act, course });
    Scenario { name, kind, seconds: PROMISE, loss: Loss::Allowed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_different_and_written_alike() {
        let names: BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
        }
    }
}
