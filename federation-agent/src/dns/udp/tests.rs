use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;
use nix::sys::socket::getsockopt;

use super::*;
use crate::dns::{
    answers::View,
    fixtures::{query, responder},
};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_crowd_is_answered_and_each_has_his_own() -> Result<()> {
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let socket = bound(address)?;
        let server = socket.local_addr()?;
        let clients = (0..3 * CROWD).map(|_| client(server)).collect::<Result<Vec<_>>>()?;
        let packet = |number: usize| {
            let mut packet = query("s.n.f.", RecordType::A, None);
            packet[1] = u8::try_from(number).unwrap();
            packet
        };
        // All wait before anybody answers; one in ten cannot be told anything.
        for (number, client) in clients.iter().enumerate() {
            client.send(&if number % 10 == 0 { Vec::new() } else { packet(number) })?;
        }
        let (_answering, _outcome) = start(socket, Arc::new(responder(View::Internal)))?;
        for (number, client) in clients.iter().enumerate().filter(|(number, _)| number % 10 > 0) {
            let mut answer = [0; 512];
            let length = client.recv(&mut answer)?;
            assert!(length > packet(number).len());
            assert_eq!(answer[1], packet(number)[1]);
        }
    }
    Ok(())
}

#[test]
fn more_may_wait_than_the_system_grants_by_itself() -> Result<()> {
    let (answering, ..) = started()?;
    let usual = bound(Ipv4Addr::LOCALHOST.into())?;
    let sizes =
        |socket: &UdpSocket| Ok::<_, Errno>([getsockopt(socket, RcvBuf)?, getsockopt(socket, SndBuf)?]);
    let (granted, usual) = (sizes(&answering.socket)?, sizes(&usual)?);
    assert!(granted[0] > usual[0] && granted[1] > usual[1], "{granted:?} bytes, {usual:?} by itself");
    Ok(())
}

#[test]
fn it_ends_with_who_holds_it_and_leaves_its_port() -> Result<()> {
    let (answering, mut outcome, server) = started()?;
    let client = client(server)?;
    client.send(&query("s.n.f.", RecordType::A, None))?;
    assert!(client.recv(&mut [0; 512])? > 0, "it waits for the next one");
    drop(answering);
    let deadline = Instant::now() + PATIENCE;
    let outcome = loop {
        match outcome.try_recv() {
            Ok(outcome) => break outcome,
            Err(error) => assert!(Instant::now() < deadline, "it goes on: {error}"),
        }
        thread::yield_now();
    };
    outcome?;
    while UdpSocket::bind(server).is_err() {
        assert!(Instant::now() < deadline, "the port is still taken");
        thread::yield_now();
    }
    Ok(())
}

#[test]
fn a_packet_of_nothing_is_no_end() -> Result<()> {
    let (_answering, _outcome, server) = started()?;
    let client = client(server)?;
    client.send(&[])?;
    client.send(&query("s.n.f.", RecordType::A, None))?;
    assert!(client.recv(&mut [0; 512])? > 0);
    Ok(())
}

fn started() -> Result<(Answering, oneshot::Receiver<Result<()>>, SocketAddr)> {
    let socket = bound(Ipv4Addr::LOCALHOST.into())?;
    let server = socket.local_addr()?;
    let (answering, outcome) = start(socket, Arc::new(responder(View::Internal)))?;
    Ok((answering, outcome, server))
}

fn bound(address: IpAddr) -> Result<UdpSocket> {
    UdpSocket::bind((address, 0)).context("bind to a free port")
}

fn client(server: SocketAddr) -> Result<UdpSocket> {
    let client = bound(server.ip())?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.connect(server)?;
    Ok(client)
}
