//! The parts of the name space that we answer for, by the settings of the federation.

use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::Name;
use ipnet::IpNet;

use crate::{
    model::{Scope, ServiceKey},
    settings::FederationSettings,
};

/// One part of a name between dots, in lower case: names are compared without regard to case (RFC 4343).
pub type Label = String;

/// Stands between a service's short name and the place in the hierarchical names.
pub const SVC: &str = "svc";

/// What every zone calls its server where nobody says another name.
pub const SERVER: &str = "ns";

/// The zone of Multi-Cluster Services (KEP-1645).
const CLUSTER_SET: &str = "clusterset.local";

/// The zones of one federation.
#[derive(Debug)]
pub struct Zones {
    /// Those with more labels first.
    all: Vec<Zone>,
    /// What follows service and namespace in a hierarchical name: the labels of `F.svc`.
    located: Vec<Label>,
    federation: Name,
    domain: Name,
}

/// A part of the name space that we answer for.
#[derive(Debug, PartialEq)]
pub struct Zone {
    pub apex: Name,
    /// The names of those who serve it. Never empty.
    pub servers: Vec<Name>,
    /// The mailbox of who is responsible, as a SOA record writes it.
    pub mailbox: Name,
    /// Whether its server has a name in it, whose addresses we have to know.
    pub names_its_server: bool,
    pub form: Form,
    labels: Vec<Label>,
}

/// How names in a zone are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `S.N`
    Nearest,
    /// `S.N.svc`
    ClusterSet,
    /// `S.N.F.svc`, then a place or nothing.
    Located,
    /// An address, backwards.
    Reverse,
}

impl Zones {
    /// `servers` are the names of those who serve the zones; each zone has a name for its own where there are none.
    ///
    /// # Errors
    /// The federation's name, its domain or that of a server is none that DNS could carry, or two zones are one.
    pub fn new(settings: &FederationSettings, servers: &[String]) -> Result<Self> {
        let unfit =
            |flag: &str, name: &str| format!("{flag} {name:?} cannot be a DNS name: give another one");
        let FederationSettings { federation, domain, vip_ranges } = settings;
        let federation_name = parse(federation).with_context(|| unfit("--federation", federation))?;
        let domain_name = parse(domain).with_context(|| unfit("--domain", domain))?;
        let servers = servers
            .iter()
            .map(|server| parse(server).with_context(|| unfit("--dns-server-name", server)))
            .collect::<Result<Vec<_>>>()?;
        let mut located = labels_of(&federation_name);
        located.push(SVC.to_owned());

        let zone = |apex: Name, form| Zone::new(apex, form, &servers);
        let in_cluster = parse(&format!("{federation}.{SVC}.cluster.local"));
        let in_cluster = in_cluster.and_then(|apex| zone(apex, Form::Nearest));
        let mut zones = vec![
            in_cluster.with_context(|| unfit("--federation", federation))?,
            zone(federation_name.clone(), Form::Nearest)
                .with_context(|| unfit("--federation", federation))?,
            zone(domain_name.clone(), Form::Located).with_context(|| unfit("--domain", domain))?,
            zone(parse(CLUSTER_SET)?, Form::ClusterSet)?,
        ];
        for range in vip_ranges {
            for labels in reverse_apexes(range) {
                zones.push(zone(Name::from_labels(labels.iter().map(String::as_bytes))?, Form::Reverse)?);
            }
        }
        zones.sort_by_key(|zone| Reverse(zone.labels.len()));
        let mut apexes = BTreeSet::new();
        for zone in &zones {
            ensure!(
                apexes.insert(&zone.labels),
                "--federation {federation:?} and --domain {domain:?} make the zone {} twice: give another domain",
                zone.apex
            );
        }
        Ok(Self { all: zones, located, federation: federation_name, domain: domain_name })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.all.iter()
    }

    /// The labels of `F.svc`.
    pub fn located(&self) -> &[Label] {
        &self.located
    }

