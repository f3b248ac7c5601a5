//! Questions and answers of DNS as they pass, with the time at which the kernel saw them: what a server takes, whoever asks.
//!
//! A load generator's own clock runs on while it sends, and stops when it gets around to an answer: where it uses up its
//! processor, it measures itself.

use std::{
    collections::HashMap,
    io::IoSliceMut,
    mem::size_of_val,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libc::{sock_filter, sock_fprog, tpacket_stats};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimestampns},
        },
        time::TimeSpec,
    },
};

use crate::{lab::Namespace, packet_socket};

/// One question in so many is looked at: a power of two. Numbers of questions are evenly spread.
const ONE_IN: u32 = 16;

/// Bytes that are kept of a packet, and room for what is seen in some seconds at 50 000 questions each.
const KEPT: u32 = 64;
const ROOM: usize = 1 << 26;

/// What no answer counts as: longer than any takes.
const NEVER: Duration = Duration::from_secs(5);

/// Where the headers of a packet have what is asked for: of IPv4 without options, UDP and DNS.
const PROTOCOL: u32 = 9;
const UDP: u32 = 17;
const SOURCE_PORT: u32 = 20;
const DESTINATION_PORT: u32 = 22;
const ID: u32 = 28;

/// Who looks on from when it is made.
pub struct Tap {
    socket: OwnedFd,
    port: u16,
}

impl Tap {
    /// At `port` of a namespace's loopback interface.
    ///
    /// # Errors
    /// There is no such socket to be had.
    pub fn new(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace.run(|| open(port))?.context("look on at the loopback interface")?;
        Ok(Self { socket, port })
    }

    /// From a question's arrival at the server to its answer's arrival at the client, of each that was looked at.
    ///
    /// # Errors
    /// Not all could be kept.
    pub fn latencies(self) -> Result<Vec<Duration>> {
        let mut asked = HashMap::new();
        let mut latencies = Vec::new();
        while let Some((packet, at)) = self.next()? {
            let number = |place: u32| {
                let place = place as usize;
                packet.get(place..place + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes)
            };
            let fields = [SOURCE_PORT, DESTINATION_PORT, ID].map(number);
            let [Some(source), Some(destination), Some(id)] = fields else { continue };
            if destination == self.port {
                asked.insert((source, id), at);
            } else if let Some(since) = asked.remove(&(destination, id)) {
                latencies.push(at.saturating_sub(since));
            }
        }
        let lost = self.lost()?;
        ensure!(lost == 0, "{lost} packets passed unseen");
        latencies.extend(asked.into_values().map(|_| NEVER));
        Ok(latencies)
    }

    fn next(&self) -> Result<Option<([u8; KEPT as usize], Duration)>> {
        let mut packet = [0; KEPT as usize];
        let mut slices = [IoSliceMut::new(&mut packet)];
        let mut notes = cmsg_space!(TimeSpec);
        let received =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut notes), MsgFlags::MSG_DONTWAIT);
        let message = match received {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno).context("receive what passed"),
        };
        let time = message.cmsgs().context("read the kernel's notes")?.find_map(|note| match note {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        Ok(Some((packet, time.context("a packet without a time")?)))
    }

    /// Packets for which there was no room.
    fn lost(&self) -> Result<u32> {
        let mut count = tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = u32::try_from(size_of_val(&count))?;
        // SAFETY: the pointer and the length are those of the counts.
        let got = unsafe {
            let (level, option) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
            libc::getsockopt(self.socket.as_raw_fd(), level, option, (&raw mut count).cast(), &raw mut length)
        };
        Errno::result(got).context("count what was lost")?;
        Ok(count.tp_drops)
    }
}

fn open(port: u16) -> Result<OwnedFd> {
    // Of no protocol, and so deaf, until all is set.
    let end = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&end, RcvBufForce, &ROOM)?;
    setsockopt(&end, ReceiveTimestampns, &true)?;
    let mut program = filter(port);
    let filter = sock_fprog { len: u16::try_from(program.len())?, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which is as long as said.
    let set = unsafe {
        let (option, length) = (libc::SO_ATTACH_FILTER, u32::try_from(size_of_val(&filter))?);
        libc::setsockopt(end.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const filter).cast(), length)
    };
    Errno::result(set).context("attach a filter")?;
    packet_socket::bind(&end, "lo", libc::ETH_P_IP)?;
    Ok(end)
}

/// Keeps one question in [`ONE_IN`] to `port` over UDP, and its answer. The classic instructions of `linux/filter.h`.
fn filter(port: u16) -> [sock_filter; 10] {
    let load = |width, place| instruction(libc::BPF_LD | width | libc::BPF_ABS, 0, 0, place);
    // Each jump's places are counted from behind it.
    let jump = |test, value, yes, no| instruction(libc::BPF_JMP | test | libc::BPF_K, yes, no, value);
    let give = |length| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, length);
    [
        load(libc::BPF_B, PROTOCOL),
        jump(libc::BPF_JEQ, UDP, 0, 6),
        load(libc::BPF_H, SOURCE_PORT),
        jump(libc::BPF_JEQ, port.into(), 2, 0),
        load(libc::BPF_H, DESTINATION_PORT),
        jump(libc::BPF_JEQ, port.into(), 0, 2),
        load(libc::BPF_H, ID),
        jump(libc::BPF_JSET, ONE_IN - 1, 0, 1),
        give(0),
        give(KEPT),
    ]
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: (code & 0xffff) as u16, jt, jf, k }
}
