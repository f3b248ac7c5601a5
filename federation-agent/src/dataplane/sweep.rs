//! The sweep: clients that only wait for a backend that has died are told, though they send nothing.
//!
//! A RST must carry the right sequence number, which nobody here knows. So the client is made to say it: a bare SYN from
//! the VIP on a synchronized connection, in or out of window, is answered with a challenge ACK that has the right
//! numbers, and changes nothing else (RFC 5961, section 4). That ACK passes `from_pod` or `edge`, which answers what
//! goes to a dead backend with a RST that its numbers make right.
//!
//! Sockets in the node's own network are ended by the kernel itself, which knows their numbers.

mod segment;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::SocketAddr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use federation_ebpf::{
    maps::{BackendState, Flow, FlowKey, Protocol, SocketKey, SocketPeer},
    tcp::TcpState,
};
use tracing::{info, warn};

use super::{
    diag::Diag,
    family::{Family, V4, V6},
    flows::Moment,
    now,
    pins::Pins,
    read,
    tables::Write,
};
use segment::Sender;

/// Segments that are sent at once, and the pause after them: each is answered through the programs, whose refusals are
/// limited too, and pods have work to do besides.
const BURST: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// How often a client is told that goes on waiting, and how long after the last time: a segment may be lost, and one that
/// follows another such too soon is not answered (RFC 5961, section 7; Linux: half a second, `tcp_invalid_ratelimit`).
const ROUNDS: usize = 3;
const SILENCE: Duration = Duration::from_millis(600);

/// Backends that have just died, whose waiting clients are to be told.
#[derive(Debug)]
#[must_use = "clients of the dead backends wait until it is run"]
pub struct Sweep {
    pins: Pins,
    dead: Dead,
}

/// Ids of dead backends with the generation that died.
type Dead = BTreeMap<u32, u32>;

/// The backend that a write kills, with its generation.
pub(super) fn killed(write: &Write) -> Option<(u32, u32)> {
    match write {
        Write::Backend { id, value } if value.state == BackendState::Dead => Some((*id, value.generation)),
        _ => None,
    }
}

/// A connection as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    client: SocketAddr,
    vip: SocketAddr,
}

impl Sweep {
    /// Of backends that were [`killed`], if any.
    pub(super) fn of(killed: impl IntoIterator<Item = (u32, u32)>, pins: &Pins) -> Option<Self> {
        let dead: Dead = killed.into_iter().collect();
        (!dead.is_empty()).then(|| Self { pins: pins.clone(), dead })
    }

    /// Tells the clients, and those that were not reached again, in the network namespace of this thread. Takes long when
    /// there are many: not for a thread that others wait for.
    ///
    /// # Errors
    /// The flows cannot be read, or no segment can be made. That single segments cannot be sent is logged.
    pub fn run(self) -> Result<()> {
        // Whatever comes of these, those who wait behind packets are told.
        let sockets = self.end_sockets();
        for round in 0..ROUNDS {
            let now = Moment::at(now()?);
            let v4 = waiting::<V4>(&read::flows(&self.pins)?, &self.dead, now);
            let v6 = waiting::<V6>(&read::flows(&self.pins)?, &self.dead, now);
            if v4.is_empty() && v6.is_empty() {
                break;
            }
            self.tell(&v4)?;
            self.tell(&v6)?;
            if round + 1 < ROUNDS {
                thread::sleep(SILENCE);
            }
        }
        sockets
    }

    /// Ends the node's own sockets that were told of the dead. A socket without a peer goes elsewhere by itself.
    fn end_sockets(&self) -> Result<()> {
        let entries = read::elements::<SocketKey, SocketPeer>(&self.pins, "SOCKETS")?;
        let (mut ended, mut failure) = (0, None);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let told = told(&entries, protocol, &self.dead);
            if told.is_empty() {
                continue;
            }
            let diag = Diag::new().context("open a socket to end others")?;
            let connected = diag.connected(protocol).context("list the sockets of this node")?;
            for socket in connected.iter().filter(|socket| told.contains(&socket.key())) {
                match diag.end(socket) {
                    Ok(()) => ended += 1,
                    Err(error) => failure = Some(error),
                }
            }
        }
        if let Some(error) = failure {
            warn!("sockets of this node, whose backend has died, wait for their own timeout: {error}");
        }
        if ended > 0 {
            info!(backends = self.dead.len(), "ended {ended} sockets of this node, whose backend has died");
        }
        Ok(())
    }

    fn tell(&self, connections: &[Connection]) -> Result<()> {
        let Some(first) = connections.first() else { return Ok(()) };
        let sender = Sender::new(first.client.ip()).context("open a raw socket to tell waiting clients")?;
        let mut unsent: Vec<(SocketAddr, io::Error)> = Vec::new();
        for (number, connection) in connections.iter().enumerate() {
            if number > 0 && number.is_multiple_of(BURST) {
                thread::sleep(PAUSE);
            }
            if let Err(error) = sender.challenge(connection) {
                unsent.push((connection.client, error));
            }
        }
        let told = connections.len() - unsent.len();
        let failures = unsent.first().map_or_else(String::new, |(client, error)| {
            format!("; not so {} others, as {client}: {error}", unsent.len())
        });
        info!(
            backends = self.dead.len(),
            "asked {told} waiting clients, whose backend has died, to be told so{failures}"
        );
        Ok(())
    }
}

