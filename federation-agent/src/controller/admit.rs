//! Which endpoint addresses a cluster may announce. Pure: one member cluster must not steer another's traffic.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::discovery::v1::Endpoint;
use thiserror::Error;

/// Why an address is left out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("it is no IP address")]
    NotAnAddress,
    #[error("it is the unspecified address")]
    Unspecified,
    #[error("it is a loopback address")]
    Loopback,
    #[error("it is a link-local address")]
    LinkLocal,
    #[error("it is a multicast or broadcast address")]
    Multicast,
    #[error("it is an IPv4 address written as IPv6")]
    Mapped,
    #[error("it lies in the VIP range {0}")]
    InVipRange(IpNet),
    #[error("it lies outside the cluster's networks")]
    OutsideNetworks,
}

/// The rules for one cluster.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub networks: &'a [IpNet],
    pub vip_ranges: &'a [IpNet],
}

/// How many endpoints were refused, and one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub count: u32,
    /// An address and why it was refused.
    pub example: String,
}

// === impl Rules ===

impl Rules<'_> {
    pub fn judge(&self, address: &str) -> Result<IpAddr, Refusal> {
        let ip: IpAddr = address.parse().map_err(|_| Refusal::NotAnAddress)?;
        let is_link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if ip.to_canonical() != ip {
            return Err(Refusal::Mapped);
        }
        if ip.is_unspecified() {
            return Err(Refusal::Unspecified);
        }
        if ip.is_loopback() {
            return Err(Refusal::Loopback);
        }
        if is_link_local {
            return Err(Refusal::LinkLocal);
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(Refusal::Multicast);
        }
        if let Some(range) = self.vip_ranges.iter().find(|range| range.contains(&ip)) {
            return Err(Refusal::InVipRange(*range));
        }
        if !self.networks.iter().any(|network| network.contains(&ip)) {
            return Err(Refusal::OutsideNetworks);
        }
        Ok(ip)
    }

    /// The endpoints of which every address may be announced, and what became of the others.
    pub fn admit<'a>(
        &self,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> (Vec<&'a Endpoint>, Option<Refused>) {
        let mut admitted = Vec::new();
        let mut refused: Option<Refused> = None;
        for endpoint in endpoints {
            let fault = endpoint
                .addresses
                .iter()
                .find_map(|address| self.judge(address).err().map(|refusal| format!("{address}: {refusal}")));
            match (fault, &mut refused) {
                (None, _) => admitted.push(endpoint),
                (Some(_), Some(refused)) => refused.count += 1,
                (Some(example), refused @ None) => *refused = Some(Refused { count: 1, example }),
            }
        }
        (admitted, refused)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn addresses_and_their_verdicts() {
        // As wide as can be, so that every other rule has to hold by itself.
        let everywhere = nets(&["0.0.0.0/0", "::/0"]);
        let vip_ranges = nets(&["172.30.0.0/16", "fd00:ffff::/64"]);
        let wide = Rules { networks: &everywhere, vip_ranges: &vip_ranges };
        let own = nets(&["10.8.0.0/14", "fd00:8::/48"]);
        let narrow = Rules { networks: &own, vip_ranges: &vip_ranges };
        let cases = [
            (narrow, "10.8.1.2", None),
            (narrow, "10.11.255.255", None),
            (narrow, "10.12.0.0", Some(Refusal::OutsideNetworks)),
            (narrow, "fd00:8::1", None),
            (narrow, "fd00:9::1", Some(Refusal::OutsideNetworks)),
            (wide, "8.8.8.8", None),
            (wide, "127.0.0.1", Some(Refusal::Loopback)),
            (wide, "::1", Some(Refusal::Loopback)),
            (wide, "169.254.169.254", Some(Refusal::LinkLocal)),
            (wide, "fe80::1", Some(Refusal::LinkLocal)),
            (wide, "224.0.0.1", Some(Refusal::Multicast)),
            (wide, "ff02::1", Some(Refusal::Multicast)),
            (wide, "255.255.255.255", Some(Refusal::Multicast)),
            (wide, "0.0.0.0", Some(Refusal::Unspecified)),
            (wide, "::", Some(Refusal::Unspecified)),
            (wide, "::ffff:10.8.1.2", Some(Refusal::Mapped)),
            (wide, "172.30.9.9", Some(Refusal::InVipRange(vip_ranges[0]))),
            (wide, "fd00:ffff::9", Some(Refusal::InVipRange(vip_ranges[1]))),
            (wide, "pod.example.com", Some(Refusal::NotAnAddress)),
            (wide, "", Some(Refusal::NotAnAddress)),
        ];
        for (rules, address, expected) in cases {
            assert_eq!(rules.judge(address).err(), expected, "{address}");
        }
    }

    #[test]
    fn an_endpoint_with_one_bad_address_is_left_out_whole_and_counted() {
        let own = nets(&["10.8.0.0/14"]);
        let rules = Rules { networks: &own, vip_ranges: &[] };
        let endpoint = |addresses: &[&str]| Endpoint {
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            ..Endpoint::default()
        };
        let endpoints =
            [endpoint(&["10.8.0.1"]), endpoint(&["10.8.0.2", "192.0.2.1"]), endpoint(&["127.0.0.1"])];
        let (admitted, refused) = rules.admit(&endpoints);
        assert_eq!(admitted, [&endpoints[0]]);
        let example = "192.0.2.1: it lies outside the cluster's networks".to_owned();
        assert_eq!(refused, Some(Refused { count: 2, example }));
    }

    proptest! {
        #[test]
        fn whatever_is_admitted_is_the_clusters_own(bits: u32) {
            let own = nets(&["0.0.0.0/2", "192.0.0.0/2"]);
            let vip_ranges = nets(&["10.0.0.0/8"]);
            let rules = Rules { networks: &own, vip_ranges: &vip_ranges };
            let ip = Ipv4Addr::from(bits);
            if rules.judge(&ip.to_string()).is_ok() {
                prop_assert!(!(0x4000_0000..0xc000_0000).contains(&bits));
                prop_assert!(!ip.is_multicast() && ip.octets()[0] != 10 && ip.octets()[0] != 127);
            }
        }
    }
}
