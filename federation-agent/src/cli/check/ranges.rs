//! Whether a range of virtual IPs is nobody else's: programs take every packet to it, whoever it was for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::report::Row;
use crate::{
    api::Cluster,
    dataplane,
    network::{self, Address, Route, RouteKind},
};

/// Routes to as much as this of the world, or more, are ways out like the default route.
const SHORTEST_V4: u8 = 1;
const SHORTEST_V6: u8 = 3;

/// `clusters` where they are known; `service` is an address of this cluster's Service range.
pub(super) async fn rows(
    ranges: &[IpNet],
    clusters: Option<&[Cluster]>,
    service: Option<IpAddr>,
) -> Vec<Row> {
    if ranges.is_empty() {
        return vec![Row::skip("VIP range", "no --vip-range is given")];
    }
    let (routes, addresses) = match tokio::try_join!(network::routes(), network::addresses()) {
        Ok(found) => found,
        Err(error) => return vec![Row::fail("VIP range", format!("{error:#}"), "")],
    };
    ranges.iter().map(|range| row(*range, &routes, &addresses, clusters, service)).collect()
}

fn row(
    range: IpNet,
    routes: &[Route],
    addresses: &[Address],
    clusters: Option<&[Cluster]>,
    service: Option<IpAddr>,
) -> Row {
    let what = format!("VIP range {range}");
    let clash = with_addresses(range, addresses)
        .or_else(|| with_routes(range, routes))
        .or_else(|| with_networks(range, clusters.unwrap_or_default()))
        .or_else(|| with_services(range, service));
    match clash {
        Some(clash) => Row::fail(
            what,
            clash,
            "choose a range that is nobody's, as in 198.18.0.0/15 or a /112 of fd00::/8, and the same in the whole \
             federation",
        ),
        None if clusters.is_some() => Row::pass(what, "nobody else's here, nor of a member's networks"),
        None => Row::pass(what, "nobody else's here; the members' networks are not known"),
    }
}

fn with_addresses(range: IpNet, addresses: &[Address]) -> Option<String> {
    let found = addresses.iter().find(|it| range.contains(&it.address))?;
    Some(format!("{} of it is an address of this node ({})", found.address, name(found.interface)))
}

fn with_routes(range: IpNet, routes: &[Route]) -> Option<String> {
    let found = routes.iter().find(|route| route.kind != RouteKind::Swallows && clashes(range, route.to))?;
    let by = found.interface.map_or_else(String::new, |interface| format!(" by {}", name(interface)));
    Some(format!("the node has a route to {}{by}", found.to))
}

fn with_networks(range: IpNet, clusters: &[Cluster]) -> Option<String> {
    clusters.iter().find_map(|cluster| {
        let network = cluster.spec.networks.iter().find(|network| overlap(range, **network))?;
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        Some(format!("the Cluster {name} has {network} among its networks"))
    })
}

fn with_services(range: IpNet, service: Option<IpAddr>) -> Option<String> {
    let address = service.filter(|address| range.contains(address))?;
    Some(format!("this cluster gives its Services addresses of it, {address} is one"))
}

fn clashes(range: IpNet, to: IpNet) -> bool {
    let shortest = if to.addr().is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
    to.prefix_len() > shortest && overlap(range, to)
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn name(interface: u32) -> String {
    dataplane::interface_name(interface).unwrap_or_else(|| format!("interface {interface}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{ClusterSpec, CredentialsRef, Reachability},
        cli::check::report::Verdict,
    };

    fn route(to: &str, kind: RouteKind) -> Route {
        Route { to: to.parse().unwrap(), interface: Some(1), metric: 0, kind, is_main: true }
    }

    #[test]
    fn a_range_clashes_with_routes_within_it_and_around_it_but_not_with_ways_out() {
        for (range, to, kind, clashes) in [
            ("198.18.0.0/16", "198.18.4.0/24", RouteKind::Forwards, true),
            ("198.18.0.0/16", "198.0.0.0/8", RouteKind::Forwards, true),
            ("198.18.0.0/16", "198.18.0.7/32", RouteKind::Local, true),
            ("198.18.0.0/16", "198.18.0.0/16", RouteKind::Swallows, false),
            ("198.18.0.0/16", "198.19.0.0/16", RouteKind::Forwards, false),
            ("198.18.0.0/16", "0.0.0.0/0", RouteKind::Forwards, false),
            ("198.18.0.0/16", "128.0.0.0/1", RouteKind::Forwards, false),
            ("fd98::/112", "fd98::/64", RouteKind::Forwards, true),
            ("fd98::/112", "fe80::/64", RouteKind::Forwards, false),
            ("fd98::/112", "::/0", RouteKind::Forwards, false),
        ] {
            let row = row(range.parse().unwrap(), &[route(to, kind)], &[], None, None);
            assert_eq!(row.result == Verdict::Fail, clashes, "{row:?}");
        }
    }

    #[test]
    fn a_range_clashes_with_addresses_networks_and_services() {
        let range = "198.18.0.0/16".parse().unwrap();
        let address = |ip: &str| Address { interface: 1, address: ip.parse().unwrap(), label: None };
        let cluster = |network: &str| {
            let spec = ClusterSpec {
                server: "https://203.0.113.7:6443".to_owned(),
                credentials_ref: CredentialsRef { name: "c".to_owned() },
                provider: String::new(),
                region: "r".to_owned(),
                zones: vec!["z".to_owned()],
                reachability: Reachability::Pod,
                networks: vec![network.parse().unwrap()],
            };
            Cluster::new("there", spec)
        };
        let fails = |ip: &str, network: &str, service: &str| {
            let row = row(range, &[], &[address(ip)], Some(&[cluster(network)]), service.parse().ok());
            (row.result == Verdict::Fail).then_some(row.found)
        };
        assert_eq!(fails("10.0.0.1", "10.8.0.0/14", "10.96.0.1"), None);
        assert!(fails("198.18.3.1", "10.8.0.0/14", "10.96.0.1").unwrap().contains("198.18.3.1 of it"));
        assert!(fails("10.0.0.1", "198.16.0.0/14", "10.96.0.1").unwrap().contains("Cluster there"));
        assert!(fails("10.0.0.1", "10.8.0.0/14", "198.18.0.1").unwrap().contains("Services"));
    }
}
