//! Turns for better or worse, in words.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use super::ShardKey;
use crate::model::ServiceKey;

/// A turn for better or worse, of an endpoint or of a whole shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub shard: ShardKey,
    /// None: it is about the shard.
    pub endpoint: Option<SocketAddr>,
    pub turn: Turn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It answers no probe, and others do.
    Failed { evidence: Arc<str> },
    /// It answers no probe, nor do most others.
    Doubted { evidence: Arc<str> },
    /// It answers again.
    Back,
    /// Its traffic failed.
    Ejected { evidence: Arc<str>, time: Duration },
    /// Its time out is over.
    Readmitted,
}

impl News {
    pub fn service(&self) -> &ServiceKey {
        &self.shard.0
    }

    pub fn is_good(&self) -> bool {
        matches!(self.turn, Turn::Back | Turn::Readmitted)
    }

    /// As the reason of a Kubernetes Event.
    pub fn reason(&self) -> &'static str {
        match (&self.turn, self.endpoint) {
            (Turn::Failed { .. }, Some(_)) => "EndpointFailed",
            (Turn::Failed { .. }, None) => "ShardFailed",
            (Turn::Doubted { .. }, Some(_)) => "EndpointDoubted",
            (Turn::Doubted { .. }, None) => "ShardDoubted",
            (Turn::Back, Some(_)) => "EndpointRecovered",
            (Turn::Back, None) => "ShardRecovered",
            (Turn::Ejected { .. }, _) => "EndpointEjected",
            (Turn::Readmitted, _) => "EndpointReadmitted",
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, cluster) = &self.shard;
        match self.endpoint {
            Some(endpoint) => write!(f, "endpoint {endpoint} in {cluster}"),
            None => write!(f, "the shard in {cluster}"),
        }?;
        match &self.turn {
            Turn::Failed { evidence } => write!(f, " is left out: {evidence}"),
            Turn::Doubted { evidence } => write!(
                f,
                " is a last resort: {evidence}, but neither do most other clusters; this node's own network may have \
                 failed"
            ),
            Turn::Back => f.write_str(" answers again"),
            Turn::Ejected { evidence, time } => {
                write!(f, " is ejected for {} s: {evidence}", time.as_secs())
            }
            Turn::Readmitted => f.write_str(" may serve again: its time out is over"),
        }
    }
}
