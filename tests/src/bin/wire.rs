//! A delay line: carries every frame between two interfaces of its namespace, a fixed time later.
//!
//! It takes the place of netem, which not every kernel has. Frames keep what the kernel knows about them
//! (segmentation and checksums that are still to be done), so a link with a delay carries what one without does.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use federation_tests::packet_socket;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
        time::TimeSpec,
    },
};

/// The largest frame that segmentation offload makes, its Ethernet header, and the kernel's notes before it.
const LARGEST: usize = 1 << 17;

/// Frames on their way in one direction; what comes beyond is lost, as in any router.
const MOST_WAITING: usize = 10_000;

#[derive(Parser)]
struct Arguments {
    left: String,
    right: String,
    /// How much later a frame arrives
    microseconds: u64,
}

/// One direction: frames come in at one end and wait until they are due at the other.
struct Direction<'ends> {
    from: &'ends OwnedFd,
    to: &'ends OwnedFd,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let delay = Duration::from_micros(arguments.microseconds);
    let [left, right] = [&arguments.left, &arguments.right]
        .map(|name| open(name).with_context(|| format!("open interface {name}")));
    let (left, right) = (left?, right?);
    let mut directions = [Direction::new(&left, &right), Direction::new(&right, &left)];
    let mut frame = vec![0; LARGEST];
    loop {
        let now = Instant::now();
        for direction in &mut directions {
            direction.deliver(now)?;
        }
        let due = directions.iter().filter_map(Direction::next_due).min();
        let patience = due.map(|due| TimeSpec::from(due.saturating_duration_since(now)));
        let mut ends = [&left, &right].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        ppoll(&mut ends, patience, None).context("wait for frames")?;
        for direction in &mut directions {
            direction.accept(delay, &mut frame)?;
        }
    }
}

/// A socket for all frames of an interface, each preceded by the kernel's notes (`struct virtio_net_hdr`).
fn open(name: &str) -> Result<OwnedFd> {
    let all = SockProtocol::EthAll;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let end = socket(AddressFamily::Packet, SockType::Raw, flags, all).context("make a packet socket")?;
    switch_on(&end, libc::PACKET_VNET_HDR).context("ask for the kernel's notes")?;
    // What this end sends must not come back to it.
    switch_on(&end, libc::PACKET_IGNORE_OUTGOING).context("ignore what is sent")?;
    packet_socket::bind(&end, name, libc::ETH_P_ALL)?;
    Ok(end)
}

fn switch_on(end: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = u32::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of one int that outlives the call.
    let set = unsafe {
        libc::setsockopt(end.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length)
    };
    Errno::result(set).map(drop).map_err(io::Error::from)
}

impl<'ends> Direction<'ends> {
    fn new(from: &'ends OwnedFd, to: &'ends OwnedFd) -> Self {
        Self { from, to, waiting: VecDeque::new() }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// Takes in all frames that have come.
    fn accept(&mut self, delay: Duration, frame: &mut [u8]) -> Result<()> {
        loop {
            match recv(self.from.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(length) if self.waiting.len() < MOST_WAITING => {
                    self.waiting.push_back((Instant::now() + delay, frame[..length].to_vec()));
                }
                Ok(_) => {}
                // A link without power: nothing comes until it is back.
                Err(Errno::EAGAIN | Errno::ENETDOWN) => return Ok(()),
                Err(errno) => return Err(errno).context("receive a frame"),
            }
        }
    }

    /// Sends what is due at `now`.
    fn deliver(&mut self, now: Instant) -> Result<()> {
        while let Some((_, frame)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            match send(self.to.as_raw_fd(), &frame, MsgFlags::empty()) {
                // Lost, as on any link: without power, or faster than it carries.
                Ok(_) | Err(Errno::ENETDOWN | Errno::ENOBUFS | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno).context("send a frame"),
            }
        }
        Ok(())
    }
}