    /// The closest zone above a name, and the labels beneath the zone's apex.
    pub fn of<'z, 'l, 'n>(&'z self, labels: &'l [&'n str]) -> Option<(&'z Zone, &'l [&'n str])> {
        self.all.iter().find_map(|zone| Some((zone, beneath(labels, &zone.labels)?)))
    }

    /// The name of a service for a scope, unless DNS could not carry it.
    pub fn name_of(&self, service: &ServiceKey, scope: &Scope) -> Option<Name> {
        let labels = [service.name.as_bytes(), service.namespace.as_bytes()];
        let name = Name::from_labels(labels).ok()?.append_name(&self.federation).ok()?;
        let place = match scope {
            Scope::Nearest => return Some(name),
            Scope::Global => None,
            Scope::Region(region) => Some(region.as_str()),
            Scope::Zone(zone) => Some(zone.as_str()),
        };
        let place = place.into_iter().flat_map(|place| place.split('.'));
        let place = place.fold(Name::from_labels([SVC.as_bytes()]).ok(), |name, label| {
            name?.append_label(label.as_bytes()).ok()
        });
        let mut name = name.append_name(&place?).ok()?.append_name(&self.domain).ok()?;
        name.set_fqdn(true);
        Some(name)
    }
}

impl Zone {
    fn new(mut apex: Name, form: Form, servers: &[Name]) -> Result<Self> {
        apex.set_fqdn(true);
        let names_its_server = servers.is_empty();
        let servers = if names_its_server { vec![apex.prepend_label(SERVER)?] } else { servers.to_vec() };
        let mailbox = apex.prepend_label("hostmaster")?;
        Ok(Self { labels: labels_of(&apex), apex, servers, mailbox, names_its_server, form })
    }
}

/// What is left of `labels` without the suffix.
pub fn beneath<'l, 'n>(labels: &'l [&'n str], suffix: &[Label]) -> Option<&'l [&'n str]> {
    let (before, after) = labels.split_at_checked(labels.len().checked_sub(suffix.len())?)?;
    after.iter().zip(suffix).all(|(label, suffix)| label == suffix).then_some(before)
}

/// The labels of a name in lower case. One that no name of ours can have reads as a mark that none has.
pub fn read_labels(lower: &Name) -> Vec<&str> {
    let read = |label| std::str::from_utf8(label).ok().filter(|label| !label.contains('.'));
    lower.iter().map(|label| read(label).unwrap_or("\u{fffd}")).collect()
}

fn labels_of(name: &Name) -> Vec<Label> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

fn parse(name: &str) -> Result<Name> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    ensure!(!name.is_root(), "it is empty");
    Ok(name)
}

/// The zones of the reverse names of a range. Where it does not end at a label, it has several.
fn reverse_apexes(range: &IpNet) -> Vec<Vec<Label>> {
    let bits = if range.addr().is_ipv4() { 8 } else { 4 };
    let length = range.prefix_len().next_multiple_of(bits);
    let parts = range.trunc().subnets(length).into_iter().flatten();
    let labels = usize::from(length / bits);
    parts
        .map(|part| {
            let all = reverse_labels(part.addr());
            let arpa = all.len() - 2;
            all[arpa - labels..].to_vec()
        })
        .collect()
}

/// The labels of an address's reverse name.
pub fn reverse_labels(address: IpAddr) -> Vec<Label> {
    let (mut labels, arpa) = match address {
        IpAddr::V4(v4) => (v4.octets().map(|octet| octet.to_string()).to_vec(), "in-addr"),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), "ip6")
        }
    };
    labels.reverse();
    labels.extend([arpa.to_owned(), "arpa".to_owned()]);
    labels
}

/// The addresses whose reverse names end in these labels; nothing where no reverse name does.
pub fn reverse_range(labels: &[&str]) -> Option<IpNet> {
    let (digits, arpa) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    let digits = digits.iter().rev();
    match arpa {
        ["in-addr", "arpa"] if digits.len() <= 4 => {
            let (mut octets, length) = ([0; 4], digits.len());
            for (octet, digits) in octets.iter_mut().zip(digits) {
                *octet = digits.parse().ok().filter(|octet: &u8| octet.to_string() == *digits)?;
            }
            IpNet::new(octets.into(), u8::try_from(length * 8).ok()?).ok()
        }
        ["ip6", "arpa"] if digits.len() <= 32 => {
            let (mut bits, length) = (0_u128, digits.len());
            for (place, digit) in digits.enumerate() {
                let nibble = u8::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
                bits |= u128::from(nibble) << (124 - 4 * place);
            }
            IpNet::new(std::net::Ipv6Addr::from_bits(bits).into(), u8::try_from(length * 4).ok()?).ok()
        }
        _ => None,
    }
}
