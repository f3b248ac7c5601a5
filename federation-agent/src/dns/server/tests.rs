use std::{net::Ipv4Addr, sync::Arc};

use super::*;
use crate::model::{
    Cluster, Federation, Ingress, IngressPoint, Port, Protocol, Scope, Service, ServiceKey, Shard, ShardState,
};

const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const OF_REGION: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Changes of a federation, one after the other; whether any answer differs afterwards to clients inside, and outside.
type Step = (&'static str, fn(&mut Federation), [bool; 2]);

const STEPS: [Step; 13] = [
    ("a cluster", |it| it.clusters.extend([("c".into(), cluster())]), [false; 2]),
    ("a service", |it| change(it, "a", |_| {}), [false, true]),
    ("a port", |it| change(it, "a", |service| service.ports.push(port())), [false; 2]),
    ("a VIP", |it| change(it, "a", |service| service.vips = vips()), [true, false]),
    ("nothing", |_| {}, [false; 2]),
    ("a shard", |it| change(it, "a", grow), [false; 2]),
    ("affinity", |it| change(it, "a", |service| service.client_ip_affinity = true), [false; 2]),
    ("an ingress", |it| change(it, "a", |service| announce(service, ShardState::Healthy)), [false, true]),
    ("health", |it| change(it, "a", |service| announce(service, ShardState::Unhealthy)), [false, true]),
    ("another with the same VIP", |it| change(it, "b", |service| service.vips = vips()), [true; 2]),
    ("the first is gone", |it| drop(it.services.remove(&ServiceKey::new("n", "a"))), [true; 2]),
    ("a shard of the other", |it| change(it, "b", grow), [false; 2]),
    ("no cluster", |it| it.clusters.clear(), [true; 2]),
];

/// Steps of which clients of the federation hear nothing.
const UNTOLD: [&str; 5] = ["a shard", "affinity", "an ingress", "health", "a shard of the other"];

#[tokio::test]
async fn another_answer_means_another_version_and_another_serial() -> Result<()> {
    for has_external in [false, true] {
        let dns = serving(has_external).await?;
        let mut federation = Federation::default();
        let mut before = after_update(&dns, &federation);
        for (what, step, differs) in STEPS {
            step(&mut federation);
            let after = after_update(&dns, &federation);
            let [inside, outside] = [View::Internal, View::External { ttl_seconds: 30 }]
                .map(|view| told(&before, view) != told(&after, view));
            assert_eq!([inside, outside], differs, "{what}");
            let has_grown = after.version > before.version;
            assert_eq!(after.serial > before.serial, has_grown, "{what}");
            assert!(has_grown || !inside, "{what}: of an older version");
            assert!(has_grown || !outside || !has_external, "{what}: of an older version");
            let is_idle = what == "nothing" || !has_external && UNTOLD.contains(&what);
            assert!(!has_grown || !is_idle, "{what}: nobody is told anything else");
            before = after;
        }
    }
    Ok(())
}

#[tokio::test]
async fn health_and_hosts_make_a_new_version_where_clients_from_outside_are_answered() -> Result<()> {
    let steps = [
        ("somebody probes", (|known| known.health = Some(Health::default())) as fn(&mut Known), true),
        ("an address of a host", |known| known.hosts = hosts(), true),
        ("nothing", |_| {}, false),
    ];
    for has_external in [false, true] {
        let dns = serving(has_external).await?;
        let mut before = after_update(&dns, &Federation::default()).version;
        for (what, step, is_told) in steps {
            dns.replace(|before| {
                let mut known = before.clone();
                step(&mut known);
                known
            });
            let after = dns.known.load_full().expect("something is known").version;
            assert_eq!(after > before, is_told && has_external, "{what}");
            before = after;
        }
    }
    Ok(())
}

/// Every record that clients may be told.
fn told(known: &Known, view: View) -> Vec<String> {
    let zones = Zones::new(&settings(), &[]).expect("zones");
    let authority = Authority { zones, view, addresses: Vec::new() };
    let zones = authority.zones.iter().filter(|zone| authority.serves(zone));
    zones.flat_map(|zone| authority.every_record(known, zone)).map(|record| record.to_string()).collect()
}

fn after_update(dns: &Dns, federation: &Federation) -> Arc<Known> {
    dns.update(federation, None);
    dns.known.load_full().expect("something is known")
}

async fn serving(has_external: bool) -> Result<Dns> {
    let dns = DnsSettings {
        external: if has_external { vec![ANYWHERE.into()] } else { Vec::new() },
        external_ttl_seconds: 30,
        transfer: vec!["192.0.2.0/24".parse()?],
        ..DnsSettings::default()
    };
    Dns::bind(&[ANYWHERE.into()], &dns, &settings()).await
}

fn settings() -> FederationSettings {
    FederationSettings {
        federation: "f".into(),
        domain: "example.com".into(),
        vip_ranges: vec!["198.18.0.0/16".parse().expect("a range")],
    }
}

fn change(federation: &mut Federation, name: &str, with: impl FnOnce(&mut Service)) {
    let key = ServiceKey::new("n", name);
    let mut service = federation.services.get(&key).map(|service| (**service).clone()).unwrap_or_default();
    with(&mut service);
    federation.services.insert(key, Arc::new(service));
}

fn cluster() -> Cluster {
    Cluster { provider: "p".into(), region: "r".into(), zones: vec!["z".into()] }
}

fn port() -> Port {
    Port { name: "http".into(), protocol: Protocol::Tcp, port: 80 }
}

fn vips() -> Arc<std::collections::BTreeMap<Scope, Vec<IpAddr>>> {
    let of_region = (Scope::Region("r".into()), vec![OF_REGION.into()]);
    Arc::new([(Scope::Nearest, vec![VIP.into()]), of_region].into())
}

fn hosts() -> Arc<external::Hosts> {
    Arc::new([("lb.example.net".into(), [VIP.into()].into())].into())
}

fn grow(service: &mut Service) {
    service.shards.insert("c".into(), Shard { weight: 1, endpoints: Arc::default() });
}

fn announce(service: &mut Service, state: ShardState) {
    let point = IngressPoint::Address(Ipv4Addr::new(203, 0, 113, 1).into());
    service.ingress.insert("c".into(), Ingress { points: [point].into_iter().collect(), state });
}
