//! The header of IPv4 (RFC 791).

use network_types::ip::Ipv4Hdr;

use super::{Bytes, Fragment, Ip, Network, number};
use crate::{checksum::Difference, frame::Frame, outcome::Outcome};

/// Version 4, five words: no options.
const PLAIN: u8 = 0x45;
const CHECKSUM: usize = 10;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

impl Ip for [u8; 4] {
    const ETHER_TYPE: u16 = 0x0800_u16.to_be();
    const HEADER: usize = Ipv4Hdr::LEN;
    const SOURCE: usize = 12;
    const ICMP: u8 = number::ICMP;

    #[inline(always)]
    fn plain(frame: &impl Bytes, network: usize) -> Option<Network<Self>> {
        let header: Ipv4Hdr = frame.read(network)?;
        let whole = u16::from_be_bytes(header.frags) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0;
        if header.vihl != PLAIN || !whole {
            return None;
        }
        read(frame, &header, network)
    }

    #[inline(always)]
    fn header(frame: &impl Bytes, network: usize) -> Result<Network<Self>, Outcome> {
        let header: Ipv4Hdr = frame.load(network).ok_or(Outcome::Malformed)?;
        let words = header.vihl & 0x0f;
        if header.vihl >> 4 != 4 || words < 5 {
            return Err(Outcome::Malformed);
        }
        read(frame, &header, network).ok_or(Outcome::Malformed)
    }

    #[inline(always)]
    fn walk(_: &impl Bytes, _: &mut Network<Self>) -> Result<bool, Outcome> {
        Ok(false)
    }

    type TcpWindow = [u32; 8];
    type UdpWindow = [u32; 5];
    const LEAD: usize = 3;

    #[inline(always)]
    fn put_ends(window: &mut [u32], checksum: u16, source: Self, destination: Self) {
        window[0] = (u32::from_be(window[0]) & 0xffff_0000 | u32::from(checksum)).to_be();
        window[1] = u32::from_ne_bytes(source);
        window[2] = u32::from_ne_bytes(destination);
    }

    /// In one go with the checksum, which they follow at once.
    #[inline(always)]
    fn store_ends(
        frame: impl Frame,
        network: usize,
        checksum: u16,
        _: [Self; 2],
        new: [Self; 2],
    ) -> Result<(), Outcome> {
        let [source, destination] = new.map(u32::from_be_bytes);
        let high = |word: u32| ((word >> 16) as u16).to_be();
        let low = |word: u32| (word as u16).to_be();
        let ends = [checksum.to_be(), high(source), low(source), high(destination), low(destination)];
        frame.store(network + CHECKSUM, &ends)
    }

    #[inline(always)]
    fn header_checksum(checksum: u16, change: Difference) -> u16 {
        change.apply(checksum)
    }
}

#[inline(always)]
fn read(frame: &impl Bytes, header: &Ipv4Hdr, offset: usize) -> Option<Network<[u8; 4]>> {
    let length = usize::from(header.vihl & 0x0f) * 4;
    let transport = offset + length;
    // 0 in what is to be segmented and is longer than the field can say (kernel: `iph_set_totlen`).
    let total = match usize::from(u16::from_be_bytes(header.tot_len)) {
        0 => frame.length().checked_sub(offset)?,
        total => total,
    };
    let identification = u32::from(u16::from_be_bytes(header.id));
    let frags = u16::from_be_bytes(header.frags);
    let fragment = match (frags & FRAGMENT_OFFSET, frags & MORE_FRAGMENTS) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First(identification),
        _ => Fragment::Later(identification),
    };
    Some(Network {
        source: header.src_addr,
        destination: header.dst_addr,
        protocol: header.proto,
        offset,
        transport,
        length: total.checked_sub(length)? as u32,
        checksum: u16::from_be_bytes(header.check),
        fragment,
    })
}
