//! This node's network as the kernel tells it over netlink: interfaces, addresses and routes; and the one address that an
//! agent adds to it. Pods' interfaces, which come and go, are the business of `node`.

mod own_address;
mod read;
mod uplink;
mod xdp;

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::{Handle, new_connection};

pub use own_address::{give_addresses, is_ours_to_add, own_addresses, take_addresses};
pub use read::{addresses, interfaces, routes};
pub use uplink::uplink;
pub use xdp::runs_xdp;

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// Somebody has set it up; its cable may be out all the same.
    pub up: bool,
    /// The XDP programs on it, by the numbers that the kernel gave them.
    pub xdp: Vec<u32>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub interface: u32,
    pub address: IpAddr,
    /// As `ip address` shows it, of IPv4 alone.
    pub label: Option<String>,
}

/// A way to a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: IpNet,
    /// Where packets leave; the first way of several.
    pub interface: Option<u32>,
    pub metric: u32,
    pub kind: RouteKind,
    /// Of the table `main`.
    pub is_main: bool,
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Forwards,
    /// Takes them for the node's own: the kernel makes such routes of the node's addresses.
    Local,
    /// Drops or refuses them.
    Swallows,
}

/// A handle that lasts as long as somebody has it.
fn connect() -> Result<Handle> {
    let (connection, handle, _) = new_connection().context("open netlink")?;
    // Ends with the last handle.
    tokio::spawn(connection);
    Ok(handle)
}

#[cfg(test)]
mod tests;
