//! From a question to the records that answer it. Pure: nothing here knows a message, a socket or a clock.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT},
};

use super::{
    external::{self, Hosts, Target},
    names::{Names, Node, Point},
    zones::{Form, SERVER, Zone, Zones, read_labels},
};
use crate::plan::Health;

/// How long a VIP may be remembered, in seconds. It never changes while its service lives; what bounds this is how
/// long the name of a deleted service may still lead somewhere.
pub const VIP_TTL_SECONDS: u32 = 300;

/// How long it may be remembered that there is nothing, in seconds. `CoreDNS` remembers for no less than this.
pub const NEGATIVE_TTL_SECONDS: u32 = 5;

/// How often who copies a zone looks for a new one, tries again, and forgets what it cannot renew, in seconds.
const REFRESH: i32 = 30;
const RETRY: i32 = 10;
const EXPIRE: i32 = 86_400;

/// The version of the naming rules that zones of Multi-Cluster Services follow, and the name that tells it.
const MCS_SCHEMA: &str = "1.0.0";
const SCHEMA_NAME: &str = "dns-version";

/// Targets of SRV records: all are the same to whoever asks, the data plane chooses.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;

/// What all answers of one moment are made of.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub names: Names,
    /// What this node has found out itself; nothing where nobody probes.
    pub health: Option<Health>,
    pub hosts: std::sync::Arc<Hosts>,
    /// Grows with whatever may change an answer. Not every change of the federation does.
    pub version: u64,
    /// Of the zones, for those who copy them.
    pub serial: u32,
}

/// How one listener answers.
#[derive(Debug)]
pub struct Authority {
    pub zones: Zones,
    pub view: View,
    /// Where it answers: the addresses of its own name.
    pub addresses: Vec<IpAddr>,
}

/// To whom it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Clients in the federation, who reach VIPs.
    Internal,
    /// Clients outside, who reach the shards' own ingress addresses.
    External { ttl_seconds: u32 },
}