/// The sockets that were told of a dead backend, with where it was. They may be closed by now, or connected elsewhere.
fn told(entries: &[(SocketKey, SocketPeer)], protocol: Protocol, dead: &Dead) -> HashSet<SocketKey> {
    let is_dead = |peer: &SocketPeer| dead.get(&peer.backend) == Some(&peer.generation);
    let of_the_dead = entries.iter().filter(|(key, peer)| key.protocol == protocol && is_dead(peer));
    of_the_dead.map(|(key, _)| *key).collect()
}

/// The connections whose clients may wait for a dead backend.
///
/// Of one that is opening the client sends its SYN again by itself, and gets another backend; a SYN from the VIP would
/// be taken for a simultaneous open (RFC 9293, section 3.5) instead. One that is closing has nothing to wait for, but in
/// the rare case of a client that has closed its own direction alone; its entry is not to be told from thousands that
/// are over.
fn waiting<A: Family>(flows: &[(FlowKey<A>, Flow<A>)], dead: &Dead, now: Moment) -> Vec<Connection> {
    flows
        .iter()
        .filter(|(key, flow)| {
            key.protocol == Protocol::Tcp
                && flow.direction.is_forward()
                && flow.state == TcpState::Established
                && dead.get(&flow.backend) == Some(&flow.generation)
                && !now.ends(flow, key.protocol)
        })
        .map(|(key, _)| Connection {
            client: SocketAddr::new(key.source.ip(), key.source_port),
            vip: SocketAddr::new(key.destination.ip(), key.destination_port),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use TcpState::{Closing, Established, Opening};
    use federation_ebpf::maps::Direction::{self, Forward, HairpinForward, HairpinReply, Reply};

    use super::*;

    const NOW: Duration = Duration::from_hours(24);

    fn entry(port: u16, direction: Direction, state: TcpState) -> (FlowKey<V4>, Flow<V4>) {
        let key = FlowKey::new([10, 8, 1, 2], port, [198, 18, 0, 7], 80, Protocol::Tcp);
        let flow = Flow {
            address: [10, 8, 2, 2],
            backend: 5,
            generation: 3,
            frontend: 0,
            last_seen: federation_ebpf::maps::tick(NOW.as_secs() * 1_000_000_000),
            port: 8080,
            client_port: 50000,
            direction,
            state,
            handshake: 0,
        };
        (key, flow)
    }

    #[test]
    fn only_clients_that_may_wait_for_a_dead_backend_are_told() {
        let (known, mut other) = (entry(1, Forward, Established), entry(2, Forward, Established));
        other.1.generation = 4;
        let (mut udp, mut over) = (entry(3, Forward, TcpState::None), entry(4, Forward, Established));
        udp.0.protocol = Protocol::Udp;
        over.1.last_seen -= 8000 * federation_ebpf::maps::TICKS_PER_SECOND;
        let flows = [
            known,
            other,
            udp,
            over,
            entry(5, Forward, Opening),
            entry(6, Forward, Closing),
            entry(7, Reply, Established),
            entry(8, HairpinForward, Established),
            entry(9, HairpinReply, Established),
        ];
        let waiting = waiting(&flows, &Dead::from([(5, 3), (6, 1)]), Moment::at(NOW));
        let connection = |port: u16| Connection {
            client: SocketAddr::from(([10, 8, 1, 2], port)),
            vip: SocketAddr::from(([198, 18, 0, 7], 80)),
        };
        assert_eq!(waiting, [connection(1), connection(8)]);
    }
}
