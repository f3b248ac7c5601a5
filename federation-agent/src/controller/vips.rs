//! Virtual IPs: which are held, and which a new scope gets.

use std::{collections::BTreeMap, hash::Hasher as _, net::Ipv4Addr};

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use siphasher::sip::SipHasher24;
use tracing::warn;

use crate::{
    api::{FederatedService, ScopeKind, VipStatus},
    model::{Scope, ServiceKey},
    settings::FederationSettings,
};

/// Gives addresses of one range, none twice.
#[derive(Debug)]
pub(super) struct Allocator {
    range: Ipv4Net,
    held: BTreeMap<Ipv4Addr, (ServiceKey, Scope)>,
}

impl Allocator {
    pub(super) fn new(range: Ipv4Net) -> Self {
        Self { range: range.trunc(), held: BTreeMap::new() }
    }

    /// Notes that a scope holds an address.
    ///
    /// # Errors
    /// Who holds it already.
    pub(super) fn hold(
        &mut self,
        address: Ipv4Addr,
        service: &ServiceKey,
        scope: &Scope,
    ) -> Result<(), ServiceKey> {
        let holder = (service.clone(), scope.clone());
        match self.held.get(&address) {
            Some(other) if *other != holder => Err(other.0.clone()),
            _ => {
                self.held.insert(address, holder);
                Ok(())
            }
        }
    }

    /// An address for a scope: the one it holds, else the first free one from where its name hashes to.
    ///
    /// `None` when every address of the range is held.
    pub(super) fn give(&mut self, service: &ServiceKey, scope: &Scope) -> Option<Ipv4Addr> {
        let holder = (service.clone(), scope.clone());
        if let Some((address, _)) = self.held.iter().find(|(_, held_by)| **held_by == holder) {
            return Some(*address);
        }
        // Neither the network's own address nor its broadcast address, where there are such.
        let first = u32::from(self.range.hosts().next()?);
        let count = u32::from(self.range.hosts().next_back()?) - first + 1;
        let start = hash(service, scope) % count;
        let free = (0..count)
            .map(|step| Ipv4Addr::from(first + (start + step) % count))
            .find(|address| !self.held.contains_key(address))?;
        self.held.insert(free, holder);
        Some(free)
    }

    pub(super) fn release(&mut self, service: &ServiceKey) {
        self.held.retain(|_, (holder, _)| holder != service);
    }

    pub(super) fn range(&self) -> Ipv4Net {
        self.range
    }
}

fn hash(service: &ServiceKey, scope: &Scope) -> u32 {
    let mut hasher = SipHasher24::new();
    hasher.write(format!("{service}/{scope}").as_bytes());
    (hasher.finish() >> 32) as u32
}

/// The scope that a stored VIP is of; `None` where a location is missing.
pub(super) fn scope_of(vip: &VipStatus) -> Option<Scope> {
    match (vip.scope, vip.location.as_deref()) {
        (ScopeKind::Nearest, _) => Some(Scope::Nearest),
        (ScopeKind::Global, _) => Some(Scope::Global),
        (ScopeKind::Region, location) => Some(Scope::Region(location?.into())),
        (ScopeKind::Zone, location) => Some(Scope::Zone(location?.into())),
    }
}

/// An allocator that knows every VIP which the Federation API has stored.
///
/// # Errors
/// The API does not answer, or no IPv4 range was given.
pub(super) async fn load(client: &Client, settings: &FederationSettings) -> Result<Allocator> {
    let range = settings.vip_ranges.iter().find_map(|range| match range {
        IpNet::V4(range) => Some(*range),
        IpNet::V6(_) => None,
    });
    let Some(range) = range else {
        bail!("no IPv4 range for virtual IPs was given: add one with --vip-range, such as 198.18.0.0/16");
    };
    let mut allocator = Allocator::new(range);
    let stored = Api::<FederatedService>::all(client.clone()).list(&ListParams::default()).await;
    for service in stored.context("list the FederatedServices")? {
        let key = ServiceKey::new(service.namespace().unwrap_or_default(), service.name_any());
        for vip in service.status.iter().flat_map(|status| &status.vips) {
            let Some(scope) = scope_of(vip) else { continue };
            for address in &vip.ips {
                if let std::net::IpAddr::V4(address) = address
                    && let Err(other) = allocator.hold(*address, &key, &scope)
                {
                    warn!("{key} and {other} both hold the virtual IP {address}: delete one of the services");
                }
            }
        }
    }
    Ok(allocator)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn service(n: usize) -> ServiceKey {
        ServiceKey::new("ns", format!("s{n}"))
    }

    #[test]
    fn a_scope_keeps_its_address_and_an_order_of_arrival_hardly_matters() {
        let range = "198.18.0.0/16".parse().unwrap();
        let mut allocator = Allocator::new(range);
        let first = allocator.give(&service(1), &Scope::Nearest).unwrap();
        allocator.give(&service(2), &Scope::Nearest).unwrap();
        assert_eq!(allocator.give(&service(1), &Scope::Nearest), Some(first));
        assert_eq!(Allocator::new(range).give(&service(1), &Scope::Nearest), Some(first));
    }

    #[test]
    fn an_exhausted_range_gives_none_until_something_is_released() {
        let mut allocator = Allocator::new("198.18.0.0/30".parse().unwrap());
        assert!(allocator.give(&service(1), &Scope::Nearest).is_some());
        assert!(allocator.give(&service(1), &Scope::Global).is_some());
        assert_eq!(allocator.give(&service(2), &Scope::Nearest), None);
        allocator.release(&service(1));
        assert!(allocator.give(&service(2), &Scope::Nearest).is_some());
    }

    #[test]
    fn a_held_address_is_not_taken_over() {
        let mut allocator = Allocator::new("198.18.0.0/24".parse().unwrap());
        let address = "198.18.0.9".parse().unwrap();
        assert_eq!(allocator.hold(address, &service(1), &Scope::Nearest), Ok(()));
        assert_eq!(allocator.hold(address, &service(1), &Scope::Nearest), Ok(()));
        assert_eq!(allocator.hold(address, &service(2), &Scope::Nearest), Err(service(1)));
        assert_eq!(allocator.give(&service(1), &Scope::Nearest), Some(address));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_or_from_outside(count in 1_usize..300) {
            let mut allocator = Allocator::new("198.18.4.0/24".parse().unwrap());
            let given: Vec<_> = (0..count).filter_map(|n| allocator.give(&service(n), &Scope::Global)).collect();
            prop_assert_eq!(given.len(), count.min(254));
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
            prop_assert!(given.iter().all(|address| allocator.range().hosts().any(|host| host == *address)));
        }
    }
}
