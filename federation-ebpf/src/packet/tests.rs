use std::vec::Vec;

use super::{icmp::Message, *};
use crate::outcome::Outcome::Malformed;

struct Frame(Vec<u8>);

impl Bytes for Frame {
    fn read<T: Plain>(&self, at: usize) -> Option<T> {
        let bytes = self.0.get(at..at + size_of::<T>())?;
        // SAFETY: the slice holds a whole T, and a plain T may be read from any bytes anywhere.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn load<T: Plain>(&self, at: usize) -> Option<T> {
        self.read(at)
    }

    fn length(&self) -> usize {
        self.0.len()
    }
}

type V4 = [u8; 4];
type V6 = [u8; 16];

const CLIENT: V4 = [10, 8, 1, 2];
const VIP: V4 = [198, 18, 0, 1];
const CLIENT_V6: V6 = [0xfd, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
const VIP_V6: V6 = [0xfd, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ETHERNET: usize = 14;

/// Ports 40000 to 80, and what else the protocol's header has.
fn header(protocol: u8) -> Vec<u8> {
    let length = match protocol {
        number::TCP => 20,
        number::SCTP => 12,
        _ => 8,
    };
    let mut header = std::vec![0x9c, 0x40, 0, 80];
    header.resize(length, 0);
    if protocol == number::TCP {
        header[13] = Flags::SYN;
    }
    header
}

fn ethernet(tags: &[u16], ether_type: u16) -> Vec<u8> {
    let mut bytes = std::vec![2; 12];
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 42]);
    }
    bytes.extend(ether_type.to_be_bytes());
    bytes
}

fn v4(protocol: u8, options: u8, payload: &[u8]) -> Frame {
    let mut bytes = ethernet(&[], 0x0800);
    let total = 20 + options * 4 + u8::try_from(payload.len()).unwrap();
    bytes.extend([0x45 + options, 0, 0, total, 0x12, 0x34, 0x40, 0, 64, protocol, 0xab, 0xcd]);
    bytes.extend(CLIENT);
    bytes.extend(VIP);
    bytes.extend(std::vec![1; usize::from(options) * 4]);
    bytes.extend(payload);
    Frame(bytes)
}

/// `extensions` come as they are, `first` is the number of the first of them.
fn v6(first: u8, extensions: &[u8], payload: &[u8]) -> Frame {
    let mut bytes = ethernet(&[], 0x86dd);
    let length = u16::try_from(extensions.len() + payload.len()).unwrap();
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend(CLIENT_V6);
    bytes.extend(VIP_V6);
    bytes.extend(extensions);
    bytes.extend(payload);
    Frame(bytes)
}

fn header_of<A: Ip>(frame: &Frame) -> Result<Network<A>, Outcome> {
    let mut header = MaybeUninit::uninit();
    network(frame, ETHERNET, &mut header)?;
    // SAFETY: read without an error, so it was written.
    Ok(unsafe { header.assume_init() })
}

fn read<A: Ip>(frame: &Frame) -> Result<Packet<A>, Outcome> {
    let network = header_of(frame)?;
    transport(frame, &network, protocol(network.protocol).expect("a protocol with ports"))
}

#[test]
fn both_ways_of_reading_agree_on_plain_packets() {
    for number in [number::TCP, number::UDP] {
        let frame = v4(number, 0, &header(number));
        let packet = plain::<V4>(&frame, ETHERNET).unwrap();
        assert_eq!(Ok(packet), read(&frame));
        assert_eq!(packet.key, FlowKey::new(CLIENT, 40000, VIP, 80, protocol(number).unwrap()));
        assert_eq!(packet.checksum, 0xabcd);
        assert_eq!(destination(&frame, ETHERNET), Some(VIP));

        let frame = v6(number, &[], &header(number));
        let packet = plain::<V6>(&frame, ETHERNET).unwrap();
        assert_eq!(Ok(packet), read(&frame));
        assert_eq!(packet.key, FlowKey::new(CLIENT_V6, 40000, VIP_V6, 80, protocol(number).unwrap()));
        assert_eq!(destination(&frame, ETHERNET), Some(VIP_V6));
    }
}

#[test]
fn options_and_extension_headers_are_walked_past() {
    for number in [number::TCP, number::UDP, number::SCTP] {
        for options in [1, 10] {
            let frame = v4(number, options, &header(number));
            assert_eq!(plain::<V4>(&frame, ETHERNET), None);
            let packet = read::<V4>(&frame).unwrap();
            assert_eq!(packet.transport, ETHERNET + 20 + usize::from(options) * 4);
            assert_eq!(packet.key.source_port, 40000);
            assert_eq!(packet.length as usize, header(number).len());
        }
        // Hop-by-hop options of 16 bytes, then destination options of 8.
        let extensions = [&[60, 1][..], &[0; 14], &[number, 0], &[0; 6]].concat();
        let frame = v6(0, &extensions, &header(number));
        assert_eq!(plain::<V6>(&frame, ETHERNET), None);
        let packet = read::<V6>(&frame).unwrap();
        assert_eq!(packet.transport, ETHERNET + 40 + 24);
        assert_eq!(packet.key.source_port, 40000);
        assert_eq!(packet.length as usize, header(number).len());
    }
}

