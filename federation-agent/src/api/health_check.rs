//! `spec.healthCheck` of a `FederatedService`: its shape, and what it means.

use std::{fmt, ops::RangeInclusive, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{HealthCheck, Question};

/// Milliseconds that an interval and a timeout may have.
const MILLISECONDS: RangeInclusive<u32> = 50..=60_000;
const THRESHOLDS: RangeInclusive<u32> = 1..=10;

const EXPECTED_CODES: RangeInclusive<u16> = 200..=399;

/// The question that nodes put to endpoints, and how many answers make a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckSpec {
    #[serde(default)]
    pub protocol: HealthCheckProtocol,
    /// Where every endpoint is asked. When absent: TCP at each of the service's TCP ports, HTTP and GRPC at the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// What HTTP asks for; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/[!-~]*$"))]
    pub path: Option<String>,
    /// Status codes of HTTP that are good, as `200` or `200-399`, which holds when there are none. No redirect is
    /// followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$")))]
    pub expected_codes: Vec<String>,
    /// The service that GRPC asks about; the whole server when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// From one question to the next, where traffic of the node goes; 250 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 60_000))]
    pub interval_milliseconds: Option<u32>,
    /// What an answer may take beyond the round trip that was measured; 250 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 60_000))]
    pub timeout_milliseconds: Option<u32>,
    /// Good answers in a row that bring back an endpoint that had failed; 2 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub healthy_threshold: Option<u32>,
    /// Failures in a row that take an endpoint out; 2 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub unhealthy_threshold: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthCheckProtocol {
    /// Does a connection open?
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Does GET answer with an expected code?
    #[serde(rename = "HTTP")]
    Http,
    /// Does `grpc.health.v1.Health/Check` say `SERVING`?
    #[serde(rename = "GRPC")]
    Grpc,
    /// Nothing is asked: only what traffic shows counts.
    None,
}

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub field: &'static str,
    /// As JSON shows it.
    pub value: serde_json::Value,
    /// What it must be, as in "must be ...".
    pub must: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, it {}", self.field, self.value, self.must)
    }
}

impl HealthCheckSpec {
    /// What it asks for. In place of a value that cannot be used the default holds.
    pub fn read(&self) -> (HealthCheck, Vec<Fault>) {
        let mut faults = Vec::new();
        let default = HealthCheck::default();
        let mut within = |field, value: Option<u32>, allowed: RangeInclusive<u32>| {
            let value = value?;
            if allowed.contains(&value) {
                return Some(value);
            }
            let must = format!("must be between {} and {}, inclusive", allowed.start(), allowed.end());
            faults.push(Fault { field, value: value.into(), must });
            None
        };
        let milliseconds = |value: u32| Duration::from_millis(value.into());
        let port = within("port", self.port.map(u32::from), 1..=u32::from(u16::MAX)).and(self.port);
        let interval = within("intervalMilliseconds", self.interval_milliseconds, MILLISECONDS);
        let timeout = within("timeoutMilliseconds", self.timeout_milliseconds, MILLISECONDS);
        let healthy_threshold = within("healthyThreshold", self.healthy_threshold, THRESHOLDS);
        let unhealthy_threshold = within("unhealthyThreshold", self.unhealthy_threshold, THRESHOLDS);
        let check = HealthCheck {
            question: self.question(&mut faults),
            port,
            interval: interval.map_or(default.interval, milliseconds),
            timeout: timeout.map_or(default.timeout, milliseconds),
            healthy_threshold: healthy_threshold.unwrap_or(default.healthy_threshold),
            unhealthy_threshold: unhealthy_threshold.unwrap_or(default.unhealthy_threshold),
        };
        (check, faults)
    }

    fn question(&self, faults: &mut Vec<Fault>) -> Question {
        match self.protocol {
            HealthCheckProtocol::Tcp => Question::Tcp,
            HealthCheckProtocol::None => Question::Nothing,
            HealthCheckProtocol::Grpc => Question::Grpc { service: self.service.clone().unwrap_or_default() },
            HealthCheckProtocol::Http => {
                let mut path = self.path.as_deref().unwrap_or("/");
                if !is_path(path) {
                    let must = "must begin with / and have no blanks".to_owned();
                    faults.push(Fault { field: "path", value: path.into(), must });
                    path = "/";
                }
                let mut codes = Vec::new();
                for text in &self.expected_codes {
                    if let Some(range) = code_range(text) {
                        codes.push(range);
                    } else {
                        let must = "must be a code like 200 or a range like 200-399".to_owned();
                        faults.push(Fault { field: "expectedCodes", value: text.as_str().into(), must });
                    }
                }
                if codes.is_empty() {
                    codes.push(EXPECTED_CODES);
                }
                Question::Http { path: path.to_owned(), codes }
            }
        }
    }
}

/// Whether a request can ask for it.
fn is_path(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    plain && path.starts_with('/') && path.parse::<http::Uri>().is_ok()
}

/// `200` or `200-399`.
fn code_range(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| text.parse().ok().filter(|code| text.len() == 3 && (100..=599).contains(code));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let codes = code(first)?..=code(last)?;
    (!codes.is_empty()).then_some(codes)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_is_not_said_is_as_it_is_without_a_health_check() {
        assert_eq!(
            from_value::<HealthCheckSpec>(json!({})).unwrap().read(),
            (HealthCheck::default(), vec![])
        );
    }

    #[test]
    fn every_protocol_has_its_question() {
        let http = |path: &str, codes: &[RangeInclusive<u16>]| Question::Http {
            path: path.into(),
            codes: codes.into(),
        };
        for (spec, expected) in [
            (json!({ "protocol": "TCP" }), Question::Tcp),
            (json!({ "protocol": "None" }), Question::Nothing),
            (json!({ "protocol": "HTTP" }), http("/", &[200..=399])),
            (
                json!({ "protocol": "HTTP", "path": "/healthz?full", "expectedCodes": ["204", "300-302"] }),
                http("/healthz?full", &[204..=204, 300..=302]),
            ),
            (json!({ "protocol": "GRPC" }), Question::Grpc { service: String::new() }),
            (json!({ "protocol": "GRPC", "service": "a.B" }), Question::Grpc { service: "a.B".into() }),
        ] {
            let (check, faults) = from_value::<HealthCheckSpec>(spec.clone()).unwrap().read();
            assert_eq!((check.question, faults), (expected, vec![]), "{spec}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_used_is_left_out_and_the_others_hold() {
        let spec = json!({
            "protocol": "HTTP", "port": 0, "path": "healthz", "expectedCodes": ["299-200", "2xx", "200"],
            "intervalMilliseconds": 49, "timeoutMilliseconds": 60_001, "healthyThreshold": 0, "unhealthyThreshold": 3,
        });
        let (check, faults) = from_value::<HealthCheckSpec>(spec).unwrap().read();
        let expected = HealthCheck {
            question: Question::Http { path: "/".into(), codes: vec![200..=200] },
            unhealthy_threshold: 3,
            ..HealthCheck::default()
        };
        assert_eq!(check, expected);
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "port is 0, it must be between 1 and 65535, inclusive",
                "intervalMilliseconds is 49, it must be between 50 and 60000, inclusive",
                "timeoutMilliseconds is 60001, it must be between 50 and 60000, inclusive",
                "healthyThreshold is 0, it must be between 1 and 10, inclusive",
                r#"path is "healthz", it must begin with / and have no blanks"#,
                r#"expectedCodes is "299-200", it must be a code like 200 or a range like 200-399"#,
                r#"expectedCodes is "2xx", it must be a code like 200 or a range like 200-399"#,
            ]
        );
    }
}
