//! What the programs tell while packets go on: the ring of events, read and put into words.

use std::{
    fmt, io,
    mem::offset_of,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData, RingBuf};
use federation_ebpf::{
    maps::{self, Backend, EventKind, Protocol},
    outcome::Outcome,
};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

use super::{
    batch,
    family::{Family, V4, V6, backend_at},
    pins::Pins,
    protocol, read,
};
use crate::model;

/// The ring with what its numbers stand for.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    backends_v4: MapData,
    backends_v6: MapData,
}

/// Something that a program has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub protocol: Protocol,
    /// What became of the packet.
    pub outcome: Outcome,
    /// None when none was chosen.
    pub backend: Option<BackendName>,
    /// First packets in a row, this one's included, that the backend has refused or not answered.
    pub failures: u32,
    /// Of a handshake, to a fifteenth of a millisecond.
    pub round_trip: Option<Duration>,
}

/// A backend as an event knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendName {
    pub id: u32,
    pub generation: u32,
    /// Unknown when its id has another tenant by now.
    pub address: Option<SocketAddr>,
}

impl Events {
    pub(super) fn new(ring: Map, pins: &Pins) -> Result<Self> {
        let ring = RingBuf::try_from(ring).context("open EVENTS")?;
        // SAFETY: the ring has one descriptor, its map's, and closes it when it is dropped itself.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self {
            ring: ring.map_err(io::Error::from).context("wait for EVENTS")?,
            backends_v4: read::open(pins, V4::BACKENDS)?,
            backends_v6: read::open(pins, V6::BACKENDS)?,
        })
    }

    /// Waits for events and takes all that there are. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// The ring cannot be waited for. What cannot be understood is logged and left out.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        let mut raw = Vec::new();
        while raw.is_empty() {
            let mut ready = self.ring.readable_mut().await.context("wait for EVENTS")?;
            let ring = ready.get_inner_mut();
            while let Some(item) = ring.next() {
                raw.push(parse(&item));
            }
            ready.clear_ready();
        }
        let mut events = Vec::new();
        for event in raw {
            match event.and_then(|event| self.name_backend(event)) {
                Ok(event) => events.push(event),
                Err(error) => warn!("an event cannot be told: {error:#}"),
            }
        }
        Ok(events)
    }

    fn name_backend(&self, mut event: Event) -> Result<Event> {
        if let Some(name) = &mut event.backend {
            let backend = match event.vip.ip() {
                IpAddr::V4(_) => backend::<V4>(&self.backends_v4, name.id),
                IpAddr::V6(_) => backend::<V6>(&self.backends_v6, name.id),
            }
            .with_context(|| format!("look for backend {}", name.id))?;
            if backend.generation == name.generation {
                name.address = Some(SocketAddr::new(backend.address, backend.port));
            }
        }
        Ok(event)
    }
}

fn backend<A: Family>(map: &MapData, id: u32) -> Result<Backend<IpAddr>> {
    let [backend] = batch::read_array::<Backend<A>>(map, id, 1)?[..] else {
        anyhow::bail!("it is not there")
    };
    Ok(backend_at(&backend, backend.address.ip()))
}

/// An element of the ring. It comes from another program: no byte becomes an enum unseen.
fn parse(bytes: &[u8]) -> Result<Event> {
    ensure!(
        bytes.len() == size_of::<maps::Event>(),
        "an event of {} bytes came, where {} are expected: do programs of another agent run?",
        bytes.len(),
        size_of::<maps::Event>()
    );
    let kind = bytes[offset_of!(maps::Event, kind)];
    let outcome = bytes[offset_of!(maps::Event, outcome)];
    let protocol = u32::from_ne_bytes(field(bytes, offset_of!(maps::Event, protocol)));
    let id = u32::from_ne_bytes(field(bytes, offset_of!(maps::Event, backend)));
    let generation = u32::from_ne_bytes(field(bytes, offset_of!(maps::Event, generation)));
    let failures = u32::from_ne_bytes(field(bytes, offset_of!(maps::Event, failures)));
    let round_trip = u32::from_ne_bytes(field(bytes, offset_of!(maps::Event, round_trip_microseconds)));
    let unknown =
        || format!("an event of an unknown kind came ({kind}, protocol {protocol}, outcome {outcome})");
    let kind = KINDS.into_iter().find(|known| *known as u8 == kind).with_context(unknown)?;
    Ok(Event {
        kind,
        client: socket(
            field(bytes, offset_of!(maps::Event, client)),
            field(bytes, offset_of!(maps::Event, client_port)),
        ),
        vip: socket(
            field(bytes, offset_of!(maps::Event, vip)),
            field(bytes, offset_of!(maps::Event, vip_port)),
        ),
        protocol: PROTOCOLS.into_iter().find(|known| *known as u32 == protocol).with_context(unknown)?,
        outcome: *Outcome::ALL.get(usize::from(outcome)).with_context(unknown)?,
        backend: (id != 0).then_some(BackendName { id, generation, address: None }),
        failures,
        // One too short to be measured is still one.
        round_trip: (kind == EventKind::RoundTrip).then(|| Duration::from_micros(round_trip.into())),
    })
}

