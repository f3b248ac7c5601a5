//! An XDP program that sends datagrams back where they came from, written by hand: the smallest sender of `XDP_TX` frames.
//!
//! It swaps addresses and ports and touches nothing else, so the checksum that a datagram came with is still its own.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use federation_tests::lab::{
    ClusterSpec, Lab,
    xdp::{self, Instruction},
};
use tokio::time::timeout;

use super::{Duration, PATIENCE, PORT, near};

/// `XDP_TX` of `enum xdp_action`.
const TX: i32 = 3;

const UDP: i32 = 17;
const ETHERNET: i16 = 14;

/// Where a family's header has what.
struct Layout {
    ethertype: u16,
    protocol: i16,
    source: i16,
    /// Of an address.
    length: i16,
}

#[tokio::test]
async fn what_a_node_sends_back_from_xdp_arrives() -> Result<()> {
    for delay in [None, Some(Duration::from_millis(1))] {
        let lab = Lab::new()?;
        let node = lab.cluster(ClusterSpec { delay, ..near() })?.add_node()?;
        let outside = lab.host("outside")?;
        // What the reflector changes must not be left to a card that nothing passes.
        outside.complete_checksums()?;
        for (range, vip, own) in [
            ("198.18.0.0/16", "198.18.0.7", IpAddr::from(outside.address())),
            ("fd98:18::/112", "fd98:18::7", outside.address_v6().into()),
        ] {
            let vip: IpAddr = vip.parse()?;
            lab.route_via(range.parse()?, &node)?;
            xdp::attach(node.namespace(), "eth0", &reflector(vip), &lab.id().bpf_folder())?;
            let socket = outside.namespace().udp((own, 0).into())?;
            socket.connect((vip, PORT)).await?;
            socket.send(b"are you there?").await?;
            let mut answer = [0; 64];
            let length = timeout(PATIENCE, socket.recv(&mut answer))
                .await
                .with_context(|| format!("nothing comes back from {vip}, with a delay of {delay:?}"))??;
            assert_eq!(&answer[..length], b"are you there?");
        }
    }
    Ok(())
}

/// Registers: the context comes in 1, the packet is in 2, its end in 3; 4 and 5 are for work, 0 is the verdict.
fn reflector(family: IpAddr) -> Vec<Instruction> {
    let layout = Layout::of(family);
    let ports = layout.source + 2 * layout.length;
    let mut reflect = swap(Width::Word, 0, 6);
    reflect.extend(swap(Width::Half, 4, 10));
    for word in (0..layout.length).step_by(4) {
        let source = layout.source + word;
        reflect.extend(swap(Width::Word, source, source + layout.length));
    }
    reflect.extend(swap(Width::Half, ports, ports + 2));
    reflect.extend(xdp::verdict(TX));

    let mut program = vec![load(Width::Word, 2, 1, 0), load(Width::Word, 3, 1, 4)];
    program.extend([copy(4, 2), add(4, i32::from(ports) + 4), jump_if_greater(4, 3)]);
    program.extend([load(Width::Half, 5, 2, 12), jump_unless(5, i32::from(layout.ethertype.to_be()))]);
    program.extend([load(Width::Byte, 5, 2, layout.protocol), jump_unless(5, UDP)]);
    // Every jump leads to the end, where packets are passed on.
    let end = program.len() + reflect.len();
    for (index, instruction) in program.iter_mut().enumerate() {
        if instruction.code & CLASS == CLASS_JUMP {
            instruction.offset = i16::try_from(end - index - 1).expect("a short program");
        }
    }
    program.extend(reflect);
    program.extend(xdp::PASS);
    program
}

/// Swaps what is at two places of the packet.
fn swap(width: Width, one: i16, other: i16) -> Vec<Instruction> {
    vec![load(width, 4, 2, one), load(width, 5, 2, other), store(width, 2, 4, other), store(width, 2, 5, one)]
}

impl Layout {
    fn of(family: IpAddr) -> Self {
        if family.is_ipv4() {
            Self { ethertype: 0x0800, protocol: ETHERNET + 9, source: ETHERNET + 12, length: 4 }
        } else {
            Self { ethertype: 0x86dd, protocol: ETHERNET + 6, source: ETHERNET + 8, length: 16 }
        }
    }
}

// The instructions in use, RFC 9669 sections 4 and 5.

const CLASS: u8 = 0x07;
const CLASS_JUMP: u8 = 0x05;

#[derive(Clone, Copy)]
enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

fn load(width: Width, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code: 0x61 | width as u8, registers: (from << 4) | to, offset, immediate: 0 }
}

fn store(width: Width, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code: 0x63 | width as u8, registers: (from << 4) | to, offset, immediate: 0 }
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: 0xbf, registers: (from << 4) | to, offset: 0, immediate: 0 }
}

fn add(register: u8, immediate: i32) -> Instruction {
    Instruction { code: 0x07, registers: register, offset: 0, immediate }
}

fn jump_if_greater(register: u8, than: u8) -> Instruction {
    Instruction { code: 0x2d, registers: (than << 4) | register, offset: 0, immediate: 0 }
}

fn jump_unless(register: u8, immediate: i32) -> Instruction {
    Instruction { code: 0x55, registers: register, offset: 0, immediate }
}
