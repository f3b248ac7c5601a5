//! The server in a lab's pods: says over HTTP and UDP, IPv4 and IPv6, which pod of which cluster it is.
//!
//! SIGUSR1 makes it slow: it takes connections at once and answers each request late. SIGUSR2 makes it quick again.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{Router, routing::get};
use clap::Parser;
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

/// How late a slow server answers.
const LATE: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Arguments {
    /// Name of the cluster
    cluster: String,
    /// Name of the pod
    pod: String,
    /// Port to listen on, for both protocols
    port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { cluster, pod, port } = Arguments::parse();
    let names = format!("{cluster} {pod}\n");
    // Takes IPv4 too (RFC 3493 section 3.7). Answers come from the address that they were asked at, since a pod has one
    // address of each family.
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}/TCP"))?;
    let socket = UdpSocket::bind(address).await.with_context(|| format!("listen on {address}/UDP"))?;

    let (slow, pace) = watch::channel(false);
    let page = names.clone();
    let answer = async move || {
        let late = *pace.borrow();
        if late {
            sleep(LATE).await;
        }
        page
    };
    let http = axum::serve(listener, Router::new().route("/", get(answer)));
    tokio::try_join!(async { http.await.context("serve HTTP") }, echo(&socket, &names), obey(slow))?;
    Ok(())
}

/// Changes the pace as signals say.
async fn obey(slow: watch::Sender<bool>) -> Result<()> {
    let mut slower = signal(SignalKind::user_defined1()).context("listen for SIGUSR1")?;
    let mut quicker = signal(SignalKind::user_defined2()).context("listen for SIGUSR2")?;
    loop {
        let late = tokio::select! {
            _ = slower.recv() => true,
            _ = quicker.recv() => false,
        };
        slow.send_replace(late);
    }
}

/// Sends every datagram back behind the names.
async fn echo(socket: &UdpSocket, names: &str) -> Result<()> {
    let mut datagram = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, sender) = socket.recv_from(&mut datagram).await.context("receive a datagram")?;
        let answer = [names.as_bytes(), &datagram[..length]].concat();
        // A sender that is gone, or unreachable since its power was cut, is not this server's end.
        let _ = socket.send_to(&answer, sender).await;
    }
}
