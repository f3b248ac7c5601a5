//! Asking the loaded program itself where a connection would go: it is run on a packet that nobody sent, and what it
//! remembered for it is forgotten.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use federation_ebpf::maps::{Flow, FlowKey};
use serde::{Deserialize, Serialize};

use super::{
    DataPlane,
    family::{Family, V4, V6},
    protocol::kernel_protocol,
    read,
};
use crate::model::Protocol;

/// Where a client's packet comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub protocol: Protocol,
}

/// What the program did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Course {
    /// The connection is open already.
    Known { backend: SocketAddr },
    /// It would be opened.
    Opens { backend: SocketAddr },
    /// The client would be told that nobody serves it.
    Refused,
    /// The program lets it pass: it is to no VIP.
    NotOurs,
}

/// A TTL as most hosts have it; nobody sees it.
const HOP_LIMIT: u8 = 64;

/// Room for an answer: a refusal has a packet of the client in it.
const ANSWER: usize = 256;

impl DataPlane {
    /// What `from_pod` does with the first packet of this tuple. Leaves no flow behind; the packet is counted, though.
    ///
    /// # Errors
    /// The tuple mixes families or has a protocol without first packets, or the kernel refuses.
    pub fn ask(&self, tuple: &Tuple) -> Result<Course> {
        match (tuple.client.ip(), tuple.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => self.ask_of::<V4>(tuple, client.octets(), vip.octets()),
            (IpAddr::V6(client), IpAddr::V6(vip)) => self.ask_of::<V6>(tuple, client.octets(), vip.octets()),
            _ => bail!("{} and {} are not of one family", tuple.client, tuple.vip),
        }
    }

    fn ask_of<A: Family>(&self, tuple: &Tuple, client: A, vip: A) -> Result<Course> {
        let flows = Map::LruHashMap(read::open(&self.pins, A::FLOWS)?);
        let mut flows: HashMap<MapData, FlowKey<A>, Flow<A>> = flows.try_into().context("open the flows")?;
        let (from, to) = (tuple.client.port(), tuple.vip.port());
        let key = FlowKey::new(client, from, vip, to, kernel_protocol(tuple.protocol));
        if let Ok(flow) = flows.get(&key, 0) {
            return Ok(Course::Known { backend: SocketAddr::new(flow.address.ip(), flow.port) });
        }
        let mut answer = vec![0; ANSWER];
        let result = self.test_run("from_pod", &frame(tuple)?, &mut answer, 1);
        if let Ok(flow) = flows.get(&key, 0) {
            flows.remove(&key).context("forget the flow")?;
            flows.remove(&key.partner(&flow)).context("forget the flow's answers")?;
        }
        let size = result?.data_size_out as usize;
        let destination = destination(&answer[..size.min(ANSWER)])?;
        Ok(if destination.ip() == tuple.client.ip() {
            Course::Refused
        } else if destination == tuple.vip {
            Course::NotOurs
        } else {
            Course::Opens { backend: destination }
        })
    }
}

/// An Ethernet frame as a client would begin with.
fn frame(tuple: &Tuple) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = match (tuple.client.ip(), tuple.vip.ip()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => ethernet.ipv4(client.octets(), vip.octets(), HOP_LIMIT),
        (IpAddr::V6(client), IpAddr::V6(vip)) => ethernet.ipv6(client.octets(), vip.octets(), HOP_LIMIT),
        _ => bail!("{} and {} are not of one family", tuple.client, tuple.vip),
    };
    let (from, to) = (tuple.client.port(), tuple.vip.port());
    let mut frame = Vec::new();
    match tuple.protocol {
        Protocol::Tcp => network.tcp(from, to, 0, u16::MAX).syn().write(&mut frame, &[]),
        Protocol::Udp => network.udp(from, to).write(&mut frame, &[]),
        Protocol::Sctp => bail!("how an SCTP association begins cannot be asked; ask for TCP or UDP"),
    }
    .context("write the packet")?;
    Ok(frame)
}

fn destination(frame: &[u8]) -> Result<SocketAddr> {
    let packet = SlicedPacket::from_ethernet(frame).context("read the packet that came out")?;
    let ip = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => IpAddr::V4(ip.header().destination_addr()),
        Some(NetSlice::Ipv6(ip)) => IpAddr::V6(ip.header().destination_addr()),
        _ => bail!("what came out is no IP packet"),
    };
    let port = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.destination_port(),
        Some(TransportSlice::Udp(udp)) => udp.destination_port(),
        // An error message: about the client's packet, to the client.
        _ => 0,
    };
    ensure!(!ip.is_unspecified(), "the packet that came out is to nobody");
    Ok(SocketAddr::new(ip, port))
}
