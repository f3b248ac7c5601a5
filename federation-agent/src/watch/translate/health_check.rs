//! What `spec.healthCheck` of a `FederatedService` means.

use std::{ops::RangeInclusive, time::Duration};

use super::Untranslatable;
use crate::{
    api::{HealthCheckProtocol, HealthCheckSpec},
    model::{HealthCheck, Question},
};

/// Bounds of what is given in milliseconds, and of thresholds: those of the definition, for servers that do not look.
const MILLISECONDS: RangeInclusive<u32> = 50..=60_000;
const THRESHOLDS: RangeInclusive<u32> = 1..=10;

/// # Errors
/// Something in it cannot be meant. What holds then is the check of who asked for none.
pub(super) fn health_check(spec: &HealthCheckSpec) -> Result<HealthCheck, Untranslatable> {
    let default = HealthCheck::default();
    let milliseconds = |field, given: Option<u32>, otherwise| match given {
        None => Ok(otherwise),
        Some(n) if MILLISECONDS.contains(&n) => Ok(Duration::from_millis(n.into())),
        Some(n) => Err(Untranslatable::HealthCheck { field, value: n.to_string(), allowed: "50 to 60000" }),
    };
    let threshold = |field, given: Option<u32>, otherwise| match given {
        None => Ok(otherwise),
        Some(n) if THRESHOLDS.contains(&n) => Ok(n),
        Some(n) => Err(Untranslatable::HealthCheck { field, value: n.to_string(), allowed: "1 to 10" }),
    };
    Ok(HealthCheck {
        question: question(spec)?,
        port: spec.port,
        interval: milliseconds("intervalMilliseconds", spec.interval_milliseconds, default.interval)?,
        timeout: milliseconds("timeoutMilliseconds", spec.timeout_milliseconds, default.timeout)?,
        healthy_threshold: threshold("healthyThreshold", spec.healthy_threshold, default.healthy_threshold)?,
        unhealthy_threshold: threshold(
            "unhealthyThreshold",
            spec.unhealthy_threshold,
            default.unhealthy_threshold,
        )?,
    })
}

fn question(spec: &HealthCheckSpec) -> Result<Question, Untranslatable> {
    Ok(match spec.protocol {
        HealthCheckProtocol::Tcp => Question::Tcp,
        HealthCheckProtocol::None => Question::Nothing,
        HealthCheckProtocol::Grpc => Question::Grpc { service: spec.service.clone().unwrap_or_default() },
        HealthCheckProtocol::Http => {
            let path = spec.path.clone().unwrap_or_else(|| "/".to_owned());
            if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
                return Err(Untranslatable::HealthCheck {
                    field: "path",
                    value: path,
                    allowed: "a path that begins with /",
                });
            }
            let codes: Vec<_> =
                spec.expected_codes.iter().map(|range| codes(range)).collect::<Result<_, _>>()?;
            Question::Http { path, codes: if codes.is_empty() { vec![200..=399] } else { codes } }
        }
    })
}

/// `200` or `200-299`.
fn codes(range: &str) -> Result<RangeInclusive<u16>, Untranslatable> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if (100..=last).contains(&first) && last <= 599 => Ok(first..=last),
        _ => Err(Untranslatable::HealthCheck {
            field: "expectedCodes",
            value: range.to_owned(),
            allowed: "codes from 100 to 599, as 200 or 200-299",
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn translated(spec: Value) -> Result<HealthCheck, Untranslatable> {
        health_check(&from_value(spec).unwrap())
    }

    #[test]
    fn what_is_left_out_is_as_ever() {
        assert_eq!(translated(json!({})), Ok(HealthCheck::default()));
        let http = translated(json!({ "protocol": "HTTP" })).unwrap();
        assert_eq!(http.question, Question::Http { path: "/".to_owned(), codes: vec![200..=399] });
    }

    #[test]
    fn everything_can_be_said() {
        let check = translated(json!({
            "protocol": "HTTP", "port": 9000, "path": "/healthz?full", "expectedCodes": ["200", "204-206"],
            "intervalMilliseconds": 500, "timeoutMilliseconds": 2000, "healthyThreshold": 3, "unhealthyThreshold": 1,
        }));
        let expected = HealthCheck {
            question: Question::Http { path: "/healthz?full".to_owned(), codes: vec![200..=200, 204..=206] },
            port: Some(9000),
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(2),
            healthy_threshold: 3,
            unhealthy_threshold: 1,
        };
        assert_eq!(check, Ok(expected));
        let grpc = translated(json!({ "protocol": "GRPC", "service": "cart" })).unwrap();
        assert_eq!(grpc.question, Question::Grpc { service: "cart".to_owned() });
        assert_eq!(translated(json!({ "protocol": "None" })).unwrap().question, Question::Nothing);
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (spec, field) in [
            (json!({ "protocol": "HTTP", "path": "healthz" }), "path"),
            (json!({ "protocol": "HTTP", "expectedCodes": ["2xx"] }), "expectedCodes"),
            (json!({ "protocol": "HTTP", "expectedCodes": ["300-200"] }), "expectedCodes"),
            (json!({ "intervalMilliseconds": 1 }), "intervalMilliseconds"),
            (json!({ "timeoutMilliseconds": 100_000 }), "timeoutMilliseconds"),
            (json!({ "healthyThreshold": 0 }), "healthyThreshold"),
            (json!({ "unhealthyThreshold": 11 }), "unhealthyThreshold"),
        ] {
            let refusal = translated(spec).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }
}
