//! A small federation, and questions about it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType},
};

use super::{
    answers::{Authority, Known, View},
    names::Names,
    responder::Responder,
    zones::Zones,
};
use crate::{
    model::{
        Cluster, Federation, Ingress, IngressPoint, Port, Protocol as Transport, Scope, Service, ServiceKey,
        ShardState,
    },
    settings::FederationSettings,
};

/// Of a service with more addresses than any packet carries, to clients from outside.
pub const MANY: &str = "many.n.f.svc.example.com.";

pub fn query(text: &str, wanted: RecordType, payload: Option<u16>) -> Vec<u8> {
    query_of(name(text), wanted, payload)
}

pub fn query_of(name: Name, wanted: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(name, wanted));
    message.edns = payload.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns
    });
    message.to_vec().unwrap()
}

pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub fn client() -> SocketAddr {
    "192.0.2.7:5353".parse().unwrap()
}

pub fn responder(view: View) -> Responder {
    let service = |points: Vec<IngressPoint>, state| {
        Arc::new(Service {
            ports: vec![Port { name: "http".to_owned(), protocol: Transport::Tcp, port: 80 }],
            vips: Arc::new([(Scope::Nearest, vec!["198.18.0.1".parse().unwrap()])].into()),
            ingress: [("c".into(), Ingress { points: points.into_iter().collect(), state })].into(),
            ..Service::default()
        })
    };
    let addresses = |count: u32| {
        let addresses = (1..=count).map(|n| Ipv4Addr::from_bits(0xCB00_7100 + n).into());
        addresses.map(IngressPoint::Address).collect::<Vec<_>>()
    };
    let host = vec![IngressPoint::Host("lb.example.net".into())];
    let cluster = Cluster { provider: "p".into(), region: "r".into(), zones: vec!["z".into()] };
    let federation = Federation {
        clusters: BTreeMap::from([("c".into(), cluster)]),
        services: imbl::OrdMap::from_iter([
            (ServiceKey::new("n", "s"), service(addresses(1), ShardState::Healthy)),
            (ServiceKey::new("n", "many"), service(addresses(200), ShardState::Healthy)),
            (ServiceKey::new("n", "host"), service(host, ShardState::Healthy)),
            (ServiceKey::new("n", "none"), service(addresses(1), ShardState::Unhealthy)),
        ]),
    };
    let settings =
        FederationSettings { federation: "f".into(), domain: "example.com".into(), vip_ranges: Vec::new() };
    let zones = Zones::new(&settings, &[]).unwrap();
    let known = Known { names: Names::default().follow(&federation), serial: 7, ..Known::default() };
    let authority = Authority { zones, view, addresses: Vec::new() };
    Responder { authority, known: Arc::new(ArcSwapOption::from_pointee(known)), transfer: Vec::new() }
}
