//! Ethernet frames as they should be on the wire: every length and checksum is computed by etherparse.

use std::net::IpAddr;

use etherparse::{
    Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn, IpFragOffset,
    IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
    SingleVlanHeader, TcpHeader, UdpHeader, VlanId, VlanPcp, ether_type, ip_number,
};

use crate::frames::{Body, ETHERNET, Fragment, Frame, PAYLOAD};

/// Bytes of a datagram that its first fragment carries here.
const FIRST: usize = 24;

impl Frame {
    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let own = if self.from.is_ipv4() { ether_type::IPV4 } else { ether_type::IPV6 };
        let mut types: Vec<_> = self.tags.iter().copied().chain([own]).collect();
        let (mut source, mut destination) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        if self.is_back {
            std::mem::swap(&mut source, &mut destination);
        }
        let ethernet = Ethernet2Header { source, destination, ether_type: types.remove(0) };
        let mut bytes = ethernet.to_bytes().to_vec();
        for ether_type in types {
            let tag = SingleVlanHeader {
                pcp: VlanPcp::ZERO,
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(42).expect("12 bits"),
                ether_type,
            };
            bytes.extend(tag.to_bytes());
        }
        bytes.extend(self.packet());
        bytes
    }

    /// Where the IP header begins.
    pub fn network(&self) -> usize {
        ETHERNET + 4 * self.tags.len()
    }

    /// Length of the headers before the transport header.
    pub fn header_length(&self) -> usize {
        self.packet().len() - self.part().len()
    }

    /// From the IP header on.
    pub fn packet(&self) -> Vec<u8> {
        let (number, _) = self.datagram();
        let part = self.part();
        let mut bytes = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.v4_header(from.octets(), to.octets(), number, part.len())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.v6_header(from.octets(), to.octets(), number, part.len())
            }
            mixed => panic!("addresses of two families: {mixed:?}"),
        };
        bytes.extend(part);
        bytes
    }

    /// What of the datagram this fragment carries.
    fn part(&self) -> Vec<u8> {
        let (_, whole) = self.datagram();
        match self.fragment {
            Fragment::Whole | Fragment::Atomic => whole,
            Fragment::First => whole[..FIRST].to_vec(),
            Fragment::Later => whole[FIRST..].to_vec(),
        }
    }

    fn v4_header(&self, source: [u8; 4], destination: [u8; 4], protocol: IpNumber, length: usize) -> Vec<u8> {
        let options = Ipv4Options::try_from(&self.options[..]).expect("whole words of options");
        let mut header = Ipv4Header {
            dscp: IpDscp::ZERO,
            ecn: IpEcn::ZERO,
            total_len: 0,
            identification: self.identification,
            dont_fragment: self.fragment == Fragment::Whole,
            more_fragments: self.fragment == Fragment::First,
            fragment_offset: self.offset(),
            time_to_live: self.hops,
            protocol,
            header_checksum: 0,
            source,
            destination,
            options,
        };
        if !self.says_no_length {
            header.set_payload_len(length).expect("a small payload");
        }
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    }

    fn v6_header(
        &self,
        source: [u8; 16],
        destination: [u8; 16],
        protocol: IpNumber,
        length: usize,
    ) -> Vec<u8> {
        let fragment = (self.fragment != Fragment::Whole).then_some((ip_number::IPV6_FRAG, &[][..]));
        let extensions = self.extensions.iter().map(|(number, bytes)| (*number, &bytes[..])).chain(fragment);
        let (mut next_header, mut behind) = (protocol, Vec::new());
        for (number, bytes) in extensions.rev() {
            let header = if number == ip_number::IPV6_FRAG {
                let header = Ipv6FragmentHeader {
                    next_header,
                    fragment_offset: self.offset(),
                    more_fragments: self.fragment == Fragment::First,
                    identification: self.identification.into(),
                };
                header.to_bytes().to_vec()
            } else {
                Ipv6RawExtHeader::new_raw(next_header, bytes).expect("whole words").to_bytes().to_vec()
            };
            behind.splice(0..0, header);
            next_header = number;
        }
        let all = u16::try_from(behind.len() + length).expect("a small payload");
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: if self.says_no_length { 0 } else { all },
            next_header,
            hop_limit: self.hops,
            source,
            destination,
        };
        [&header.to_bytes()[..], &behind].concat()
    }

    fn offset(&self) -> IpFragOffset {
        let units = if self.fragment == Fragment::Later { FIRST / 8 } else { 0 };
        IpFragOffset::try_new(u16::try_from(units).expect("a small number")).expect("13 bits")
    }

    /// The whole of what follows the IP header, in however many fragments.
    fn datagram(&self) -> (IpNumber, Vec<u8>) {
        match &self.body {
            Body::Tcp(header, payload) => (ip_number::TCP, self.tcp_bytes(header.clone(), payload)),
            Body::Udp { is_checked, payload } => (ip_number::UDP, self.udp_bytes(*is_checked, payload)),
            Body::Sctp => {
                let ports = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
                (ip_number::SCTP, [&ports[..], b"\0\0\0\x07\xde\xad\xbe\xef", PAYLOAD].concat())
            }
            Body::Icmp { kind, code, rest, payload } => self.icmp_bytes(*kind, *code, *rest, payload),
            Body::Error { trouble, about, quoted } => {
                let (kind, code, rest) = trouble.kind(self.from.is_ipv4());
                let mut inside = about.packet();
                inside.truncate(about.header_length().saturating_add(*quoted));
                self.icmp_bytes(kind, code, rest, &inside)
            }
            Body::Other(number) => (*number, PAYLOAD.to_vec()),
        }
    }

    fn tcp_bytes(&self, mut header: TcpHeader, payload: &[u8]) -> Vec<u8> {
        (header.source_port, header.destination_port) = (self.from.port(), self.to.port());
        header.checksum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).expect("it is small")
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).expect("it is small")
            }
            mixed => panic!("addresses of two families: {mixed:?}"),
        };
        [&header.to_bytes()[..], payload].concat()
    }

    fn udp_bytes(&self, is_checked: bool, payload: &[u8]) -> Vec<u8> {
        let mut header = UdpHeader::without_ipv4_checksum(self.from.port(), self.to.port(), payload.len())
            .expect("it is small");
        header.checksum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload).expect("it is small")
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload).expect("it is small")
            }
            mixed => panic!("addresses of two families: {mixed:?}"),
        };
        if !is_checked {
            header.checksum = 0;
        }
        [&header.to_bytes()[..], payload].concat()
    }

    fn icmp_bytes(&self, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> (IpNumber, Vec<u8>) {
        let (type_u8, code_u8, bytes5to8) = (kind, code, rest);
        if let (IpAddr::V6(from), IpAddr::V6(to)) = (self.from.ip(), self.to.ip()) {
            let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
            let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), payload);
            (ip_number::IPV6_ICMP, [&header.expect("it is small").to_bytes()[..], payload].concat())
        } else {
            let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
            let header = Icmpv4Header::with_checksum(kind, payload);
            (ip_number::ICMP, [&header.to_bytes()[..], payload].concat())
        }
    }
}
