//! From a question to its answer. Pure: nothing here knows a socket, a message or a clock.
//!
//! Names are not stored but read: what a name means is in its labels, and the federation says whether that exists.
//!
//! | name | answer |
//! | --- | --- |
//! | `S.N.F`, `S.N.F.svc.cluster.local` | VIP of Nearest |
//! | `S.N.F.svc.D` | VIP of Global |
//! | `S.N.F.svc.R.D` | VIP of Region(R) |
//! | `S.N.F.svc.Z.D`, `S.N.F.svc.Z.R.D` | VIP of Zone(Z) |
//! | `S.N.svc.clusterset.local` (KEP-1645) | VIP of Nearest |
//! | `_port._proto.` before any of these | SRV: the port, at the name behind |
//!
//! Asked for SRV, the name of a service itself has all of its ports.
//!
//! Where a region and a zone have one name, `S.N.F.svc.X.D` means the region: its zone has the longer form too.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::{Name, RecordType};
use imbl::OrdMap;

use crate::{
    model::{Federation, Port, Protocol, Scope, Service, ServiceKey},
    settings::FederationSettings,
};

/// One part of a name between dots, in lower case: names are compared without regard to case (RFC 4343).
type Label = String;

/// Stands between a service's short name and the place in the hierarchical names.
const SVC: &str = "svc";

/// The zone of the Multi-Cluster Services API, the same in every clusterset.
const CLUSTERSET: &str = "clusterset.local";

/// Answers a question of class IN. `names` is nothing before the federation is known.
pub fn answer<'z>(zones: &'z Zones, names: Option<&Names>, name: &Name, record: RecordType) -> Answer<'z> {
    let labels = labels(name);
    let Some((zone, beneath)) = zones.of(&labels) else { return Answer::Elsewhere };
    let Some(names) = names else { return Answer::NotYet };
    let node = |beneath: &[Label]| match zone.form {
        Form::Nearest => names.nearest(beneath),
        Form::Located => names.located(&zones.located, beneath),
        Form::ClusterSet => match beneath.strip_suffix(&[SVC.to_owned()]) {
            Some(beneath) => names.nearest(beneath),
            None if beneath.is_empty() => Node::Empty,
            None => Node::Missing,
        },
    };
    let asked = Asked::read(beneath);
    let node = match node(asked.service) {
        Node::Service(service, vips) if asked.is_of_ports() => {
            let ports = asked.ports_of(service);
            return match (ports.is_empty(), record) {
                (true, _) => Answer::NoName(zone),
                // Without a port's name there is something beneath: a name of one.
                (false, RecordType::SRV) if asked.port.is_some() && !vips.is_empty() => {
                    let target = name.trim_to(usize::from(name.num_labels()) - PORT_LABELS);
                    Answer::Ports { ports, target }
                }
                (false, _) => Answer::NoData(zone),
            };
        }
        _ if asked.is_of_ports() => Node::Missing,
        node => node,
    };
    let addresses: Vec<_> = match (node, record) {
        (Node::Missing, _) => return Answer::NoName(zone),
        (_, RecordType::SOA) if beneath.is_empty() => return Answer::Authority(zone),
        (Node::Service(_, vips), RecordType::A) => vips.iter().copied().filter(IpAddr::is_ipv4).collect(),
        (Node::Service(_, vips), RecordType::AAAA) => vips.iter().copied().filter(IpAddr::is_ipv6).collect(),
        (Node::Service(service, vips), RecordType::SRV) if !vips.is_empty() => {
            let ports: BTreeSet<_> = service.ports.iter().map(|port| port.port).collect();
            if !ports.is_empty() {
                return Answer::Ports { ports, target: name.clone() };
            }
            Vec::new()
        }
        (Node::Empty | Node::Service(..), _) => Vec::new(),
    };
    if addresses.is_empty() { Answer::NoData(zone) } else { Answer::Addresses(addresses) }
}

/// How many labels name a port: `_port._proto`.
const PORT_LABELS: usize = 2;

/// A name beneath a zone, with what it says of ports (RFC 2782) taken apart.
struct Asked<'l> {
    /// Without its underscore; nothing where only the protocol is named.
    port: Option<&'l str>,
    protocol: Option<Protocol>,
    service: &'l [Label],
}

