//! The families of IP: what the maps of each are called, and how its addresses read elsewhere. The rest of this room is
//! written once for both.

use std::{hash::Hash, net::IpAddr};

use aya::Pod;
use federation_ebpf::{
    address::Address,
    maps::{Backend, FrontendKey},
};

/// An address as the maps of its family hold it.
pub(super) trait Family: Address + Pod + Eq + Hash {
    const FRONTENDS: &str;
    const BACKENDS: &str;
    const FLOWS: &str;
    const FRAGMENTS: &str;

    fn ip(self) -> IpAddr;
}

pub(super) type V4 = [u8; 4];
pub(super) type V6 = [u8; 16];

impl Family for V4 {
    const FRONTENDS: &str = "FRONTENDS_V4";
    const BACKENDS: &str = "BACKENDS_V4";
    const FLOWS: &str = "FLOWS_V4";
    const FRAGMENTS: &str = "FRAGMENTS_V4";

    fn ip(self) -> IpAddr {
        IpAddr::from(self)
    }
}

impl Family for V6 {
    const FRONTENDS: &str = "FRONTENDS_V6";
    const BACKENDS: &str = "BACKENDS_V6";
    const FLOWS: &str = "FLOWS_V6";
    const FRAGMENTS: &str = "FRAGMENTS_V6";

    fn ip(self) -> IpAddr {
        IpAddr::from(self)
    }
}

/// The same key with its address in another form.
pub(super) fn key_at<A, B>(key: &FrontendKey<A>, address: B) -> FrontendKey<B> {
    FrontendKey::new(address, key.port, key.protocol)
}

/// The same backend with its address in another form.
pub(super) fn backend_at<A, B>(backend: &Backend<A>, address: B) -> Backend<B> {
    Backend {
        address,
        generation: backend.generation,
        protocol: backend.protocol,
        port: backend.port,
        cluster: backend.cluster,
        state: backend.state,
        place: backend.place,
        reserved: backend.reserved,
    }
}
