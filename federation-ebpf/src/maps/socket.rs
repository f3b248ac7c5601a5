//! What is known of sockets in the node's own network, which are translated instead of their packets.

use super::Protocol;
use crate::address::Address;

/// Key of `SOCKETS`: a socket in the node's own network, and one that it talks to. IPv4 addresses are mapped into IPv6
/// (RFC 4291, section 2.5.5.2), for a socket of IPv6 may talk to either family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The kernel's number for the socket, the same that `ss --extended` prints after `sk:`, in hexadecimal there.
    pub cookie: u64,
    pub address: [u8; 16],
    pub protocol: Protocol,
    pub port: u16,
    pub reserved: u16,
}

impl SocketKey {
    #[inline(always)]
    pub fn new<A: Address>(cookie: u64, address: A, port: u16, protocol: Protocol) -> Self {
        Self { cookie, address: address.mapped(), protocol, port, reserved: 0 }
    }
}

/// Value of `SOCKETS`: whom the socket talks to in truth where the key names a VIP, whom it believes to talk to where the
/// key names a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPeer {
    /// The backend's address or the VIP, mapped as in the key.
    pub address: [u8; 16],
    pub backend: u32,
    pub generation: u32,
    /// Index into `FRONTEND_COUNTERS`.
    pub frontend: u32,
    pub port: u16,
    pub reserved: u16,
}

/// The node's own network, whose sockets are translated: a constant of the loaded programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostNetwork {
    /// The kernel's number for its network namespace; 0, which none has, where no socket is to be translated.
    pub cookie: u64,
    /// What picks the slot where a client keeps its backend: all sockets of a node are one client, and nodes differ.
    pub client: u32,
    pub reserved: u32,
}
