//! The loop that answers over UDP, on a thread of its own: what else the process does delays no answer, and no answer
//! waits for a task to be started.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{
    net,
    runtime::Builder,
    sync::{oneshot, watch},
};
use tracing::debug;

use super::responder::Responder;

/// Larger than any question that is answered with more than an error.
const LARGEST_QUESTION: usize = 4096;

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
    let mut packet = [0; LARGEST_QUESTION];
    loop {
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            // The news of an answer that did not arrive.
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) =>
            {
                continue;
            }
            Err(error) => return Err(error).context("receive questions over UDP"),
        };
        if let Some(response) = responder.over_udp(&packet[..length], client) {
            send(socket, &response, client).await;
        }
    }
}

/// Whoever cannot be answered asks again.
async fn send(socket: &net::UdpSocket, response: &[u8], client: SocketAddr) {
    if client.port() != 0
        && let Err(error) = socket.send_to(response, client).await
    {
        debug!(%client, %error, "an answer could not be sent");
    }
}
