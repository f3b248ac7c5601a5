//! Conditions as Kubernetes means them: the time of a transition stays while the status does.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// What is to be said now.
pub(super) struct Finding {
    pub kind: &'static str,
    pub holds: Option<bool>,
    pub reason: &'static str,
    pub message: String,
}

impl Finding {
    pub(super) fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(true), reason, message: message.into() }
    }

    pub(super) fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(false), reason, message: message.into() }
    }
}

/// The conditions that say `findings`, with the transition times of those in `before` that said the same.
pub(super) fn update(
    before: &[Condition],
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|Finding { kind, holds, reason, message }| {
            let status = holds.map_or("Unknown", |holds| if holds { "True" } else { "False" });
            let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
            Condition {
                last_transition_time: same
                    .map_or(Time(now), |condition| condition.last_transition_time.clone()),
                message,
                observed_generation: generation,
                reason: reason.to_owned(),
                status: status.to_owned(),
                type_: kind.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_transition_stays_while_the_status_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = update(&[], vec![Finding::yes("Ready", "AllWell", "")], Some(1), at(1));
        let second = update(&first, vec![Finding::yes("Ready", "StillWell", "new words")], Some(2), at(2));
        assert_eq!(second[0].last_transition_time, Time(at(1)));
        assert_eq!(second[0].observed_generation, Some(2));
        let third = update(&second, vec![Finding::no("Ready", "Gone", "")], Some(2), at(3));
        assert_eq!((third[0].last_transition_time.clone(), third[0].status.as_str()), (Time(at(3)), "False"));
    }
}