impl<'l> Asked<'l> {
    fn read(beneath: &'l [Label]) -> Self {
        let protocol = |label: &str| match label {
            "_tcp" => Some(Protocol::Tcp),
            "_udp" => Some(Protocol::Udp),
            "_sctp" => Some(Protocol::Sctp),
            _ => None,
        };
        match beneath {
            [port, transport, service @ ..]
                if port.starts_with('_')
                    && let Some(protocol) = protocol(transport) =>
            {
                Self { port: Some(&port[1..]), protocol: Some(protocol), service }
            }
            [transport, service @ ..] if let Some(protocol) = protocol(transport) => {
                Self { port: None, protocol: Some(protocol), service }
            }
            service => Self { port: None, protocol: None, service },
        }
    }

    fn is_of_ports(&self) -> bool {
        self.protocol.is_some()
    }

    /// The numbers of the ports that are meant. A port without a name has none here.
    fn ports_of(&self, service: &Service) -> BTreeSet<u16> {
        let is_meant = |port: &&Port| {
            Some(port.protocol) == self.protocol
                && !port.name.is_empty()
                && self.port.is_none_or(|name| port.name.eq_ignore_ascii_case(name))
        };
        service.ports.iter().filter(is_meant).map(|port| port.port).collect()
    }
}

/// What is said to a question.
#[derive(Debug, PartialEq)]
pub enum Answer<'z> {
    /// The name lies in no zone of ours.
    Elsewhere,
    /// It is not known yet: to say that there is nothing would be a lie that is remembered.
    NotYet,
    /// There is neither such a name nor any beneath it.
    NoName(&'z Zone),
    /// There is, but nothing of the type that was asked for.
    NoData(&'z Zone),
    /// The zone's SOA record.
    Authority(&'z Zone),
    /// VIPs, all of the family that was asked for. Never empty.
    Addresses(Vec<IpAddr>),
    /// Ports at the addresses of another name. Never empty.
    Ports { ports: BTreeSet<u16>, target: Name },
}

/// The zones that we answer for, by the settings of the federation.
#[derive(Debug)]
pub struct Zones {
    /// Those with more labels first.
    zones: Vec<Zone>,
    /// What follows service and namespace in a hierarchical name: the labels of `F.svc`.
    located: Vec<Label>,
}

/// A part of the name space that we answer for.
#[derive(Debug, PartialEq)]
pub struct Zone {
    pub apex: Name,
    /// What its SOA names as the primary server and as the mailbox of who is responsible.
    pub primary: Name,
    pub mailbox: Name,
    labels: Vec<Label>,
    form: Form,
}

/// How names in a zone are read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `S.N`
    Nearest,
    /// `S.N.F.svc`, then a place or nothing.
    Located,
    /// `S.N.svc`
    ClusterSet,
}

impl Zones {
    /// # Errors
    /// The federation's name or its domain is none that DNS could carry.
    pub fn new(settings: &FederationSettings) -> Result<Self> {
        let unfit =
            |flag: &str, name: &str| format!("{flag} {name:?} cannot be a DNS name: give another one");
        let FederationSettings { federation, domain, .. } = settings;
        let federation_name = parse(federation).with_context(|| unfit("--federation", federation))?;
        let domain_name = parse(domain).with_context(|| unfit("--domain", domain))?;
        let mut located = labels(&federation_name);
        located.push(SVC.to_owned());

        let in_cluster = parse(&format!("{federation}.{SVC}.cluster.local"));
        let in_cluster = in_cluster.and_then(|apex| Zone::new(apex, Form::Nearest));
        let mut zones = vec![
            in_cluster.with_context(|| unfit("--federation", federation))?,
            Zone::new(federation_name, Form::Nearest).with_context(|| unfit("--federation", federation))?,
            Zone::new(domain_name, Form::Located).with_context(|| unfit("--domain", domain))?,
            Zone::new(parse(CLUSTERSET)?, Form::ClusterSet)?,
        ];
        let is_clusterset = |zone: &Zone| zone.form != Form::ClusterSet && zone.labels == clusterset_labels();
        ensure!(
            !zones.iter().any(is_clusterset),
            "{CLUSTERSET} is the zone of multi-cluster services: give --federation and --domain other names"
        );
        zones.sort_by_key(|zone| Reverse(zone.labels.len()));
        Ok(Self { zones, located })
    }

    pub fn apexes(&self) -> impl Iterator<Item = &Name> {
        self.zones.iter().map(|zone| &zone.apex)
    }

    /// The closest zone above a name, and the labels beneath the zone's apex.
    fn of<'l>(&self, labels: &'l [Label]) -> Option<(&Zone, &'l [Label])> {
        self.zones.iter().find_map(|zone| Some((zone, labels.strip_suffix(zone.labels.as_slice())?)))
    }
}

