//! Listens for questions over UDP and TCP, in both views, and keeps what they are answered from.

use std::{
    future,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex as Lock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwapOption;
use futures::{FutureExt as _, StreamExt as _, future::select_all, stream::FuturesUnordered};
use hickory_server::Server;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Notify, oneshot},
    time::{Instant, sleep_until},
};
use tracing::info;

use super::{
    answers::{Authority, Known, View},
    external,
    hosts::{self, look_up},
    responder::{OverTcp, Responder},
    settings::DnsSettings,
    udp,
    zones::Zones,
};
use crate::{model::Federation, plan::Health, settings::FederationSettings};

/// A TCP connection on which nothing is asked for this long is closed. `CoreDNS` keeps its own for 10 s.
const TCP_IDLE: Duration = Duration::from_secs(30);

/// Messages on one TCP connection that wait to be sent: nothing is read before they are, but the transfer of a zone is
/// many at once.
const TCP_ANSWERS: usize = 1 << 16;

/// What the serial of a zone is that nobody may copy: the same on every node and for ever.
const NO_SERIAL: u32 = 1;

/// Answers for the federation's names.
pub struct Dns {
    known: Arc<ArcSwapOption<Known>>,
    /// Held by who replaces what is known.
    writer: Lock<()>,
    counts_serials: bool,
    /// Load balancers' names have to be looked up; there may be new ones.
    looks_up: bool,
    new_names: Notify,
    listeners: Mutex<Listeners>,
    _answering: Vec<udp::Answering>,
}

struct Listeners {
    over_udp: FuturesUnordered<oneshot::Receiver<Result<()>>>,
    over_tcp: Vec<Server<OverTcp>>,
}

impl Dns {
    /// Listens at every address. Questions are answered by SERVFAIL until the first [`update`](Self::update).
    ///
    /// # Errors
    /// The federation has no name that DNS could carry, or an address cannot be listened at.
    pub async fn bind(
        internal: &[SocketAddr],
        settings: &DnsSettings,
        federation: &FederationSettings,
    ) -> Result<Self> {
        let known = Arc::new(ArcSwapOption::empty());
        let mut answering = Vec::new();
        let mut listeners = Listeners { over_udp: FuturesUnordered::new(), over_tcp: Vec::new() };
        let external = View::External { ttl_seconds: settings.external_ttl_seconds };
        for (view, addresses) in [(View::Internal, internal), (external, &settings.external)] {
            let zones = Zones::new(federation, &settings.server_names)?;
            let sockets = sockets(addresses).await?;
            let addresses = sockets.iter().map(|socket| socket.address.ip());
            let addresses = addresses.filter(|ip| !ip.is_unspecified()).collect::<Vec<IpAddr>>();
            let authority = Authority { zones, view, addresses };
            let transfer = settings.transfer.clone();
            let responder = Arc::new(Responder { authority, known: Arc::clone(&known), transfer });
            let mut server = Server::new(OverTcp(Arc::clone(&responder)));
            let listens = !sockets.is_empty();
            let zones = responder.authority.zones.iter().filter(|zone| responder.authority.serves(zone));
            let zones = zones.map(|zone| zone.apex.to_string()).collect::<Vec<_>>().join(" ");
            for Sockets { address, udp, tcp } in sockets {
                let (socket, outcome) = udp::start(udp, Arc::clone(&responder))?;
                answering.push(socket);
                listeners.over_udp.push(outcome);
                server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
                info!(%address, ?view, zones, "DNS listens");
            }
            listeners.over_tcp.extend(listens.then_some(server));
        }
        Ok(Self {
            known,
            writer: Lock::new(()),
            counts_serials: !settings.transfer.is_empty(),
            looks_up: !settings.external.is_empty(),
            new_names: Notify::new(),
            listeners: Mutex::new(listeners),
            _answering: answering,
        })
    }