/// What is said to a question.
#[derive(Debug)]
pub enum Answer<'z> {
    /// The name lies in no zone of ours.
    Elsewhere,
    /// It is not known yet: to say that there is nothing would be a lie that is remembered.
    NotYet,
    /// There is neither such a name nor any beneath it.
    NoName(&'z Zone),
    /// There is something at the name, perhaps nothing of what was asked for.
    Found(&'z Zone, Records),
}

#[derive(Debug, Default)]
pub struct Records {
    pub answers: Vec<Record>,
    /// What who asked would ask next.
    pub additionals: Vec<Record>,
    /// The answers end with a name that others answer for.
    pub leads_out: bool,
}

/// What stands at the name of a service.
struct Content {
    /// Names that lead on, each to the next.
    aliases: Vec<Record>,
    /// Whose the addresses are: the name itself, or the last one that the aliases lead to.
    owner: Name,
    /// It is a load balancer's name, which others answer for.
    leads_out: bool,
    addresses: Vec<IpAddr>,
}

impl Authority {
    /// Answers a question of class IN. `known` is nothing before the federation is known. `name` is as it was asked for,
    /// for records to bear; `lower` is the same in lower case.
    pub fn answer(&self, known: Option<&Known>, name: &Name, lower: &Name, wanted: RecordType) -> Answer<'_> {
        let labels = read_labels(lower);
        let Some((zone, under)) = self.zone_of(&labels) else { return Answer::Elsewhere };
        let Some(known) = known else { return Answer::NotYet };
        let mut records = Records::default();
        let node = known.names.find(&self.zones, zone.form, &labels, under);
        let own = self.own(zone, known.serial, name, under);
        match node {
            Node::Missing if own.is_none() => return Answer::NoName(zone),
            // RFC 8482: the smallest answer that stops who asks from asking again.
            _ if wanted == RecordType::ANY => {
                let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
                records.answers.push(Record::from_rdata(name.clone(), self.ttl(), data));
            }
            Node::Missing | Node::Empty => {}
            Node::Service(point) => {
                let mut content = self.content(known, point, name);
                records.leads_out = content.leads_out;
                records.answers.append(&mut content.aliases);
                if wanted == RecordType::CNAME {
                    records.answers.truncate(1);
                } else {
                    self.push_addresses(&mut records.answers, &content, |ip| record_type(ip) == wanted);
                }
            }
            Node::Port(point, port) => {
                let content = self.content(known, point, &name.base_name().base_name());
                if wanted == RecordType::SRV && content.leads_somewhere() {
                    let data = SRV::new(SRV_PRIORITY, SRV_WEIGHT, port, content.owner.clone());
                    records.answers.push(Record::from_rdata(name.clone(), self.ttl(), RData::SRV(data)));
                    self.push_addresses(&mut records.additionals, &content, |_| true);
                }
            }
            Node::Reverse(key, scope) => {
                let target = self.zones.name_of(key, scope).filter(|_| wanted == RecordType::PTR);
                records.answers.extend(target.map(|target| {
                    Record::from_rdata(name.clone(), VIP_TTL_SECONDS, RData::PTR(PTR(target)))
                }));
            }
        }
        if wanted != RecordType::ANY {
            let own = own.into_iter().flatten();
            records.answers.extend(own.filter(|record| record.record_type() == wanted));
        }
        Answer::Found(zone, records)
    }

    /// The SOA record of a zone.
    pub fn soa(zone: &Zone, serial: u32) -> Record {
        let (primary, mailbox) = (zone.servers[0].clone(), zone.mailbox.clone());
        let soa = SOA::new(primary, mailbox, serial, REFRESH, RETRY, EXPIRE, NEGATIVE_TTL_SECONDS);
        Record::from_rdata(zone.apex.clone(), NEGATIVE_TTL_SECONDS, RData::SOA(soa))
    }

    /// Every record of a zone except its SOA.
    pub fn every_record(&self, known: &Known, zone: &Zone) -> Vec<Record> {
        let mut records = self.own(zone, known.serial, &zone.apex, &[]).unwrap_or_default();
        records.retain(|record| record.record_type() != RecordType::SOA);
        for label in [SERVER, SCHEMA_NAME] {
            if let Ok(name) = zone.apex.prepend_label(label) {
                records.extend(self.own(zone, known.serial, &name, &[label]).into_iter().flatten());
            }
        }
        match zone.form {
            Form::Reverse => {
                for (ip, key, scope) in known.names.owners_from(Ipv4Addr::UNSPECIFIED.into()) {
                    let name = Name::from(ip);
                    if let (true, Some(target)) = (zone.apex.zone_of(&name), self.zones.name_of(key, scope)) {
                        records.push(Record::from_rdata(name, VIP_TTL_SECONDS, RData::PTR(PTR(target))));
                    }
                }
            }
            Form::Nearest | Form::ClusterSet | Form::Located => {
                for (name, point) in known.names.every_service(&self.zones, zone) {
                    self.push_service(&mut records, known, point, &name);
                }
            }
        }
        records
    }

    /// The zone that a name of these labels lies in. Outside, no VIP is told, so neither are their reverse names.
    fn zone_of<'l, 'n>(&self, labels: &'l [&'n str]) -> Option<(&Zone, &'l [&'n str])> {
        self.zones.of(labels).filter(|(zone, _)| self.serves(zone))
    }

    /// Whether a zone is told to clients of this view.
    pub fn serves(&self, zone: &Zone) -> bool {
        self.view == View::Internal || zone.form != Form::Reverse
    }

    fn push_service(&self, records: &mut Vec<Record>, known: &Known, point: Point<'_>, name: &Name) {
        let mut content = self.content(known, point, name);
        let leads_somewhere = content.leads_somewhere();
        if content.aliases.is_empty() {
            self.push_addresses(records, &content, |_| true);
        } else {
            records.extend(content.aliases.drain(..1));
        }
        for (port, protocol, number) in point.named_ports().filter(|_| leads_somewhere) {
            let owner = name.prepend_label(protocol).and_then(|name| name.prepend_label(port.as_str()));
            if let Ok(owner) = owner {
                let data = SRV::new(SRV_PRIORITY, SRV_WEIGHT, number, content.owner.clone());
                records.push(Record::from_rdata(owner, self.ttl(), RData::SRV(data)));
            }
        }
    }

    fn content(&self, known: &Known, point: Point<'_>, name: &Name) -> Content {
        let (aliases, addresses) = (Vec::new(), Vec::new());
        let mut content = Content { aliases, owner: name.clone(), leads_out: false, addresses };
        if self.view == View::Internal {
            let vips = point.scopes.iter().find_map(|scope| point.service.vips.get(scope));
            content.addresses.extend(vips.into_iter().flatten());
            return content;
        }
        let key = point.key();
        let federation = &known.names.federation;
        let mut scope = point.scopes[0].clone();
        loop {
            let at = (&key, point.service);
            match external::target(federation, known.health.as_ref(), &known.hosts, at, &scope) {
                Target::Addresses(addresses) => content.addresses.extend(addresses),
                Target::Host(host) => {
                    content.leads_out = true;
                    self.lead_on(&mut content, Name::from_ascii(host.as_str()).ok());
                }
                Target::Wider(wider) => {
                    self.lead_on(&mut content, self.zones.name_of(&key, &wider));
                    scope = wider;
                    continue;
                }
                Target::Nowhere => {}
            }
            return content;
        }
    }

    fn lead_on(&self, content: &mut Content, to: Option<Name>) {
        let Some(mut to) = to else { return };
        to.set_fqdn(true);
        let data = RData::CNAME(CNAME(to.clone()));
        let from = std::mem::replace(&mut content.owner, to);
        content.aliases.push(Record::from_rdata(from, self.ttl(), data));
    }

    fn push_addresses(&self, to: &mut Vec<Record>, content: &Content, wanted: impl Fn(IpAddr) -> bool) {
        to.extend(
            content
                .addresses
                .iter()
                .filter(|ip| wanted(**ip))
                .map(|ip| Record::from_rdata(content.owner.clone(), self.ttl(), data(*ip))),
        );
    }

    /// What a zone says of itself, at its apex and at the names beneath that it keeps for this.
    fn own(&self, zone: &Zone, serial: u32, name: &Name, under: &[&str]) -> Option<Vec<Record>> {
        let record = |data| Record::from_rdata(name.clone(), VIP_TTL_SECONDS, data);
        match under {
            [] => {
                let servers = zone.servers.iter().map(|server| record(RData::NS(NS(server.clone()))));
                Some([Self::soa(zone, serial)].into_iter().chain(servers).collect())
            }
            [SERVER] if zone.names_its_server => {
                Some(self.addresses.iter().map(|ip| record(data(*ip))).collect())
            }
            [SCHEMA_NAME] if zone.form == Form::ClusterSet => {
                Some(vec![record(RData::TXT(TXT::new(vec![MCS_SCHEMA.to_owned()])))])
            }
            _ => None,
        }
    }

    fn ttl(&self) -> u32 {
        match self.view {
            View::Internal => VIP_TTL_SECONDS,
            View::External { ttl_seconds } => ttl_seconds,
        }
    }
}

impl Content {
    /// Whether a client that follows it may arrive.
    fn leads_somewhere(&self) -> bool {
        self.leads_out || !self.addresses.is_empty()
    }
}

fn record_type(ip: IpAddr) -> RecordType {
    if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

#[cfg(test)]
mod tests;
