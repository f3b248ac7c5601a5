//! The segment that makes a client say where its connection stands, and the raw socket that it leaves by.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use super::Connection;

const TTL: u8 = 64;

/// Any number will do: it is in the window or not, and the answer is the same.
const SEQUENCE: u32 = 0;

/// Nobody shall send anything in reply but numbers.
const WINDOW: u16 = 0;

/// A raw socket of one family, whose packets bring their IP header with them (`raw(7)`; `IPPROTO_RAW` means so for IPv6
/// too).
pub(super) struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Of the family that `address` is of.
    pub(super) fn new(address: IpAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        Ok(Self { socket })
    }

    /// Sends a bare SYN from the VIP to the client.
    pub(super) fn challenge(&self, connection: &Connection) -> io::Result<()> {
        let packet = syn(connection)?;
        // The kernel routes by the address; a raw socket has no ports, and refuses them.
        let destination = SockaddrStorage::from(SocketAddr::new(connection.client.ip(), 0));
        sendto(self.socket.as_raw_fd(), &packet, &destination, MsgFlags::empty())?;
        Ok(())
    }
}

/// The packet, from its IP header on.
fn syn(Connection { client, vip }: &Connection) -> io::Result<Vec<u8>> {
    let builder = match (vip.ip(), client.ip()) {
        (IpAddr::V4(vip), IpAddr::V4(client)) => PacketBuilder::ipv4(vip.octets(), client.octets(), TTL),
        (IpAddr::V6(vip), IpAddr::V6(client)) => PacketBuilder::ipv6(vip.octets(), client.octets(), TTL),
        _ => return Err(io::Error::other("a client and a VIP of different families")),
    };
    let builder = builder.tcp(vip.port(), client.port(), SEQUENCE, WINDOW).syn();
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).map_err(io::Error::other)?;
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn it_is_a_bare_syn_from_the_vip_with_checksums_that_hold() {
        for (client, vip) in [("10.8.1.2:40000", "198.18.0.7:80"), ("[fd00:8::2]:40000", "[fd98::7]:80")] {
            let connection = Connection { client: client.parse().unwrap(), vip: vip.parse().unwrap() };
            let packet = syn(&connection).unwrap();
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("{sliced:?}") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40000));
            assert!(tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin());
            let header = tcp.to_header();
            let expected = match sliced.net.as_ref().unwrap() {
                etherparse::NetSlice::Ipv4(ip) => {
                    assert_eq!(SocketAddr::new(ip.header().source_addr().into(), 80), connection.vip);
                    header.calc_checksum_ipv4(&ip.header().to_header(), &[]).unwrap()
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    assert_eq!(SocketAddr::new(ip.header().source_addr().into(), 80), connection.vip);
                    header.calc_checksum_ipv6(&ip.header().to_header(), &[]).unwrap()
                }
                other @ etherparse::NetSlice::Arp(_) => panic!("{other:?}"),
            };
            assert_eq!(tcp.checksum(), expected);
        }
    }
}
