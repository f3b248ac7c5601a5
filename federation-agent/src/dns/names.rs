//! What a name means. Pure: nothing here knows a record, a message or a socket.
//!
//! Names are not stored but read: what a name means is in its labels, and the federation says whether that exists.
//!
//! | name | scope |
//! | --- | --- |
//! | `S.N.F`, `S.N.F.svc.cluster.local`, `S.N.svc.clusterset.local` | Nearest |
//! | `S.N.F.svc.D` | Global |
//! | `S.N.F.svc.R.D` | Region(R) |
//! | `S.N.F.svc.Z.D`, `S.N.F.svc.Z.R.D` | Zone(Z) |
//!
//! Where a region and a zone have one name, `S.N.F.svc.X.D` means the region: its zone has the longer form too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hickory_proto::rr::Name;
use imbl::{HashMap, OrdMap};

use super::zones::{Form, Label, SVC, Zone, Zones, beneath, reverse_range};
use crate::model::{Federation, Protocol, Scope, Service, ServiceKey, changes};

static NEAREST: [Scope; 1] = [Scope::Nearest];

/// What the federation has names for. Cheap to clone and to bring up to date.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub federation: Federation,
    /// Grows with each change of what a name leads to, or of which there are.
    pub version: u64,
    /// By namespace and name, to be found without a copy of either.
    services: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Service>>>,
    /// Whose an address is, and of which scope. Of two that hold one, the first is told.
    owners: OrdMap<(IpAddr, ServiceKey), Scope>,
    /// The place of the domain's apex, and all that are beneath it.
    places: Arc<Place>,
}

/// Where a name may point, by the label that leads there.
#[derive(Debug, Default)]
struct Place {
    /// The best is first. None where labels only lead on.
    scopes: Vec<Scope>,
    beneath: BTreeMap<Label, Place>,
}

/// What is found at a name.
#[derive(Clone, Copy, Debug)]
pub enum Node<'n> {
    Missing,
    /// Something is beneath it.
    Empty,
    Service(Point<'n>),
    /// `_name._protocol.` before a service's name, which has this number of labels less.
    Port(Point<'n>, u16),
    /// A VIP's reverse name.
    Reverse(&'n ServiceKey, &'n Scope),
}

/// A service as a name means it.
#[derive(Clone, Copy, Debug)]
pub struct Point<'n> {
    pub service: &'n Service,
    /// What the place in the name stands for, the best first. Never empty.
    pub scopes: &'n [Scope],
    /// The labels of service and namespace.
    name: &'n str,
    namespace: &'n str,
}

impl Names {
    /// The same with what the federation has now; only what differs is touched.
    #[must_use]
    pub fn follow(&self, federation: &Federation) -> Self {
        let mut names = self.clone();
        for change in changes(&self.federation.services, &federation.services) {
            names.replace(change.service, change.before, change.after);
        }
        if self.federation.clusters != federation.clusters || self.places.scopes.is_empty() {
            names.places = Arc::new(places(federation));
            names.version += 1;
        }
        names.federation = federation.clone();
        names
    }

    fn replace(&mut self, key: &ServiceKey, before: Option<&Arc<Service>>, after: Option<&Arc<Service>>) {
        if before.map(|it| (&it.vips, &it.ports)) != after.map(|it| (&it.vips, &it.ports)) {
            self.version += 1;
        }
        for (_, ip) in before.into_iter().flat_map(vips) {
            self.owners.remove(&(ip, key.clone()));
        }
        let held = after.into_iter().flat_map(vips);
        self.owners.extend(held.map(|(scope, ip)| ((ip, key.clone()), scope.clone())));
        let namespace = self.services.entry(Arc::clone(&key.namespace)).or_default();
        match after {
            Some(service) => drop(namespace.insert(Arc::clone(&key.name), Arc::clone(service))),
            None => drop(namespace.remove(&*key.name)),
        }
        if namespace.is_empty() {
            self.services.remove(&*key.namespace);
        }
    }

