//! One inquiry: does a TCP connection to these addresses open?

use std::{io, net::SocketAddr, time::Duration};

use futures::future::join_all;
use tokio::{
    net::TcpSocket,
    time::{sleep, timeout},
};

use super::roster::{Inquiry, ShardKey};

/// How long a handshake may take.
const TIMEOUT: Duration = Duration::from_millis(250);

/// Attempts before an address counts as failed: one lost packet is no evidence.
const ATTEMPTS: u32 = 2;

/// Between a refusal and the next attempt, so that a restarting server is not asked twice in one instant.
const PAUSE: Duration = Duration::from_millis(50);

/// What an inquiry found.
pub(super) struct Report {
    pub shard: ShardKey,
    pub sample: Vec<Answer>,
    pub again: Vec<Answer>,
}

pub(super) struct Answer {
    pub address: SocketAddr,
    pub result: Result<(), String>,
}

pub(super) async fn ask(inquiry: Inquiry) -> Report {
    let Inquiry { shard, sample, again } = inquiry;
    let ask_all = |addresses: Vec<SocketAddr>| {
        join_all(
            addresses
                .into_iter()
                .map(|address| async move { Answer { address, result: probe(address).await } }),
        )
    };
    let (sample, again) = tokio::join!(ask_all(sample), ask_all(again));
    Report { shard, sample, again }
}

/// # Errors
/// The last attempt's reason, in words.
async fn probe(address: SocketAddr) -> Result<(), String> {
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS {
        match timeout(TIMEOUT, open(address)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                reason = error.to_string();
                if attempt + 1 < ATTEMPTS {
                    sleep(PAUSE).await;
                }
            }
            Err(_) => reason = format!("no answer within {} ms", TIMEOUT.as_millis()),
        }
    }
    Err(reason)
}

async fn open(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Leaves by RST: thousands of probes a second would otherwise sit in TIME_WAIT for a minute each.
    socket.set_zero_linger()?;
    socket.connect(address).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::model::ServiceKey;

    #[tokio::test]
    async fn a_listener_answers_and_a_closed_port_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = gone.local_addr().unwrap();
        drop(gone);
        let shard = (ServiceKey::new("ns", "s"), "here".into());
        let report = ask(Inquiry { shard, sample: vec![open, closed], again: vec![] }).await;
        assert_eq!(report.sample[0].result, Ok(()));
        assert!(report.sample[1].result.as_ref().unwrap_err().contains("refused"));
    }
}