#[test]
fn fragments_are_told_apart() {
    for (offset, expected, has_ports) in [
        (0x0000_u16, Fragment::Whole, true),
        (0x2000, Fragment::First(0x1234), true),
        (0x2010, Fragment::Later(0x1234), false),
        (0x0010, Fragment::Later(0x1234), false),
    ] {
        let mut frame = v4(number::UDP, 0, &header(number::UDP));
        frame.0[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&offset.to_be_bytes());
        let packet = read::<V4>(&frame).unwrap();
        assert_eq!(packet.fragment, expected);
        assert_eq!(packet.key.destination_port == 80, has_ports);
        assert_eq!(plain::<V4>(&frame, ETHERNET).is_some(), expected == Fragment::Whole);
    }
    for (offset, expected) in [
        (0x0000_u16, Fragment::Whole),
        (0x0001, Fragment::First(0x0102_0304)),
        (0x0080, Fragment::Later(0x0102_0304)),
    ] {
        let [high, low] = offset.to_be_bytes();
        let frame = v6(44, &[number::UDP, 0, high, low, 1, 2, 3, 4], &header(number::UDP));
        let packet = read::<V6>(&frame).unwrap();
        assert_eq!(packet.fragment, expected);
        assert_eq!(packet.transport, ETHERNET + 48);
    }
}

#[test]
fn tags_are_walked_past_up_to_two() {
    for (tags, expected) in [
        (&[][..], Some(V4::ETHER_TYPE)),
        (&[0x8100], Some(V4::ETHER_TYPE)),
        (&[0x88a8, 0x8100], Some(V4::ETHER_TYPE)),
        (&[0x88a8, 0x8100, 0x8100], Some(0x8100_u16.to_be())),
    ] {
        let frame = Frame(ethernet(tags, 0x0800));
        let (ether_type, network) = link(&frame).unwrap();
        assert_eq!(Some(ether_type), expected);
        assert_eq!(network, 14 + 4 * tags.len().min(2));
    }
}

#[test]
fn a_cut_at_any_length_is_no_packet() {
    for number in [number::TCP, number::UDP, number::SCTP] {
        let extensions = [number, 0, 0, 0, 0, 0, 0, 0];
        for whole in [
            v4(number, 0, &header(number)),
            v4(number, 3, &header(number)),
            v6(number, &[], &header(number)),
            v6(60, &extensions, &header(number)),
        ] {
            let version = whole.0[ETHERNET] >> 4;
            for length in 0..whole.0.len() {
                let cut = Frame(whole.0[..length].to_vec());
                let (plain, full) = if version == 4 {
                    (plain::<V4>(&cut, ETHERNET).is_some(), read::<V4>(&cut).err())
                } else {
                    (plain::<V6>(&cut, ETHERNET).is_some(), read::<V6>(&cut).err())
                };
                assert!(!plain, "IPv{version} cut at {length}");
                assert_eq!(full, Some(Malformed), "IPv{version} cut at {length}");
            }
        }
    }
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    for (at, byte, why) in [
        (0, 0x44, "header shorter than the least"),
        (0, 0x65, "version 6"),
        (3, 39, "total length short of the headers"),
        (3, 19, "total length short of its own header"),
    ] {
        let mut frame = v4(number::TCP, 0, &header(number::TCP));
        frame.0[ETHERNET + at] = byte;
        assert_eq!(read::<V4>(&frame), Err(Malformed), "{why}");
        assert_eq!(plain::<V4>(&frame, ETHERNET), None, "{why}");
    }
    let mut frame = v6(number::TCP, &[], &header(number::TCP));
    frame.0[ETHERNET] = 0x40;
    assert_eq!(read::<V6>(&frame), Err(Malformed), "version 4");
    let routed = v6(43, &[number::TCP, 0, 0, 1, 0, 0, 0, 0], &header(number::TCP));
    assert_eq!(read::<V6>(&routed), Err(Malformed), "on its way to elsewhere");
    let endless: Vec<u8> = (0..10).flat_map(|_| [60, 0, 0, 0, 0, 0, 0, 0]).collect();
    assert_eq!(read::<V6>(&v6(60, &endless, &[])), Err(Malformed), "too many extension headers");
}

#[test]
fn what_is_to_be_segmented_is_as_long_as_the_frame() {
    let mut frame = v4(number::TCP, 0, &header(number::TCP));
    frame.0[ETHERNET + 2..ETHERNET + 4].fill(0);
    assert_eq!(plain::<V4>(&frame, ETHERNET).unwrap().length, 20);
    let mut frame = v6(number::TCP, &[], &header(number::TCP));
    frame.0[ETHERNET + 4..ETHERNET + 6].fill(0);
    assert_eq!(plain::<V6>(&frame, ETHERNET).unwrap().length, 20);
}

#[test]
fn icmp_messages_are_told_apart() {
    for (kind, expected) in [
        (8, Message::EchoRequest { answer: 0 }),
        (0, Message::Other),
        (3, Message::Error),
        (11, Message::Error),
        (13, Message::Other),
    ] {
        let frame = v4(number::ICMP, 0, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        let network = header_of::<V4>(&frame).unwrap();
        assert_eq!(icmp::message(&frame, &network), Ok(expected), "{kind}");
    }
    for (kind, expected) in [
        (128, Message::EchoRequest { answer: 129 }),
        (129, Message::Other),
        (1, Message::Error),
        (2, Message::Error),
        (135, Message::Other),
    ] {
        let frame = v6(number::ICMPV6, &[], &[kind, 0, 0, 0, 0, 0, 0, 0]);
        let network = header_of::<V6>(&frame).unwrap();
        assert_eq!(icmp::message(&frame, &network), Ok(expected), "{kind}");
    }
    let short = v4(number::ICMP, 0, &[8, 0, 0, 0, 0, 0, 0]);
    let network = header_of::<V4>(&short).unwrap();
    assert_eq!(icmp::message(&short, &network), Err(Malformed));
}
