//! The loop that answers over UDP, on a thread of its own: what else the process does delays no answer, and no answer
//! waits for a task to be started.
//!
//! A crowd that waits is taken as one, and answered as one: to wake who asks takes longer than to make an answer.

use std::{
    array,
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, MultiHeaders, Shutdown, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, shutdown,
        sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce},
    },
};
use tokio::sync::oneshot;
use tracing::debug;

use super::{packet_cache::PacketCache, responder::Responder};

/// Larger than any question that is answered with more than an error.
const LARGEST_QUESTION: usize = 4096;

/// Questions that are taken at once: more would be answered sooner together, and the first of them later.
const CROWD: usize = 32;

/// Bytes of questions that may wait, and of answers, as the kernel counts them: some thousand, while this thread has no
/// processor for some milliseconds, or the kernel looks for neighbours that are not there. Its own default is less than
/// 300; without the capability `NET_ADMIN` it grants twice as many.
const WAITING: usize = 1 << 21;

/// Answers at a socket for as long as this lives.
pub struct Answering {
    socket: Arc<UdpSocket>,
    is_over: Arc<AtomicBool>,
}

/// Answers at `socket` from now on. What comes out is why it ended.
///
/// # Errors
/// No thread can be had, or the socket is none.
pub fn start(
    socket: UdpSocket,
    responder: Arc<Responder>,
) -> Result<(Answering, oneshot::Receiver<Result<()>>)> {
    // Beyond what the system lets everybody have, where we may.
    setsockopt(&socket, RcvBufForce, &WAITING)
        .or_else(|_| setsockopt(&socket, RcvBuf, &WAITING))
        .context("make room for questions that wait")?;
    setsockopt(&socket, SndBufForce, &WAITING)
        .or_else(|_| setsockopt(&socket, SndBuf, &WAITING))
        .context("make room for answers that wait")?;
    let answering = Answering { socket: Arc::new(socket), is_over: Arc::default() };
    let (ended, outcome) = oneshot::channel();
    let (socket, is_over) = (Arc::clone(&answering.socket), Arc::clone(&answering.is_over));
    thread::Builder::new()
        .name("dns".to_owned())
        .spawn(move || {
            // Who wanted to know may be gone.
            let _ = ended.send(answer(&socket, PacketCache::new(responder), &is_over));
        })
        .context("start a thread for DNS")?;
    Ok((answering, outcome))
}

fn answer(socket: &UdpSocket, mut cache: PacketCache, is_over: &AtomicBool) -> Result<()> {
    let mut questions = Questions { packets: vec![[0; LARGEST_QUESTION]; CROWD], headers: headers() };
    let mut answers = Vec::with_capacity(CROWD);
    let mut headers = headers();
    while !is_over.load(Ordering::Acquire) {
        let hear = |question: &[u8], client: SockaddrStorage| {
            // Nobody can be answered at port 0.
            let address = address(&client).filter(|it| it.port() != 0);
            let answer = address.and_then(|client| cache.over_udp(question, client));
            answers.extend(answer.map(|answer| (answer, client)));
        };
        match receive(socket, &mut questions, hear) {
            // The news of an answer that did not arrive, or of a signal.
            Ok(()) | Err(Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receive questions over UDP"),
        }
        send(socket, &mut headers, &answers);
        answers.clear();
    }
    Ok(())
}

/// Where a crowd of questions is received.
struct Questions {
    packets: Vec<[u8; LARGEST_QUESTION]>,
    headers: MultiHeaders<SockaddrStorage>,
}

fn headers() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(CROWD, None)
}

/// Waits for a question, and takes as many more as there are.
fn receive(
    socket: &UdpSocket,
    Questions { packets, headers }: &mut Questions,
    mut hear: impl FnMut(&[u8], SockaddrStorage),
) -> nix::Result<()> {
    let mut slices: Vec<_> = packets.iter_mut().map(|packet| [IoSliceMut::new(packet)]).collect();
    let flags = MsgFlags::MSG_WAITFORONE;
    for message in recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)? {
        if let (Some(question), Some(client)) = (message.iovs().next(), message.address) {
            hear(question, client);
        }
    }
    Ok(())
}

/// Whoever cannot be answered asks again.
fn send(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    answers: &[(Vec<u8>, SockaddrStorage)],
) {
    let mut rest = answers;
    while let [(_, client), others @ ..] = rest {
        let slices: [_; CROWD] =
            array::from_fn(|place| [IoSlice::new(rest.get(place).map_or(&[], |(answer, _)| answer))]);
        let clients: [_; CROWD] = array::from_fn(|place| rest.get(place).map(|(_, client)| *client));
        let (slices, clients) = (&slices[..rest.len()], &clients[..rest.len()]);
        match sendmmsg(socket.as_raw_fd(), headers, slices, clients, [], MsgFlags::empty()) {
            Ok(sent) => rest = &rest[sent.count()..],
            Err(error) => {
                debug!(%client, %error, "an answer could not be sent");
                rest = others;
            }
        }
    }
}

fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

// === impl Answering ===

impl Drop for Answering {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes the thread, though it says that there is no connection to shut down (`inet_shutdown` of the kernel's
        // net/ipv4/af_inet.c).
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
