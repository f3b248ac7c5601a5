//! Which virtual IP each (service, scope) holds. Pure: what is held comes in, what is given goes out.
//!
//! An address is found by a hash of its holder, so that an allocator that forgot everything gives the same addresses
//! again, and by probing from there when it is taken.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use thiserror::Error;

use crate::model::{Scope, ServiceKey};

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// Addresses by scope, at most one of each family.
pub type Vips = BTreeMap<Scope, Vec<IpAddr>>;

/// What a service cannot have, or holds against the rules.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("the VIP range {range} has no address left for scope {scope}; give a larger --vip-range")]
    Exhausted { range: IpNet, scope: Scope },
    #[error("the Service asks for {} but there is no VIP range of that family; add one with --vip-range", family.name())]
    NoRange { family: Family },
    #[error("VIP {ip} of scope {scope} is also held by {holder}; delete one of the two Services")]
    HeldTwice { ip: IpAddr, scope: Scope, holder: ServiceKey },
    #[error(
        "VIP {ip} of scope {scope} lies outside the VIP ranges, so no node serves it; restore its --vip-range"
    )]
    OutsideRanges { ip: IpAddr, scope: Scope },
}

/// What a service has after it was provided for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provided {
    pub vips: Vips,
    pub faults: Vec<Fault>,
}

/// The ranges, and who holds which address of them.
#[derive(Debug)]
pub struct Pool {
    ranges: Vec<IpNet>,
    holders: HashMap<IpAddr, (ServiceKey, Scope)>,
    held: BTreeMap<ServiceKey, Vips>,
}

// === impl Family ===

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

// === impl Pool ===

impl Pool {
    /// Of each family at most one range.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges, holders: HashMap::new(), held: BTreeMap::new() }
    }

    /// Whether addresses of this family can be given.
    pub fn serves(&self, family: Family) -> bool {
        self.range(family).is_some()
    }

    /// Notes that `service` holds what is stored for it. The first to claim an address keeps it.
    pub fn claim(&mut self, service: &ServiceKey, stored: &Vips) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (scope, ips) in stored {
            for ip in ips {
                if !self.ranges.iter().any(|range| range.contains(ip)) {
                    faults.push(Fault::OutsideRanges { ip: *ip, scope: scope.clone() });
                }
                match self.holders.get(ip) {
                    Some((holder, held_for)) if holder != service || held_for != scope => {
                        let holder = holder.clone();
                        faults.push(Fault::HeldTwice { ip: *ip, scope: scope.clone(), holder });
                    }
                    Some(_) => {}
                    None => self.hold(service, scope, *ip),
                }
            }
        }
        faults
    }

    /// Gives `service` an address of each family for each scope. What it holds and what is stored for it stays, also
    /// for scopes that it does not ask for any more.
    pub fn provide(
        &mut self,
        service: &ServiceKey,
        scopes: &[Scope],
        families: &[Family],
        stored: &Vips,
    ) -> Provided {
        let mut faults = self.claim(service, stored);
        for family in families {
            let Some(range) = self.range(*family) else {
                faults.push(Fault::NoRange { family: *family });
                continue;
            };
            for scope in scopes {
                let has = |vips: &Vips| {
                    vips.get(scope).is_some_and(|ips| ips.iter().any(|ip| Family::of(*ip) == *family))
                };
                if has(stored) || self.held.get(service).is_some_and(has) {
                    continue;
                }
                match self.find_free(range, service, scope) {
                    Some(ip) => self.hold(service, scope, ip),
                    None => faults.push(Fault::Exhausted { range, scope: scope.clone() }),
                }
            }
        }
        let mut vips = stored.clone();
        for (scope, ips) in self.held.get(service).into_iter().flatten() {
            let known = vips.entry(scope.clone()).or_default();
            known.extend(ips.iter().filter(|ip| !stored.get(scope).is_some_and(|ips| ips.contains(ip))));
        }
        for ips in vips.values_mut() {
            ips.sort_unstable();
        }
        Provided { vips, faults }
    }

    /// Takes back everything that `service` holds.
    pub fn release(&mut self, service: &ServiceKey) {
        for ip in self.held.remove(service).into_iter().flatten().flat_map(|(_, ips)| ips) {
            self.holders.remove(&ip);
        }
    }

    /// Takes back everything that services hold which are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&ServiceKey) -> bool) {
        let gone: Vec<_> = self.held.keys().filter(|service| !keep(service)).cloned().collect();
        for service in gone {
            self.release(&service);
        }
    }

    fn hold(&mut self, service: &ServiceKey, scope: &Scope, ip: IpAddr) {
        self.holders.insert(ip, (service.clone(), scope.clone()));
        self.held.entry(service.clone()).or_default().entry(scope.clone()).or_default().push(ip);
    }

    fn range(&self, family: Family) -> Option<IpNet> {
        self.ranges.iter().find(|range| Family::of(range.addr()) == family).copied()
    }

    fn find_free(&self, range: IpNet, service: &ServiceKey, scope: &Scope) -> Option<IpAddr> {
        let usable = Usable::of(range);
        let start = hash(service, scope) % usable.count;
        // Among one address more than are held there must be a free one: no need to look at a whole IPv6 range.
        let most = usable.count.min(self.holders.len() as u128 + 1);
        (0..most)
            .map(|step| usable.address((start + step) % usable.count))
            .find(|ip| !self.holders.contains_key(ip))
    }
}