    /// What stands at a name, by its labels and those beneath the apex of its zone.
    pub fn find<'n>(
        &'n self,
        zones: &Zones,
        form: Form,
        labels: &'n [&'n str],
        under: &'n [&'n str],
    ) -> Node<'n> {
        match form {
            Form::Nearest => self.beneath_federation(under, &NEAREST),
            Form::ClusterSet => match under {
                [] => Node::Empty,
                [under @ .., SVC] => self.beneath_federation(under, &NEAREST),
                _ => Node::Missing,
            },
            Form::Located => self.located(zones.located(), under),
            Form::Reverse => self.reverse(labels),
        }
    }

    /// Every name of a service in a zone.
    pub fn every_service(&self, zones: &Zones, zone: &Zone) -> Vec<(Name, Point<'_>)> {
        let mut places: Vec<(Option<Name>, &[Scope])> = Vec::new();
        match zone.form {
            Form::Nearest => places.push((Some(zone.apex.clone()), &NEAREST)),
            Form::ClusterSet => places.push((zone.apex.prepend_label(SVC).ok(), &NEAREST)),
            Form::Located => self.places.walk(&zone.apex, &mut |place, scopes| {
                // In front of the place stands the federation, with its labels from right to left.
                let name = zones
                    .located()
                    .iter()
                    .rev()
                    .try_fold(place, |name, label| name.prepend_label(label.as_bytes()));
                places.push((name.ok(), scopes));
            }),
            Form::Reverse => {}
        }
        let mut found = Vec::new();
        for (place, scopes) in places {
            for (namespace, services) in &self.services {
                let beneath = place.as_ref().and_then(|place| place.prepend_label(namespace.as_bytes()).ok());
                for (name, service) in services {
                    let owner =
                        beneath.as_ref().and_then(|beneath| beneath.prepend_label(name.as_bytes()).ok());
                    found.extend(owner.map(|owner| (owner, Point { service, scopes, name, namespace })));
                }
            }
        }
        found
    }

    /// Reads what stands before the federation: `S.N`, with a port before it or without.
    fn beneath_federation<'n>(&'n self, labels: &'n [&'n str], scopes: &'n [Scope]) -> Node<'n> {
        let service = |name: &'n str, namespace: &'n str| {
            let service = &**self.services.get(namespace)?.get(name)?;
            Some(Point { service, scopes, name, namespace })
        };
        let found = match labels {
            [] => return Node::Empty,
            [namespace] => self.services.contains_key(*namespace).then_some(Node::Empty),
            [name, namespace] => service(name, namespace).map(Node::Service),
            [protocol, name, namespace] => {
                service(name, namespace).filter(|point| point.has_ports(protocol)).map(|_| Node::Empty)
            }
            [port, protocol, name, namespace] => service(name, namespace)
                .and_then(|point| Some(Node::Port(point, point.port(port, protocol)?))),
            _ => None,
        };
        found.unwrap_or(Node::Missing)
    }

    /// Reads a hierarchical name in every way that it can be, since places may have any name: `svc`, or that of a namespace.
    fn located<'n>(&'n self, federation_svc: &[Label], labels: &'n [&'n str]) -> Node<'n> {
        let mut place = &*self.places;
        let mut best = Node::Missing;
        for split in (0..=labels.len()).rev() {
            let before = &labels[..split];
            let found = match beneath(before, federation_svc) {
                _ if before.is_empty() => Node::Empty,
                _ if place.scopes.is_empty() => Node::Missing,
                Some(labels) => self.beneath_federation(labels, &place.scopes),
                None if before.iter().rev().zip(federation_svc.iter().rev()).all(|(a, b)| a == b) => {
                    Node::Empty
                }
                None => Node::Missing,
            };
            if found.rank() > best.rank() {
                best = found;
            }
            let further = split.checked_sub(1).and_then(|next| place.beneath.get(labels[next]));
            let Some(further) = further else { break };
            place = further;
        }
        best
    }

    /// Every address that is somebody's, with whose and of which scope, from one on.
    pub fn owners_from(&self, first: IpAddr) -> impl Iterator<Item = (IpAddr, &ServiceKey, &Scope)> {
        let owners = self.owners.range((first, ServiceKey::new("", ""))..);
        let mut last = None;
        owners.filter_map(move |((ip, service), scope)| {
            (last.replace(*ip) != Some(*ip)).then_some((*ip, service, scope))
        })
    }

    fn reverse(&self, labels: &[&str]) -> Node<'_> {
        let Some(range) = reverse_range(labels) else { return Node::Missing };
        let Some((_, service, scope)) =
            self.owners_from(range.network()).next().filter(|(ip, ..)| *ip <= range.broadcast())
        else {
            return Node::Missing;
        };
        if range.prefix_len() == range.max_prefix_len() { Node::Reverse(service, scope) } else { Node::Empty }
    }
}