    /// Answers from this federation from now on. Who has found out himself how shards do says so by `health`.
    pub fn update(&self, federation: &Federation, health: Option<&Health>) {
        self.replace(|before| Known {
            names: before.names.follow(federation),
            health: health.cloned(),
            ..before.clone()
        });
        if self.looks_up {
            self.new_names.notify_one();
        }
    }

    /// Does not return while questions can be answered.
    ///
    /// # Errors
    /// A socket has broken.
    pub async fn serve(&self) -> Result<()> {
        let mut listeners = self.listeners.lock().await;
        let Listeners { over_udp, over_tcp } = &mut *listeners;
        if over_udp.is_empty() {
            return future::pending().await;
        }
        let over_tcp = select_all(over_tcp.iter_mut().map(|server| server.block_until_done().boxed()));
        tokio::select! {
            ended = over_udp.next() => match ended {
                Some(Ok(outcome)) => outcome.context("DNS over UDP has ended"),
                _ => bail!("DNS over UDP has ended"),
            },
            (result, ..) = over_tcp => result.context("DNS over TCP has ended"),
            () = self.keep_looking_up() => Ok(()),
        }
    }

    fn replace(&self, with: impl FnOnce(&Known) -> Known) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known.load_full().unwrap_or_default();
        let mut known = with(&before);
        if known.names.version != before.names.version || self.tells_outside(&before, &known) {
            known.version = before.version + 1;
            known.serial = if self.counts_serials { serial_after(before.serial) } else { NO_SERIAL };
        }
        self.known.store(Some(Arc::new(known)));
    }

    /// Whether clients from outside may be told something else afterwards. Nobody else hears of health, hosts and ingress.
    fn tells_outside(&self, before: &Known, after: &Known) -> bool {
        let health = |known: &Known| known.health.as_ref().map(|health| health.services.clone());
        self.looks_up
            && (before.names.federation != after.names.federation
                || health(before) != health(after)
                || before.hosts != after.hosts)
    }

    /// Looks up load balancers that are known by their names, new ones at once.
    async fn keep_looking_up(&self) {
        if !self.looks_up {
            return future::pending().await;
        }
        let mut everybody = Instant::now();
        loop {
            let all = tokio::select! {
                () = self.new_names.notified() => false,
                () = sleep_until(everybody) => true,
            };
            if all {
                everybody = Instant::now() + hosts::PERIOD;
            }
            let Some(known) = self.known.load_full() else { continue };
            let mut names = external::host_names(&known.names.federation);
            let before = &known.hosts;
            let mut kept = (**before).clone();
            kept.retain(|name, _| names.contains(name));
            if !all {
                names.retain(|name| !before.contains_key(name));
            }
            kept.extend(look_up(names, before).await);
            if kept != **before {
                self.replace(|before| Known { hosts: Arc::new(kept), ..before.clone() });
            }
        }
    }
}

/// Both sockets of one address.
struct Sockets {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

async fn sockets(addresses: &[SocketAddr]) -> Result<Vec<Sockets>> {
    let mut sockets = Vec::new();
    for address in addresses {
        let udp = UdpSocket::bind(address).with_context(|| cannot_listen("UDP", *address))?;
        // Port 0 takes a free one, and both transports have to have the same.
        let address = udp.local_addr().context("ask for the address that was bound")?;
        let tcp = TcpListener::bind(address).await.with_context(|| cannot_listen("TCP", address))?;
        sockets.push(Sockets { address, udp, tcp });
    }
    Ok(sockets)
}

fn cannot_listen(transport: &str, address: SocketAddr) -> String {
    format!(
        "cannot answer DNS at {address} over {transport}: end what holds this address and port, or choose another one"
    )
}

/// By the clock, so that it grows over restarts too; and by one at least.
fn serial_after(before: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Serials go round (RFC 1982).
    #[expect(clippy::cast_possible_truncation, reason = "serials go round")]
    let now = now as u32;
    now.max(before.wrapping_add(1))
}

#[cfg(test)]
mod tests;
