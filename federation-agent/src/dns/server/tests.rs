use std::{net::Ipv4Addr, sync::Arc};

use super::*;
use crate::model::{Cluster, Port, Protocol, Scope, Service, ServiceKey, Shard};

const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

#[tokio::test]
async fn only_what_changes_an_answer_makes_a_new_version_and_a_new_serial() -> Result<()> {
    for has_external in [false, true] {
        let dns = serving(has_external).await?;
        let mut federation = Federation::default();
        let mut before = version_after(&dns, &federation);
        let key = ServiceKey::new("n", "s");
        let mut service = Service::default();
        for (what, change, is_told) in [
            ("a service", (|_| {}) as fn(&mut Service), true),
            ("nothing", |_| {}, false),
            (
                "a shard",
                |service| {
                    service.shards.insert("c".into(), Shard { weight: 1, endpoints: Arc::default() });
                },
                false,
            ),
            ("affinity", |service| service.client_ip_affinity = true, false),
            (
                "a VIP",
                |service| {
                    service.vips = Arc::new([(Scope::Nearest, vec![Ipv4Addr::LOCALHOST.into()])].into());
                },
                true,
            ),
            (
                "a port",
                |service| service.ports.push(Port { name: "p".into(), protocol: Protocol::Tcp, port: 80 }),
                true,
            ),
        ] {
            change(&mut service);
            federation.services.insert(key.clone(), Arc::new(service.clone()));
            let after = version_after(&dns, &federation);
            assert_grown(before, after, is_told || has_external, what);
            before = after;
        }
        let cluster = Cluster { provider: "p".into(), region: "r".into(), zones: vec!["z".into()] };
        federation.clusters.insert("c".into(), cluster);
        let after = version_after(&dns, &federation);
        assert_grown(before, after, true, "a place");
        federation.services.clear();
        assert_grown(after, version_after(&dns, &federation), true, "a service less");
    }
    Ok(())
}

fn assert_grown(before: (u64, u32), after: (u64, u32), is_expected: bool, what: &str) {
    assert_eq!((after.0 > before.0, after.1 > before.1), (is_expected, is_expected), "{what}");
}

/// What is known after an update: its version and its serial.
fn version_after(dns: &Dns, federation: &Federation) -> (u64, u32) {
    dns.update(federation, Some(&Health::default()));
    let known = dns.known.load_full().expect("something is known");
    (known.version, known.serial)
}

async fn serving(has_external: bool) -> Result<Dns> {
    let federation =
        FederationSettings { federation: "f".into(), domain: "example.com".into(), vip_ranges: Vec::new() };
    let settings = DnsSettings {
        external: if has_external { vec![ANYWHERE.into()] } else { Vec::new() },
        external_ttl_seconds: 30,
        transfer: vec!["192.0.2.0/24".parse()?],
        ..DnsSettings::default()
    };
    Dns::bind(&[ANYWHERE.into()], &settings, &federation).await
}
