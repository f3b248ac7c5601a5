//! The loop that answers over UDP, on a thread of its own: what else the process does delays no answer, and no answer
//! waits for a task to be started.
//!
//! A crowd that waits is taken as one, and answered as one: to wake who asks takes longer than to make an answer.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::{
    io::Interest,
    net,
    runtime::Builder,
    sync::{oneshot, watch},
};
use tracing::debug;

use super::responder::Responder;

/// Larger than any question that is answered with more than an error.
const LARGEST_QUESTION: usize = 4096;

/// Questions that are taken at once: more would be answered sooner together, and the first of them later.
const CROWD: usize = 8;

/// Answers at `socket` until nobody holds the other end of `end` any more. What comes out is why it ended.
///
/// # Errors
/// No thread can be had.
pub fn start(
    socket: UdpSocket,
    responder: Arc<Responder>,
    end: watch::Receiver<()>,
) -> Result<oneshot::Receiver<Result<()>>> {
    socket.set_nonblocking(true).context("prepare a UDP socket")?;
    let runtime = Builder::new_current_thread().enable_io().build().context("start a runtime for DNS")?;
    let (ended, outcome) = oneshot::channel();
    thread::Builder::new()
        .name("dns".to_owned())
        .spawn(move || {
            // Who wanted to know may be gone.
            let _ = ended.send(runtime.block_on(answer_until(socket, &responder, end)));
        })
        .context("start a thread for DNS")?;
    Ok(outcome)
}

async fn answer_until(socket: UdpSocket, responder: &Responder, mut end: watch::Receiver<()>) -> Result<()> {
    let socket = net::UdpSocket::from_std(socket).context("wait for questions")?;
    tokio::select! {
        result = answer(&socket, responder) => result,
        _ = end.changed() => Ok(()),
    }
}

async fn answer(socket: &net::UdpSocket, responder: &Responder) -> Result<()> {
    let mut room = Room { packets: vec![[0; LARGEST_QUESTION]; CROWD], headers: headers(CROWD) };
    let mut answers = Vec::with_capacity(CROWD);
    loop {
        let hear = |question: &[u8], client| {
            answers.extend(responder.over_udp(question, client).map(|answer| (answer, client)));
        };
        match receive(socket, &mut room, hear).await {
            Ok(()) => {}
            // The news of an answer that did not arrive.
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {}
            Err(error) => return Err(error).context("receive questions over UDP"),
        }
        send(socket, &answers).await;
        answers.clear();
    }
}

/// Where a crowd of questions is received.
struct Room {
    packets: Vec<[u8; LARGEST_QUESTION]>,
    headers: MultiHeaders<SockaddrStorage>,
}

fn headers(count: usize) -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(count, None)
}

/// Waits for questions, and takes as many as there are.
async fn receive(
    socket: &net::UdpSocket,
    Room { packets, headers }: &mut Room,
    mut hear: impl FnMut(&[u8], SocketAddr),
) -> io::Result<()> {
    let receive = || {
        let mut slices: Vec<_> = packets.iter_mut().map(|packet| [IoSliceMut::new(packet)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        for message in recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)? {
            let question = message.iovs().next().unwrap_or_default();
            // Nobody can be answered at port 0.
            if let Some(client) = message.address.as_ref().and_then(address).filter(|it| it.port() != 0) {
                hear(question, client);
            }
        }
        Ok(())
    };
    socket.async_io(Interest::READABLE, receive).await
}

/// Whoever cannot be answered asks again.
async fn send(socket: &net::UdpSocket, answers: &[(Vec<u8>, SocketAddr)]) {
    let mut rest = answers;
    while let [(_, client), others @ ..] = rest {
        let send = || {
            let slices: Vec<_> = rest.iter().map(|(answer, _)| [IoSlice::new(answer)]).collect();
            let clients: Vec<_> = rest.iter().map(|(_, client)| Some((*client).into())).collect();
            let (mut headers, flags) = (headers(rest.len()), MsgFlags::MSG_DONTWAIT);
            Ok(sendmmsg(socket.as_raw_fd(), &mut headers, &slices, clients, [], flags)?.count())
        };
        match socket.async_io(Interest::WRITABLE, send).await {
            Ok(sent) => rest = &rest[sent..],
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
