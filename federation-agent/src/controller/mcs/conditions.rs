//! What a `ServiceExport` is told: whether it is valid, whether it is exported, and in what it differs from others. Pure.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{export::Invalid, merge::Merged};
use crate::controller::status::{Verdict, find};

const VALID: &str = "Valid";
const READY: &str = "Ready";
const CONFLICT: &str = "Conflict";

/// What became of a valid export.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It is part of the service that these exports make.
    Exported(Box<Merged>),
    /// Not yet.
    Pending,
    /// It cannot be; with the reason.
    Failed(String),
}

/// The conditions of an export; `before` are those that it has.
pub fn conditions(
    judged: Result<Standing, Invalid>,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let as_condition = |verdict: Verdict, type_| verdict.condition(type_, before, generation, now);
    let standing = match judged {
        Err(invalid) => {
            let verdict = Verdict::new(false, invalid.reason(), invalid.to_string());
            return vec![as_condition(verdict, VALID)];
        }
        Ok(standing) => standing,
    };
    let valid = Verdict::new(true, "Valid", "the Service can be exported");
    let (ready, conflict) = match &standing {
        Standing::Exported(merged) => {
            (Verdict::new(true, "Exported", "the federation serves it"), Some(conflict(merged)))
        }
        Standing::Pending => (Verdict::new(false, "Pending", "the federation takes it in"), None),
        Standing::Failed(why) => (Verdict::new(false, "Failed", why), None),
    };
    let mut conditions = vec![as_condition(valid, VALID), as_condition(ready, READY)];
    if let Some((reasons, verdict)) = conflict {
        conditions.push(Condition { reason: reasons, ..as_condition(verdict, CONFLICT) });
    }
    conditions
}

/// The reasons, joined by commas as the API wants them, and the rest.
fn conflict(merged: &Merged) -> (String, Verdict) {
    let Merged { conflicts, oldest, clusters, .. } = merged;
    if conflicts.is_empty() {
        return ("NoConflicts".to_owned(), Verdict::new(false, "", "all exports agree"));
    }
    let reasons: Vec<_> = conflicts.iter().map(|conflict| conflict.property.reason()).collect();
    let sentences: Vec<_> = conflicts
        .iter()
        .map(|conflict| {
            let (property, disagree) = (conflict.property, conflict.disagree);
            let rule = match property {
                super::merge::Property::Ports => "Using the union, and where ports exclude each other those",
                _ => "Using that",
            };
            format!(
                "Conflicting {property}. {rule} of the oldest export, in cluster {oldest:?}. {disagree}/{clusters} \
                 clusters disagree."
            )
        })
        .collect();
    (reasons.join(","), Verdict::new(true, "", sentences.join(" ")))
}

/// Whether `actual` says what `desired` says. Older definitions of the kind know no `observedGeneration`.
pub fn say_the_same(actual: &[Condition], desired: &[Condition]) -> bool {
    actual.len() == desired.len()
        && desired.iter().all(|desired| {
            find(actual, &desired.type_).is_some_and(|actual| {
                (&actual.status, &actual.reason, &actual.message)
                    == (&desired.status, &desired.reason, &desired.message)
            })
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{
        controller::mcs::{export::Export, merge::merge},
        model::ServiceKey,
    };

    fn merged(ports: [i32; 2]) -> Merged {
        let export = |second: i64, port: i32| -> Export {
            serde_json::from_value(json!({
                "since": format!("2026-01-01T00:00:0{second}Z"), "ports": [{ "port": port }], "sessionAffinity": "None",
                "headless": port == 3,
            }))
            .expect("an export")
        };
        let exports = [("europe", export(1, ports[0])), ("america", export(2, ports[1]))];
        merge(
            &exports.map(|(name, export)| (name.to_owned(), export)).into_iter().collect::<BTreeMap<_, _>>(),
        )
        .expect("a service")
    }

    fn exported(ports: [i32; 2]) -> Standing {
        Standing::Exported(Box::new(merged(ports)))
    }

    #[test]
    fn each_standing_is_told_in_the_words_of_the_api() {
        let agree = "Conflict=False NoConflicts";
        let cases = [
            (Err(Invalid::NoService(ServiceKey::new("n", "s"))), vec!["Valid=False NoService"]),
            (Err(Invalid::ExternalName), vec!["Valid=False InvalidServiceType"]),
            (Ok(Standing::Pending), vec!["Valid=True Valid", "Ready=False Pending"]),
            (Ok(Standing::Failed("no".to_owned())), vec!["Valid=True Valid", "Ready=False Failed"]),
            (Ok(exported([1, 1])), vec!["Valid=True Valid", "Ready=True Exported", agree]),
            (
                Ok(exported([1, 2])),
                vec!["Valid=True Valid", "Ready=True Exported", "Conflict=True PortConflict"],
            ),
            (
                Ok(exported([1, 3])),
                vec!["Valid=True Valid", "Ready=True Exported", "Conflict=True PortConflict,TypeConflict"],
            ),
        ];
        for (judged, expected) in cases {
            let found = conditions(judged.clone(), &[], Some(1), Timestamp::UNIX_EPOCH);
            let said: Vec<_> =
                found.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect();
            assert_eq!(said, expected, "{judged:?}");
            // As kube-apiserver checks it: a reason is never empty.
            assert!(
                found.iter().all(|condition| !condition.reason.is_empty() && !condition.message.is_empty())
            );
        }
    }

    #[test]
    fn a_conflict_says_what_who_won_and_how_many_disagree() {
        let found = conditions(Ok(exported([1, 3])), &[], None, Timestamp::UNIX_EPOCH);
        let message = &find(&found, CONFLICT).expect("a condition").message;
        let expected = "Conflicting ports. Using the union, and where ports exclude each other those of the oldest \
                        export, in cluster \"europe\". 1/2 clusters disagree. Conflicting type. Using that of the \
                        oldest export, in cluster \"europe\". 1/2 clusters disagree.";
        assert_eq!(message, expected);
    }

    #[test]
    fn what_a_condition_says_counts_and_not_when() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let first = conditions(Ok(Standing::Pending), &[], Some(1), at(1));
        let second = conditions(Ok(Standing::Pending), &first, Some(2), at(2));
        assert!(say_the_same(&first, &second));
        assert_eq!(first[0].last_transition_time, second[0].last_transition_time);
        let third = conditions(Ok(exported([1, 1])), &second, Some(2), at(3));
        assert!(!say_the_same(&second, &third));
    }
}
