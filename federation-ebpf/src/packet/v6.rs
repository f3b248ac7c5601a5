//! The header of IPv6 and what may stand between it and the transport header (RFC 8200).

use network_types::ip::Ipv6Hdr;

use super::{Bytes, Fragment, Ip, Network, number};
use crate::{checksum::Difference, frame::Frame, outcome::Outcome};

/// IANA, "IPv6 Extension Header Types".
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

impl Ip for [u8; 16] {
    const ETHER_TYPE: u16 = 0x86dd_u16.to_be();
    const HEADER: usize = Ipv6Hdr::LEN;
    const SOURCE: usize = 8;
    const ICMP: u8 = number::ICMPV6;

    #[inline(always)]
    fn plain(frame: &impl Bytes, network: usize) -> Option<Network<Self>> {
        let header: Ipv6Hdr = frame.read(network)?;
        read(frame, &header, network)
    }

    #[inline(always)]
    fn header(frame: &impl Bytes, network: usize) -> Result<Network<Self>, Outcome> {
        let header: Ipv6Hdr = frame.load(network).ok_or(Outcome::Malformed)?;
        read(frame, &header, network).ok_or(Outcome::Malformed)
    }

    #[inline(always)]
    fn walk(frame: &impl Bytes, network: &mut Network<Self>) -> Result<bool, Outcome> {
        // What follows a later fragment's header is no header.
        if matches!(network.fragment, Fragment::Later(_)) {
            return Ok(false);
        }
        let length = match network.protocol {
            extension::HOP_BY_HOP | extension::DESTINATION | extension::ROUTING => {
                let start: u32 = frame.load(network.transport).ok_or(Outcome::Malformed)?;
                let [next, words, _, segments_left] = start.to_ne_bytes();
                // On its way to elsewhere first: what its checksum covers is not what its header says.
                if network.protocol == extension::ROUTING && segments_left > 0 {
                    return Err(Outcome::Malformed);
                }
                network.protocol = next;
                (usize::from(words) + 1) * 8
            }
            extension::FRAGMENT => {
                let [start, identification]: [u32; 2] =
                    frame.load(network.transport).ok_or(Outcome::Malformed)?;
                let (start, identification) = (u32::from_be(start), u32::from_be(identification));
                let offset = start as u16;
                network.protocol = (start >> 24) as u8;
                network.fragment = match (offset >> 3, offset & 1) {
                    // An atomic fragment (RFC 6946).
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First(identification),
                    _ => Fragment::Later(identification),
                };
                8
            }
            _ => return Ok(false),
        };
        network.transport += length;
        network.length = network.length.checked_sub(length as u32).ok_or(Outcome::Malformed)?;
        Ok(true)
    }

    type TcpWindow = [u32; 13];
    type UdpWindow = [u32; 10];
    const LEAD: usize = 8;

    #[inline(always)]
    fn put_ends(window: &mut [u32], _: u16, source: Self, destination: Self) {
        for (at, address) in [(0, source), (4, destination)] {
            let whole = u128::from_le_bytes(address);
            for word in 0..4 {
                window[at + word] = ((whole >> (32 * word)) as u32).to_le();
            }
        }
    }

    #[inline(always)]
    fn store_ends(
        frame: impl Frame,
        network: usize,
        _: u16,
        old: [Self; 2],
        new: [Self; 2],
    ) -> Result<(), Outcome> {
        let source = network + Self::SOURCE;
        if new[0] != old[0] {
            frame.store(source, &new[0])?;
        }
        if new[1] != old[1] {
            frame.store(source + size_of::<Self>(), &new[1])?;
        }
        Ok(())
    }

    #[inline(always)]
    fn header_checksum(_: u16, _: Difference) -> u16 {
        0
    }
}

#[inline(always)]
fn read(frame: &impl Bytes, header: &Ipv6Hdr, offset: usize) -> Option<Network<[u8; 16]>> {
    if header.vcf[0] >> 4 != 6 {
        return None;
    }
    let transport = offset + Ipv6Hdr::LEN;
    // 0 in a jumbogram (RFC 2675), which here is what will yet be segmented.
    let length = match usize::from(u16::from_be_bytes(header.payload_len)) {
        0 => frame.length().checked_sub(transport)?,
        length => length,
    };
    Some(Network {
        source: header.src_addr,
        destination: header.dst_addr,
        protocol: header.next_hdr,
        offset,
        transport,
        length: length as u32,
        checksum: 0,
        fragment: Fragment::Whole,
    })
}
