//! Defence: which endpoint addresses a cluster may announce. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// # Errors
/// Why the address is refused, in words.
pub(super) fn admit(address: IpAddr, networks: &[IpNet], vip_ranges: &[IpNet]) -> Result<(), String> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let reason = if address.is_loopback() {
        "a loopback address"
    } else if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if link_local {
        "a link-local address"
    } else if vip_ranges.iter().any(|range| range.contains(&address)) {
        "inside a range of virtual IPs"
    } else if !networks.iter().any(|network| network.contains(&address)) {
        "outside the cluster's networks"
    } else {
        return Ok(());
    };
    Err(format!("{address} is {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clusters_own_unicast_addresses_are_admitted() {
        let networks =
            ["10.8.0.0/16".parse().unwrap(), "127.0.0.0/8".parse().unwrap(), "fd00:8::/48".parse().unwrap()];
        let vips = ["10.8.255.0/24".parse().unwrap()];
        for (address, refusal) in [
            ("10.8.1.2", None),
            ("fd00:8::2", None),
            ("10.9.1.2", Some("outside")),
            ("fd00:9::2", Some("outside")),
            ("127.0.0.1", Some("loopback")),
            ("0.0.0.0", Some("unspecified")),
            ("::", Some("unspecified")),
            ("224.0.0.1", Some("multicast")),
            ("ff02::1", Some("multicast")),
            ("169.254.1.1", Some("link-local")),
            ("fe80::1", Some("link-local")),
            ("255.255.255.255", Some("link-local")),
            ("10.8.255.7", Some("virtual")),
        ] {
            match (admit(address.parse().unwrap(), &networks, &vips), refusal) {
                (Ok(()), None) => {}
                (Err(reason), Some(word)) => assert!(reason.contains(word), "{reason}"),
                (result, _) => panic!("{address}: {result:?}"),
            }
        }
    }
}
