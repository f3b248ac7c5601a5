//! The kernel's list of sockets, and its way to end one (netlink, `sock_diag(7)`; `linux/inet_diag.h`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use federation_ebpf::{
    address::Address as _,
    maps::{Protocol, SocketKey},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `AF_INET` and `AF_INET6`, as wide as they stand in messages.
const INET: u8 = 2;
const INET6: u8 = 10;

/// Flags of `linux/netlink.h`, likewise.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// All states that a socket with a peer may be in: by `enum` of `net/tcp_states.h`, without `TCP_CLOSE`, `TCP_LISTEN` and
/// the two that belong to no process. A UDP socket is in the first or in none.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

const HEADER: usize = size_of::<libc::nlmsghdr>();
/// `struct inet_diag_sockid`: ports, addresses, interface and, last, the cookie as two words, the lower half first. What
/// comes second of ports and addresses is the peer's.
const IDENTITY: usize = 48;
const LOCAL_PORT: usize = 0;
const PEER_PORT: usize = 2;
const LOCAL_ADDRESS: usize = 4;
const PEER_ADDRESS: usize = 20;
const COOKIE: usize = 40;
/// Where it begins in `struct inet_diag_req_v2` and in `struct inet_diag_msg`.
const IDENTITY_ASKED: usize = 8;
const IDENTITY_TOLD: usize = 4;
/// The header and `struct inet_diag_req_v2`.
const REQUEST_LENGTH: u32 = 72;
const _: () = assert!(REQUEST_LENGTH as usize == HEADER + IDENTITY_ASKED + IDENTITY);
/// What the kernel sends at once at most.
const ANSWER: usize = 32 * 1024;

/// A conversation with the kernel about sockets in this thread's network.
pub(super) struct Diag {
    socket: OwnedFd,
}

/// A socket with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    family: u8,
    protocol: Protocol,
    identity: [u8; IDENTITY],
}

/// A message of the kernel's.
enum Told<'a> {
    Socket(&'a [u8]),
    /// How a command went.
    Outcome(io::Result<()>),
    /// The list ends.
    End,
}

impl Diag {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
        Ok(Self { socket })
    }

    /// Every socket of a protocol with a peer.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn connected(&self, protocol: Protocol) -> io::Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        for family in [INET, INET6] {
            self.send(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, family, protocol, &[0; IDENTITY])?;
            self.listen(|told| match told {
                Told::Socket(body) => {
                    sockets.extend(Socket::read(body, protocol));
                    Ok(true)
                }
                Told::Outcome(outcome) => outcome.map(|()| true),
                Told::End => Ok(false),
            })?;
        }
        Ok(sockets)
    }

    /// Ends a socket as if its peer had reset it. One that is gone already is as well.
    ///
    /// # Errors
    /// The kernel refuses, or has no such command (`CONFIG_INET_DIAG_DESTROY`).
    pub(super) fn end(&self, socket: &Socket) -> io::Result<()> {
        self.send(SOCK_DESTROY, REQUEST | ACKNOWLEDGE, socket.family, socket.protocol, &socket.identity)?;
        let ended = self.listen(|told| match told {
            Told::Outcome(outcome) => outcome.map(|()| false),
            Told::Socket(_) | Told::End => Ok(true),
        });
        match ended {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            ended => ended,
        }
    }

    fn send(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        protocol: Protocol,
        identity: &[u8; IDENTITY],
    ) -> io::Result<()> {
        let request = request(kind, flags, family, protocol, identity);
        sendto(self.socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Hears messages until one is the last.
    fn listen(&self, mut goes_on: impl FnMut(Told<'_>) -> io::Result<bool>) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((told, next)) = next(rest)? {
                if !goes_on(told)? {
                    return Ok(());
                }
                rest = next;
            }
        }
    }
}

impl Socket {
    /// Of the body of a `struct inet_diag_msg`.
    fn read(body: &[u8], protocol: Protocol) -> Option<Self> {
        let family = *body.first()?;
        let identity: [u8; IDENTITY] = *body.get(IDENTITY_TOLD..)?.first_chunk()?;
        Some(Self { family, protocol, identity })
    }

    /// The socket and its peer, as `SOCKETS` has them.
    pub(super) fn key(&self) -> SocketKey {
        let word = |at: usize| {
            self.identity[at..].first_chunk().map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)))
        };
        let (low, high) = (word(COOKIE), word(COOKIE + 4));
        SocketKey::new(high << 32 | low, self.address(PEER_ADDRESS), self.port(PEER_PORT), self.protocol)
    }

    /// Its own address and port.
    pub(super) fn local(&self) -> SocketAddr {
        let address = IpAddr::from(self.address(LOCAL_ADDRESS)).to_canonical();
        SocketAddr::new(address, self.port(LOCAL_PORT))
    }

    /// IPv4 mapped into IPv6.
    fn address(&self, at: usize) -> [u8; 16] {
        let bytes = &self.identity[at..];
        if self.family == INET {
            bytes.first_chunk::<4>().copied().unwrap_or_default().mapped()
        } else {
            bytes.first_chunk().copied().unwrap_or_default()
        }
    }

    fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.identity[at], self.identity[at + 1]])
    }
}

fn request(
    kind: u16,
    flags: u16,
    family: u8,
    protocol: Protocol,
    identity: &[u8; IDENTITY],
) -> [u8; REQUEST_LENGTH as usize] {
    let mut request = [0; REQUEST_LENGTH as usize];
    request[..4].copy_from_slice(&REQUEST_LENGTH.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    let body = &mut request[HEADER..];
    body[0] = family;
    body[1] = protocol as u8;
    body[4..8].copy_from_slice(&CONNECTED.to_ne_bytes());
    body[IDENTITY_ASKED..].copy_from_slice(identity);
    request
}

/// The first message, and what follows it.
fn next(messages: &[u8]) -> io::Result<Option<(Told<'_>, &[u8])>> {
    if messages.is_empty() {
        return Ok(None);
    }
    let cut_off = || io::Error::other("the kernel's answer is cut off");
    let length = messages.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or_else(cut_off)?;
    let body = messages.get(HEADER..length as usize).ok_or_else(cut_off)?;
    let kind = u16::from_ne_bytes([messages[4], messages[5]]);
    let told = match i32::from(kind) {
        libc::NLMSG_DONE => Told::End,
        libc::NLMSG_ERROR => {
            let code = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or_else(cut_off)?;
            Told::Outcome(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) })
        }
        _ => Told::Socket(body),
    };
    // Messages begin at multiples of four bytes; behind the last one there may be less than that.
    let end = (length as usize).next_multiple_of(libc::NLA_ALIGNTO as usize).min(messages.len());
    Ok(Some((told, &messages[end..])))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_socket_is_found_and_ended() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let [local, peer] = [client.local_addr(), client.peer_addr()].map(|end| end.unwrap().port());
            let ports = [local.to_be_bytes(), peer.to_be_bytes()].concat();
            let diag = Diag::new().unwrap();
            let sockets = diag.connected(Protocol::Tcp).unwrap();
            let found =
                sockets.iter().find(|socket| socket.identity.starts_with(&ports)).expect("the client's");
            diag.end(found).unwrap();
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            diag.end(found).expect("gone is as well");
        }
    }
}
