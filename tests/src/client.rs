//! What a user's program does, from any network namespace: look a name up, ask over HTTP and UDP.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use tokio::{net::UdpSocket, time::timeout};

use crate::lab::Namespace;

/// An answer of a pod's server is a line, not more.
const MOST_BYTES: usize = 4096;

/// Which pod answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub cluster: String,
    pub pod: String,
}

/// Requests `/` over a connection of its own and reads who answered, all within `deadline`.
pub async fn get(from: &Namespace, server: SocketAddr, deadline: Duration) -> Result<Answer> {
    timeout(deadline, request(from, server))
        .await
        .with_context(|| format!("no answer from {server} in {deadline:?}"))?
}

/// Sends one datagram and reads who echoes it, within `deadline`.
pub async fn echo(from: &Namespace, server: SocketAddr, deadline: Duration) -> Result<Answer> {
    let payload = "are you there?";
    let answer = timeout(deadline, exchange(from, server, payload.as_bytes()))
        .await
        .with_context(|| format!("no datagram from {server} in {deadline:?}"))??;
    let answer = String::from_utf8(answer).context("the datagram is not text")?;
    let names =
        answer.strip_suffix(payload).with_context(|| format!("{answer:?} does not echo {payload:?}"))?;
    names.parse()
}

/// Sends one echo request and waits for the answer to it.
///
/// # Errors
/// There is none within `deadline`, or somebody says that there will be none.
pub async fn ping(from: &Namespace, address: IpAddr, deadline: Duration) -> Result<()> {
    // Anybody may ask in this way there, the superuser included only if told so.
    from.set("ipv4/ping_group_range", "0 2147483647")?;
    let (family, protocol, request, answer) = if address.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp, 8, 0)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129)
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = from.run(|| socket(family, SockType::Datagram, flags, protocol))?;
    let socket = socket.context("make a socket for echo requests")?;
    // Without it a host that is unreachable for now is nothing that a socket is told.
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    let socket = std::net::UdpSocket::from(socket);
    let socket = UdpSocket::from_std(socket)?;
    let exchange = async {
        socket.connect((address, 0)).await?;
        // The kernel fills in the checksum and the identifier.
        socket.send(&[&[request, 0, 0, 0, 0, 0, 0, 1][..], b"are you there?"].concat()).await?;
        let mut message = [0; 64];
        let length = socket.recv(&mut message).await?;
        Ok::<_, std::io::Error>((message[0], message[..length].ends_with(b"are you there?")))
    };
    let exchange = timeout(deadline, exchange).await;
    let (kind, same) =
        exchange.with_context(|| format!("no echo from {address} in {deadline:?}"))?.map_err(|error| {
            let unreachable =
                matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable);
            anyhow!("{address} is {}: {error}", if unreachable { "unreachable" } else { "not well" })
        })?;
    ensure!(kind == answer && same, "{address} does not echo: type {kind}");
    Ok(())
}

/// Asks the DNS server at `server` for the IPv4 addresses of `name`.
pub async fn resolve(
    from: &Namespace,
    server: SocketAddr,
    name: &str,
    deadline: Duration,
) -> Result<Vec<Ipv4Addr>> {
    let answer = query(from, server, name, RecordType::A, deadline).await?;
    ensure!(
        answer.metadata.response_code == ResponseCode::NoError,
        "{name}: {}",
        answer.metadata.response_code
    );
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect())
}

/// One DNS question over UDP, and the whole answer to it.
pub async fn query(
    from: &Namespace,
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    deadline: Duration,
) -> Result<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).context("not a DNS name")?;
    question.add_query(Query::query(name, kind));
    let bytes = question.to_vec().context("encode the DNS question")?;
    let answer = timeout(deadline, exchange(from, server, &bytes))
        .await
        .with_context(|| format!("no DNS answer from {server} in {deadline:?}"))??;
    let answer = Message::from_vec(&answer).context("decode the DNS answer")?;
    ensure!(answer.metadata.id == question.metadata.id, "the DNS answer is to another question");
    Ok(answer)
}

async fn request(from: &Namespace, server: SocketAddr) -> Result<Answer> {
    let stream = from.connect(server).await.with_context(|| format!("connect to {server}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/").header("host", server.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("request to {server}"))?;
    ensure!(response.status().is_success(), "{server} answered {}", response.status());
    let body =
        Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(|error| anyhow!(error))?;
    connection.abort();
    std::str::from_utf8(&body.to_bytes()).context("the answer is not text")?.parse()
}

async fn exchange(from: &Namespace, server: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.udp((any, 0).into())?;
    socket.connect(server).await.with_context(|| format!("connect to {server}"))?;
    socket.send(payload).await.with_context(|| format!("send to {server}"))?;
    let mut answer = vec![0; MOST_BYTES];
    let length = socket.recv(&mut answer).await.with_context(|| format!("receive from {server}"))?;
    answer.truncate(length);
    Ok(answer)
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    /// Reads `cluster pod`.
    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let (Some(cluster), Some(pod), None) = (words.next(), words.next(), words.next()) else {
            anyhow::bail!("{text:?} is not `cluster pod`");
        };
        Ok(Self { cluster: cluster.to_owned(), pod: pod.to_owned() })
    }
}