/// The VIPs of a service.
fn vips(service: &Arc<Service>) -> impl Iterator<Item = (&Scope, IpAddr)> {
    service.vips.iter().flat_map(|(scope, ips)| ips.iter().map(move |ip| (scope, *ip)))
}

impl Node<'_> {
    /// Which of several readings of one name is meant.
    fn rank(&self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Empty => 1,
            Self::Service(_) | Self::Port(..) | Self::Reverse(..) => 2,
        }
    }
}

impl Point<'_> {
    pub fn key(&self) -> ServiceKey {
        ServiceKey::new(self.namespace, self.name)
    }

    /// Its ports that have a name, with the labels that this gives them.
    pub fn named_ports(&self) -> impl Iterator<Item = (String, &'static str, u16)> {
        let named = self.service.ports.iter().filter(|port| !port.name.is_empty());
        named.map(|port| (format!("_{}", port.name), protocol_label(port.protocol), port.port))
    }

    fn has_ports(&self, protocol: &str) -> bool {
        self.service
            .ports
            .iter()
            .any(|port| !port.name.is_empty() && protocol_label(port.protocol) == protocol)
    }

    fn port(&self, port: &str, protocol: &str) -> Option<u16> {
        let name = port.strip_prefix('_').filter(|name| !name.is_empty())?;
        let mut ports = self.service.ports.iter();
        let meant = ports.find(|port| port.name == name && protocol_label(port.protocol) == protocol)?;
        Some(meant.port)
    }
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

impl Place {
    /// Regions and zones may have dots in their names.
    fn at<'l>(&mut self, labels: impl DoubleEndedIterator<Item = &'l str>) -> &mut Self {
        labels.rev().fold(self, |place, label| place.beneath.entry(label.to_ascii_lowercase()).or_default())
    }

    /// Tells the name of every place that stands for a scope.
    fn walk<'p>(&'p self, name: &Name, tell: &mut impl FnMut(Name, &'p [Scope])) {
        if !self.scopes.is_empty() {
            tell(name.clone(), &self.scopes);
        }
        for (label, place) in &self.beneath {
            // A label that DNS cannot carry is no place that anybody asks for.
            if let Ok(name) = name.prepend_label(label.as_bytes()) {
                place.walk(&name, tell);
            }
        }
    }
}

fn places(federation: &Federation) -> Place {
    let mut scopes: BTreeSet<(String, Scope)> = BTreeSet::new();
    for cluster in federation.clusters.values() {
        let region = cluster.region.as_str();
        scopes.insert((region.to_owned(), Scope::Region(cluster.region.clone())));
        for zone in &cluster.zones {
            scopes.insert((format!("{zone}.{region}"), Scope::Zone(zone.clone())));
            scopes.insert((zone.to_string(), Scope::Zone(zone.clone())));
        }
    }
    let mut apex = Place { scopes: vec![Scope::Global], ..Place::default() };
    for (path, scope) in scopes {
        let place = apex.at(path.split('.'));
        place.scopes.push(scope);
        place.scopes.sort();
    }
    apex
}
