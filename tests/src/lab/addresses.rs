//! The lab's address plan: what every link, node and pod is called, in both families at once.
//!
//! | what | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | links | `172.31.0.0/16`, two a link | `fd31::/64`, two a link |
//! | pods of a cluster | `10.<network>.0.0/16` | `fd10:<network>::/32` |
//! | pods of a node | `10.<network>.<node>.0/24` | `fd10:<network>:<node>::/64` |
//!
//! The first address of a node's range is the node's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The link-local addresses at both ends of every link. The kernel makes its own too, but only once it has noticed that
/// the link is up, and without one it solicits no neighbours (`ndisc_send_ns` in net/ipv6/ndisc.c).
///
/// Pods send to this one: a node's address on `lo` would not do as their gateway, since neighbour solicitations are
/// answered for addresses of the interface that they come in through (RFC 4861 section 7.2.3).
pub const ROUTER: &str = "fe80::1";
/// The end that the router is not at.
pub const LEAF: &str = "fe80::2";

const LINKS: Addresses =
    Addresses { v4: Ipv4Addr::new(172, 31, 0, 0), v6: Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 0) };
const MOST_LINKS: u16 = 1 << 15;

/// What somebody has: an address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// A range of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

/// Both ends of a link: the backbone's and the host's.
pub fn link(number: u16) -> Result<[Addresses; 2]> {
    ensure!(number < MOST_LINKS, "all {MOST_LINKS} links of a lab are laid");
    let first = u32::from(number) * 2;
    Ok([LINKS.plus(first), LINKS.plus(first + 1)])
}

/// Where the pods of a cluster are.
pub fn cluster(network: u8) -> Ranges {
    let v6 = Ipv6Addr::new(0xfd10, network.into(), 0, 0, 0, 0, 0, 0);
    Ranges { v4: Ipv4Net::new_assert([10, network, 0, 0].into(), 16), v6: Ipv6Net::new_assert(v6, 32) }
}

/// Where the pods of a node are.
pub fn node(network: u8, node: u8) -> Ranges {
    let v6 = Ipv6Addr::new(0xfd10, network.into(), node.into(), 0, 0, 0, 0, 0);
    Ranges { v4: Ipv4Net::new_assert([10, network, node, 0].into(), 24), v6: Ipv6Net::new_assert(v6, 64) }
}

// === impl Addresses ===

impl Addresses {
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    fn plus(self, number: u32) -> Self {
        Self {
            v4: Ipv4Addr::from_bits(self.v4.to_bits() + number),
            v6: Ipv6Addr::from_bits(self.v6.to_bits() + u128::from(number)),
        }
    }
}

// === impl Ranges ===

impl Ranges {
    pub fn both(self) -> [IpNet; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The address that the range's owner has in it.
    pub fn owner(self) -> Addresses {
        Addresses { v4: self.v4.network(), v6: self.v6.network() }.plus(1)
    }

    /// The addresses of what others may have, `1` first: as many as the smaller family has.
    pub fn others(self) -> impl Iterator<Item = (u32, Addresses)> {
        let last = self.v4.broadcast().to_bits() - self.owner().v4.to_bits();
        (1..last).map(move |number| (number, self.owner().plus(number)))
    }
}
