//! From netlink's messages to values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Error, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};

use super::{Address, Interface, Route, RouteKind, connect};

/// Every interface of this network namespace.
///
/// # Errors
/// Netlink does not answer; so of the others here.
pub async fn interfaces() -> Result<Vec<Interface>> {
    let links = connect()?.link().get().execute().try_collect::<Vec<_>>().await;
    Ok(links.context("list the interfaces")?.iter().filter_map(interface).collect())
}

/// Every address of every interface.
///
/// # Errors
/// As above.
pub async fn addresses() -> Result<Vec<Address>> {
    let addresses = connect()?.address().get().execute().try_collect::<Vec<_>>().await;
    Ok(addresses.context("list the addresses")?.iter().filter_map(address).collect())
}

/// Every route of every table, of both families.
///
/// # Errors
/// As above.
pub async fn routes() -> Result<Vec<Route>> {
    let handle = connect()?;
    let mut routes = Vec::new();
    for all in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        match handle.route().get(all).execute().try_collect::<Vec<_>>().await {
            // A kernel without this family has no routes of it.
            Err(Error::NetlinkError(refusal)) if refusal.raw_code() == -libc::EOPNOTSUPP => {}
            listed => routes.extend(listed.context("list the routes")?.iter().filter_map(route)),
        }
    }
    Ok(routes)
}

fn interface(message: &LinkMessage) -> Option<Interface> {
    let (mut name, mut xdp) = (None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(it) => name = Some(it.clone()),
            LinkAttribute::Xdp(told) => {
                xdp = told
                    .iter()
                    .filter_map(|it| if let LinkXdp::ProgId(id) = it { Some(*id) } else { None })
                    .collect();
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    Some(Interface { index: message.header.index, name: name?, up, xdp })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer, mut label) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(it) => local = Some(*it),
            AddressAttribute::Address(it) => peer = Some(*it),
            AddressAttribute::Label(it) => label = Some(it.clone()),
            _ => {}
        }
    }
    // IPv6 tells only the second of them, unless the interface leads to one peer.
    Some(Address { interface: message.header.index, address: local.or(peer)?, label })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Forwards,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Swallows,
        // Broadcast and multicast, which are no virtual IPs, and what only sends on to another table.
        _ => return None,
    };
    let mut to = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut interface, mut metric, mut table) = (None, 0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(it)) => to = (*it).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(it)) => to = (*it).into(),
            RouteAttribute::Oif(it) => interface = Some(*it),
            RouteAttribute::MultiPath(ways) => interface = ways.first().map(|way| way.interface_index),
            RouteAttribute::Priority(it) => metric = *it,
            RouteAttribute::Table(it) => table = *it,
            _ => {}
        }
    }
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { to, interface, metric, kind, is_main: table == u32::from(RouteHeader::RT_TABLE_MAIN) })
}