/// The addresses of a range that a VIP may be.
struct Usable {
    first: u128,
    /// Above 0.
    count: u128,
    family: Family,
}

impl Usable {
    /// Without the network's own address (in IPv6: the subnet routers' anycast address, RFC 4291 section 2.6.1) and
    /// without the broadcast address, where the range is large enough to have them (RFC 3021).
    fn of(range: IpNet) -> Self {
        let family = Family::of(range.addr());
        let (network, reserved_last) = match range.network() {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 1),
            IpAddr::V6(ip) => (u128::from(ip), 0),
        };
        let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
        // The whole of IPv6 is one more than fits.
        let size = 1_u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        if size <= 2 {
            Self { first: network, count: size, family }
        } else {
            Self { first: network + 1, count: size - 1 - reserved_last, family }
        }
    }

    fn address(&self, index: u128) -> IpAddr {
        let number = self.first + index;
        match self.family {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an index below `count` stays inside the range"
            )]
            Family::V4 => Ipv4Addr::from(number as u32).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

/// The same in every release, which the standard library's hasher does not promise.
fn hash(service: &ServiceKey, scope: &Scope) -> u128 {
    let mut hasher = SipHasher24::new();
    hasher.write(format!("{service}/{scope}").as_bytes());
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    fn service(name: &str) -> ServiceKey {
        ServiceKey::new("my-namespace", name)
    }

    fn scopes() -> Vec<Scope> {
        vec![
            Scope::Nearest,
            Scope::Global,
            Scope::Region("europe-west1".into()),
            Scope::Zone("europe-west1-d".into()),
        ]
    }

    fn v4(pool: &mut Pool, name: &str, scopes: &[Scope], stored: &Vips) -> Provided {
        pool.provide(&service(name), scopes, &[Family::V4], stored)
    }

    #[test]
    fn every_scope_has_an_address_of_its_own() {
        let mut pool = Pool::new(vec![range("172.30.0.0/16")]);
        let provided = v4(&mut pool, "my-service", &scopes(), &Vips::new());
        assert_eq!(provided.faults, []);
        let distinct: BTreeSet<_> = provided.vips.values().flatten().collect();
        assert_eq!(distinct.len(), 4);
        assert!(distinct.iter().all(|ip| range("172.30.0.0/16").contains(*ip)));
    }

    #[test]
    fn an_allocator_that_forgot_everything_gives_the_same_addresses() {
        let give = || v4(&mut Pool::new(vec![range("172.30.0.0/16")]), "my-service", &scopes(), &Vips::new());
        assert_eq!(give(), give());
    }

    #[test]
    fn usable_addresses_of_small_ranges() {
        let cases = [
            ("10.0.0.4/30", vec!["10.0.0.5", "10.0.0.6"]),
            ("10.0.0.4/31", vec!["10.0.0.4", "10.0.0.5"]),
            ("10.0.0.4/32", vec!["10.0.0.4"]),
            ("fd00::4/126", vec!["fd00::5", "fd00::6", "fd00::7"]),
            ("fd00::4/128", vec!["fd00::4"]),
        ];
        for (text, expected) in cases {
            let usable = Usable::of(range(text));
            let addresses: Vec<_> =
                (0..usable.count).map(|index| usable.address(index).to_string()).collect();
            assert_eq!(addresses, expected, "{text}");
        }
        let all = Usable::of(range("::/0"));
        assert_eq!(all.address(all.count - 1).to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe");
    }

    #[test]
    fn an_exhausted_range_says_so_and_gives_what_it_can() {
        let mut pool = Pool::new(vec![range("10.0.0.0/30")]);
        let first = v4(&mut pool, "first", &scopes(), &Vips::new());
        assert_eq!(first.vips.values().flatten().count(), 2);
        let exhausted = |scope| Fault::Exhausted { range: range("10.0.0.0/30"), scope };
        assert_eq!(first.faults, [exhausted(scopes()[2].clone()), exhausted(scopes()[3].clone())]);

        let second = v4(&mut pool, "second", &[Scope::Nearest], &Vips::new());
        assert_eq!((second.vips.len(), second.faults), (0, vec![exhausted(Scope::Nearest)]));
        pool.release(&service("first"));
        assert_eq!(v4(&mut pool, "second", &[Scope::Nearest], &Vips::new()).faults, []);
    }

    #[test]
    fn a_stored_address_is_kept_also_for_a_scope_that_left() {
        let mut pool = Pool::new(vec![range("172.30.0.0/16")]);
        let before = v4(&mut pool, "my-service", &scopes(), &Vips::new()).vips;
        let mut restarted = Pool::new(vec![range("172.30.0.0/16")]);
        let after = v4(&mut restarted, "my-service", &[Scope::Nearest], &before);
        assert_eq!(after, Provided { vips: before, faults: vec![] });
    }

    #[test]
    fn two_services_that_hold_one_address_are_reported() {
        let stored: Vips = [(Scope::Nearest, vec!["172.30.0.9".parse().expect("an address")])].into();
        let mut pool = Pool::new(vec![range("172.30.0.0/16")]);
        assert_eq!(pool.claim(&service("first"), &stored), []);
        let second = v4(&mut pool, "second", &[Scope::Nearest], &stored);
        assert_eq!(second.vips, stored, "a stored VIP never moves by itself");
        let fault = second.faults.first().expect("a fault").to_string();
        assert_eq!(
            fault,
            "VIP 172.30.0.9 of scope Nearest is also held by my-namespace/first; delete one of the two Services"
        );
    }

    #[test]
    fn a_family_without_a_range_is_reported() {
        let mut pool = Pool::new(vec![range("172.30.0.0/16")]);
        let both = [Family::V4, Family::V6];
        let provided = pool.provide(&service("my-service"), &[Scope::Nearest], &both, &Vips::new());
        assert_eq!(provided.vips.len(), 1);
        assert_eq!(provided.faults, [Fault::NoRange { family: Family::V6 }]);
    }

    proptest! {
        #[test]
        fn no_address_is_held_twice_and_none_moves(
            steps in prop::collection::vec((0_u8..12, 0_usize..4, any::<bool>()), 1..80),
        ) {
            let ranges = vec![range("10.0.0.0/27"), range("fd00::/120")];
            let mut pool = Pool::new(ranges.clone());
            let mut stored: BTreeMap<ServiceKey, Vips> = BTreeMap::new();
            for (number, scope_count, lives) in steps {
                let key = service(&format!("s-{number}"));
                if !lives {
                    pool.release(&key);
                    stored.remove(&key);
                    continue;
                }
                let before = stored.get(&key).cloned().unwrap_or_default();
                let families = [Family::V4, Family::V6];
                let provided = pool.provide(&key, &scopes()[..scope_count], &families, &before);
                for (scope, ips) in &before {
                    prop_assert_eq!(Some(ips), provided.vips.get(scope));
                }
                stored.insert(key, provided.vips);
                let all: Vec<_> = stored.values().flat_map(BTreeMap::values).flatten().collect();
                let distinct: BTreeSet<_> = all.iter().collect();
                prop_assert_eq!(all.len(), distinct.len());
                let ends = ["10.0.0.0", "10.0.0.31", "fd00::"];
                for ip in all {
                    prop_assert!(ranges.iter().any(|range| range.contains(ip)));
                    prop_assert!(!ends.contains(&ip.to_string().as_str()));
                }
            }
        }

        #[test]
        fn a_range_is_used_to_its_last_address(name in "[a-z]{1,12}") {
            let mut pool = Pool::new(vec![range("10.0.0.0/28")]);
            for number in 0..14 {
                let provided = v4(&mut pool, &format!("{name}-{number}"), &[Scope::Global], &Vips::new());
                prop_assert_eq!(provided.faults, vec![]);
            }
            let provided = v4(&mut pool, &format!("{name}-15"), &[Scope::Global], &Vips::new());
            prop_assert_eq!(provided.faults.len(), 1);
        }
    }
}
