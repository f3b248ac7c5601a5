//! How a service wants its endpoints to be asked whether they serve.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// What is asked, how often, and how many answers make a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub question: Question,
    /// Every endpoint is asked here; at each of the service's TCP ports when absent.
    pub port: Option<u16>,
    /// From one question to the next, while traffic of this node goes to the shard.
    pub interval: Duration,
    /// What an answer may take beyond the round trip that was measured.
    pub timeout: Duration,
    /// Answers in a row that bring back who had failed. Never 0.
    pub healthy_threshold: u32,
    /// Failures in a row that take one out. Never 0.
    pub unhealthy_threshold: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            question: Question::Tcp,
            port: None,
            interval: Duration::from_millis(250),
            timeout: Duration::from_millis(250),
            healthy_threshold: 2,
            unhealthy_threshold: 2,
        }
    }
}

impl HealthCheck {
    /// How often a question is put before a no is believed.
    pub fn attempts(&self) -> u32 {
        self.unhealthy_threshold.max(1)
    }

    /// How long after the first attempt the one of this number, from 0 on, begins.
    pub fn begin(&self, attempt: u32) -> Duration {
        self.timeout * attempt / self.attempts()
    }
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Does a connection open?
    Tcp,
    /// Does GET of `path` answer with one of these status codes?
    Http { path: String, codes: Vec<RangeInclusive<u16>> },
    /// Does `grpc.health.v1.Health/Check` of this service (the whole server, if empty) say `SERVING`?
    Grpc { service: String },
    /// Nothing: only what its traffic shows counts.
    Nothing,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Http { path, .. } => write!(f, "HTTP GET {path}"),
            Self::Grpc { service } if service.is_empty() => f.write_str("gRPC health"),
            Self::Grpc { service } => write!(f, "gRPC health of {service}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}