impl Zone {
    fn new(apex: Name, form: Form) -> Result<Self> {
        let primary = apex.prepend_label("ns")?;
        let mailbox = apex.prepend_label("hostmaster")?;
        Ok(Self { labels: labels(&apex), apex, primary, mailbox, form })
    }
}

/// What the federation has names for.
#[derive(Debug)]
pub struct Names {
    services: OrdMap<ServiceKey, Arc<Service>>,
    /// Where a name may point, by the labels that say so, and the labels that only lead there. The best is first.
    places: BTreeMap<Vec<Label>, BTreeSet<Scope>>,
}

/// What is found at a name.
#[derive(Clone, Copy, Debug)]
enum Node<'n> {
    Missing,
    /// Something is beneath it.
    Empty,
    /// A service, with its VIPs of the scope that the name says. None where it has none of that scope.
    Service(&'n Service, &'n [IpAddr]),
}

impl Node<'_> {
    /// Of several readings of one name the fullest holds.
    fn fullness(&self) -> (u8, &[IpAddr]) {
        match self {
            Self::Missing => (0, &[]),
            Self::Empty => (1, &[]),
            Self::Service(_, vips) => (2, vips),
        }
    }
}

impl Names {
    pub fn new(federation: &Federation) -> Self {
        let mut places: BTreeMap<Vec<Label>, BTreeSet<Scope>> = BTreeMap::new();
        let mut place = |labels: Vec<Label>, scope: Scope| {
            for above in 1..labels.len() {
                places.entry(labels[above..].to_vec()).or_default();
            }
            places.entry(labels).or_default().insert(scope);
        };
        place(Vec::new(), Scope::Global);
        for cluster in federation.clusters.values() {
            let region = place_labels(cluster.region.as_str());
            place(region.clone(), Scope::Region(cluster.region.clone()));
            for zone in &cluster.zones {
                let labels = place_labels(zone.as_str());
                place([labels.clone(), region.clone()].concat(), Scope::Zone(zone.clone()));
                place(labels, Scope::Zone(zone.clone()));
            }
        }
        Self { services: federation.services.clone(), places }
    }

    fn nearest(&self, beneath: &[Label]) -> Node<'_> {
        match beneath {
            [] => Node::Empty,
            [namespace] => self.namespace(namespace),
            [service, namespace] => self.service(service, namespace, [&Scope::Nearest]),
            _ => Node::Missing,
        }
    }

    /// Reads `beneath` in every way that it can be, since places may have any name: `svc`, or that of a namespace.
    fn located(&self, federation_svc: &[Label], beneath: &[Label]) -> Node<'_> {
        (0..=beneath.len())
            .filter_map(|split| {
                let (before, place) = beneath.split_at(split);
                let scopes = self.places.get(place)?;
                Some(match before.strip_suffix(federation_svc) {
                    Some([]) => Node::Empty,
                    Some([namespace]) => self.namespace(namespace),
                    Some([service, namespace]) => self.service(service, namespace, scopes),
                    None if federation_svc.ends_with(before) => Node::Empty,
                    _ => Node::Missing,
                })
            })
            .max_by(|one, other| one.fullness().cmp(&other.fullness()))
            .unwrap_or(Node::Missing)
    }

    fn namespace(&self, namespace: &str) -> Node<'_> {
        let first = self.services.range(ServiceKey::new(namespace, "")..).next();
        match first {
            Some((key, _)) if &*key.namespace == namespace => Node::Empty,
            _ => Node::Missing,
        }
    }

    fn service<'s>(
        &self,
        service: &str,
        namespace: &str,
        scopes: impl IntoIterator<Item = &'s Scope>,
    ) -> Node<'_> {
        let mut scopes = scopes.into_iter().peekable();
        match self.services.get(&ServiceKey::new(namespace, service)) {
            Some(service) if scopes.peek().is_some() => {
                let vips = scopes.find_map(|scope| service.vips.get(scope)).map_or(&[][..], Vec::as_slice);
                Node::Service(service, vips)
            }
            _ => Node::Missing,
        }
    }
}

fn labels(name: &Name) -> Vec<Label> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// Regions and zones may have dots in their names.
fn place_labels(place: &str) -> Vec<Label> {
    place.split('.').map(str::to_ascii_lowercase).collect()
}

fn clusterset_labels() -> Vec<Label> {
    CLUSTERSET.split('.').map(str::to_owned).collect()
}

fn parse(name: &str) -> Result<Name> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    ensure!(!name.is_root(), "it is empty");
    Ok(name)
}

#[cfg(test)]
mod tests;