const KINDS: [EventKind; 6] = [
    EventKind::Opened,
    EventKind::Refused,
    EventKind::Reset,
    EventKind::BackendRefused,
    EventKind::Unanswered,
    EventKind::RoundTrip,
];

const PROTOCOLS: [Protocol; 5] =
    [Protocol::None, Protocol::Icmp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// IPv4 comes mapped into IPv6.
fn socket(address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address).to_canonical(), u16::from_ne_bytes(port))
}

impl Event {
    /// As the model names it; nothing of what has no ports.
    pub fn transport(&self) -> Option<model::Protocol> {
        protocol::transport(self.protocol)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, vip, .. } = self;
        let protocol = format!("{:?}", self.protocol).to_uppercase();
        match self.kind {
            EventKind::Opened => write!(f, "{client} reaches {vip} ({protocol})"),
            EventKind::Refused => write!(f, "{client} was refused at {vip} ({protocol}): {:?}", self.outcome),
            EventKind::Reset => write!(f, "the connection of {client} to {vip} ({protocol}) was ended"),
            EventKind::BackendRefused => {
                write!(f, "{client} was refused at {vip} ({protocol}) by its backend")
            }
            EventKind::Unanswered => write!(f, "{client} got no answer at {vip} ({protocol}) and asks again"),
            EventKind::RoundTrip => {
                let took = self.round_trip.unwrap_or_default();
                write!(f, "{client} was answered at {vip} ({protocol}) after {took:?}")
            }
        }?;
        match &self.backend {
            None => Ok(()),
            Some(BackendName { address: Some(address), .. }) => write!(f, ", backend {address}"),
            Some(BackendName { id, .. }) => write!(f, ", backend {id}, which is gone"),
        }?;
        match self.failures {
            0 => Ok(()),
            failures => write!(f, " ({failures} in a row)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; size_of::<maps::Event>()];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let mapped = |address: &str| address.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets();
        put(offset_of!(maps::Event, client), &mapped("10.8.1.2"));
        put(offset_of!(maps::Event, vip), &mapped("198.18.0.7"));
        put(offset_of!(maps::Event, client_port), &40000_u16.to_ne_bytes());
        put(offset_of!(maps::Event, vip_port), &80_u16.to_ne_bytes());
        put(offset_of!(maps::Event, protocol), &6_u32.to_ne_bytes());
        put(offset_of!(maps::Event, backend), &5_u32.to_ne_bytes());
        put(offset_of!(maps::Event, generation), &3_u32.to_ne_bytes());
        put(offset_of!(maps::Event, kind), &[EventKind::Reset as u8]);
        put(offset_of!(maps::Event, outcome), &[Outcome::BackendGone as u8]);
        bytes
    }

    #[test]
    fn an_event_reads_as_a_person_would_say_it() {
        let mut event = parse(&bytes()).unwrap();
        let text =
            "the connection of 10.8.1.2:40000 to 198.18.0.7:80 (TCP) was ended, backend 5, which is gone";
        assert_eq!(event.to_string(), text);
        event.backend.as_mut().unwrap().address = Some("10.8.2.2:8080".parse().unwrap());
        event.kind = EventKind::BackendRefused;
        let text = "10.8.1.2:40000 was refused at 198.18.0.7:80 (TCP) by its backend, backend 10.8.2.2:8080";
        assert_eq!(event.to_string(), text);
        event.kind = EventKind::Unanswered;
        event.failures = 3;
        let text = "10.8.1.2:40000 got no answer at 198.18.0.7:80 (TCP) and asks again, backend 10.8.2.2:8080 (3 in a row)";
        assert_eq!(event.to_string(), text);
        event.failures = 0;
        event.kind = EventKind::RoundTrip;
        event.round_trip = Some(Duration::from_micros(1_250));
        let text = "10.8.1.2:40000 was answered at 198.18.0.7:80 (TCP) after 1.25ms, backend 10.8.2.2:8080";
        assert_eq!(event.to_string(), text);
        event.backend = None;
        event.kind = EventKind::Refused;
        event.outcome = Outcome::NoFrontend;
        assert_eq!(event.to_string(), "10.8.1.2:40000 was refused at 198.18.0.7:80 (TCP): NoFrontend");
    }

    #[test]
    fn an_event_has_a_round_trip_if_one_was_measured() {
        let mut bytes = bytes();
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(offset_of!(maps::Event, failures), &2_u32.to_ne_bytes());
        put(offset_of!(maps::Event, round_trip_microseconds), &1_250_u32.to_ne_bytes());
        let event = parse(&bytes).unwrap();
        assert_eq!((event.failures, event.round_trip), (2, None));
        bytes[offset_of!(maps::Event, kind)] = EventKind::RoundTrip as u8;
        assert_eq!(parse(&bytes).unwrap().round_trip, Some(Duration::from_micros(1_250)));
    }

    #[test]
    fn bytes_that_no_program_writes_are_refused() {
        for (at, value) in [
            (offset_of!(maps::Event, kind), 0),
            (offset_of!(maps::Event, kind), 7),
            (offset_of!(maps::Event, outcome), u8::MAX),
            (offset_of!(maps::Event, protocol), 7),
        ] {
            let mut bytes = bytes();
            bytes[at] = value;
            assert!(parse(&bytes).is_err(), "{at} {value}");
        }
        assert!(parse(&bytes()[1..]).is_err());
    }
}
