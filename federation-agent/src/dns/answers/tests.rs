use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Cluster, Federation, Port, Protocol, Scope, Service, ServiceKey},
    settings::FederationSettings,
};

mod external;

/// Names, types, and what is said.
const ANSWERS: &[(&str, &str, &str)] = &[
    // Each form of a name answers the VIP of its scope.
    ("my-service.my-namespace.my-federation.", "A", "A 198.18.0.1"),
    ("my-service.my-namespace.my-federation.svc.cluster.local.", "A", "A 198.18.0.1"),
    ("my-service.my-namespace.svc.clusterset.local.", "A", "A 198.18.0.1"),
    ("my-service.my-namespace.my-federation.svc.example.com.", "A", "A 198.18.0.2"),
    ("my-service.my-namespace.my-federation.svc.europe-west1.example.com.", "A", "A 198.18.0.3"),
    ("my-service.my-namespace.my-federation.svc.europe-west1-d.example.com.", "A", "A 198.18.0.4"),
    (
        "my-service.my-namespace.my-federation.svc.europe-west1-d.europe-west1.example.com.",
        "A",
        "A 198.18.0.4",
    ),
    ("my-service.my-namespace.my-federation.svc.berlin.example.com.", "A", "A 198.18.0.5"),
    ("my-service.my-namespace.my-federation.svc.berlin.berlin.example.com.", "A", "A 198.18.0.6"),
    ("my-service.my-namespace.my-federation.svc.hall.7.example.com.", "A", "A 198.18.0.7"),
    ("my-service.my-namespace.my-federation.svc.hall.7.berlin.example.com.", "A", "A 198.18.0.7"),
    ("MY-Service.my-NAMESPACE.My-Federation.", "A", "A 198.18.0.1"),
    ("my-service.my-namespace.my-federation.SVC.Europe-West1-D.EXAMPLE.com.", "A", "A 198.18.0.4"),
    ("svc.svc.my-federation.svc.example.com.", "A", "A 198.18.0.9"),
    ("svc.svc.my-federation.svc.example.com.", "AAAA", "AAAA fd00::9"),
    // What a service has not.
    ("my-service.my-namespace.my-federation.", "AAAA", "NODATA my-federation."),
    ("my-service.my-namespace.my-federation.", "TXT", "NODATA my-federation."),
    ("my-service.my-namespace.my-federation.", "SOA", "NODATA my-federation."),
    ("my-service.my-namespace.my-federation.", "NS", "NODATA my-federation."),
    ("my-service.my-namespace.my-federation.", "SRV", "NODATA my-federation."),
    ("my-service.my-namespace.my-federation.", "CNAME", "NODATA my-federation."),
    ("svc.svc.my-federation.", "A", "NODATA my-federation."),
    ("svc.svc.my-federation.svc.berlin.example.com.", "A", "NODATA example.com."),
    // Its named ports, under each form of its name.
    (
        "_http._tcp.my-service.my-namespace.my-federation.",
        "SRV",
        "SRV 0 100 80 my-service.my-namespace.my-federation.",
    ),
    (
        "_Dns._UDP.my-service.my-namespace.svc.clusterset.local.",
        "SRV",
        "SRV 0 100 53 my-service.my-namespace.svc.clusterset.local.",
    ),
    (
        "_http._tcp.my-service.my-namespace.my-federation.svc.berlin.example.com.",
        "SRV",
        "SRV 0 100 80 my-service.my-namespace.my-federation.svc.berlin.example.com.",
    ),
    ("_http._tcp.my-service.my-namespace.my-federation.", "A", "NODATA my-federation."),
    ("_tcp.my-service.my-namespace.my-federation.", "SRV", "NODATA my-federation."),
    ("_sctp.my-service.my-namespace.my-federation.", "SRV", "NXDOMAIN my-federation."),
    ("_http._udp.my-service.my-namespace.my-federation.", "SRV", "NXDOMAIN my-federation."),
    ("_https._tcp.my-service.my-namespace.my-federation.", "SRV", "NXDOMAIN my-federation."),
    ("http._tcp.my-service.my-namespace.my-federation.", "SRV", "NXDOMAIN my-federation."),
    ("_._tcp.svc.svc.my-federation.", "SRV", "NXDOMAIN my-federation."),
    ("_tcp.svc.svc.my-federation.", "SRV", "NXDOMAIN my-federation."),
    // Reverse names, each with the name of its scope.
    ("1.0.18.198.in-addr.arpa.", "PTR", "PTR my-service.my-namespace.my-federation."),
    ("2.0.18.198.in-addr.arpa.", "PTR", "PTR my-service.my-namespace.my-federation.svc.example.com."),
    ("7.0.18.198.in-addr.arpa.", "PTR", "PTR my-service.my-namespace.my-federation.svc.hall.7.example.com."),
    (
        "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
        "PTR",
        "PTR svc.svc.my-federation.svc.example.com.",
    ),
    ("1.0.18.198.in-addr.arpa.", "A", "NODATA 18.198.in-addr.arpa."),
    ("0.18.198.in-addr.arpa.", "PTR", "NODATA 18.198.in-addr.arpa."),
    ("1.18.198.in-addr.arpa.", "PTR", "NXDOMAIN 18.198.in-addr.arpa."),
    ("77.0.18.198.in-addr.arpa.", "PTR", "NXDOMAIN 18.198.in-addr.arpa."),
    ("01.0.18.198.in-addr.arpa.", "PTR", "NXDOMAIN 18.198.in-addr.arpa."),
    ("x.1.0.18.198.in-addr.arpa.", "PTR", "NXDOMAIN 18.198.in-addr.arpa."),
    ("1.0.19.198.in-addr.arpa.", "PTR", "REFUSED"),
    ("198.in-addr.arpa.", "PTR", "REFUSED"),
    // What zones say of themselves.
    ("my-federation.", "NS", "NS ns.my-federation."),
    ("ns.my-federation.", "A", "A 192.0.2.53"),
    ("ns.my-federation.", "AAAA", "AAAA 2001:db8::53"),
    ("ns.my-federation.", "TXT", "NODATA my-federation."),
    ("dns-version.clusterset.local.", "TXT", "TXT 1.0.0"),
    ("dns-version.my-federation.", "TXT", "NXDOMAIN my-federation."),
    ("18.198.in-addr.arpa.", "NS", "NS ns.18.198.in-addr.arpa."),
    // RFC 8482, where there is something.
    ("my-service.my-namespace.my-federation.", "ANY", "HINFO RFC8482 "),
    ("my-federation.", "ANY", "HINFO RFC8482 "),
    ("other.my-namespace.my-federation.", "ANY", "NXDOMAIN my-federation."),
    // Something is beneath each of these.
    ("my-federation.", "A", "NODATA my-federation."),
    ("my-namespace.my-federation.", "A", "NODATA my-federation."),
    ("my-federation.svc.cluster.local.", "A", "NODATA my-federation.svc.cluster.local."),
    ("my-namespace.my-federation.svc.cluster.local.", "A", "NODATA my-federation.svc.cluster.local."),
    ("svc.clusterset.local.", "A", "NODATA clusterset.local."),
    ("my-namespace.svc.clusterset.local.", "A", "NODATA clusterset.local."),
    ("example.com.", "A", "NODATA example.com."),
    ("svc.example.com.", "A", "NODATA example.com."),
    ("my-federation.svc.example.com.", "A", "NODATA example.com."),
    ("my-namespace.my-federation.svc.example.com.", "A", "NODATA example.com."),
    ("europe-west1.example.com.", "A", "NODATA example.com."),
    ("europe-west1-d.europe-west1.example.com.", "A", "NODATA example.com."),
    ("7.example.com.", "A", "NODATA example.com."),
    ("svc.hall.7.berlin.example.com.", "A", "NODATA example.com."),
    ("my-namespace.my-federation.svc.europe-west1.example.com.", "A", "NODATA example.com."),
    // Nothing is there.
    ("other.my-namespace.my-federation.", "A", "NXDOMAIN my-federation."),
    ("other.my-federation.", "A", "NXDOMAIN my-federation."),
    ("my.my-service.my-namespace.my-federation.", "A", "NXDOMAIN my-federation."),
    ("my-service.other.my-federation.svc.cluster.local.", "A", "NXDOMAIN my-federation.svc.cluster.local."),
    ("my-service.my-namespace.clusterset.local.", "A", "NXDOMAIN clusterset.local."),
    ("*.my-namespace.my-federation.", "A", "NXDOMAIN my-federation."),
    ("www.example.com.", "A", "NXDOMAIN example.com."),
    ("my-federation.example.com.", "A", "NXDOMAIN example.com."),
    ("svc.7.example.com.", "A", "NXDOMAIN example.com."),
    ("my-service.my-namespace.other.svc.example.com.", "A", "NXDOMAIN example.com."),
    ("my-service.my-namespace.my-federation.svc.mars.example.com.", "A", "NXDOMAIN example.com."),
    (
        "my-service.my-namespace.my-federation.svc.europe-west1-d.berlin.example.com.",
        "A",
        "NXDOMAIN example.com.",
    ),
    ("my-service.my-namespace.my-federation.svc.7.example.com.", "A", "NXDOMAIN example.com."),
    ("a.my-service.my-namespace.my-federation.svc.example.com.", "A", "NXDOMAIN example.com."),
    ("my-service.my-namespace.my-federation.europe-west1.example.com.", "A", "NXDOMAIN example.com."),
    // Not for us to say.
    (".", "NS", "REFUSED"),
    ("com.", "A", "REFUSED"),
    ("kubernetes.default.svc.cluster.local.", "A", "REFUSED"),
    ("svc.cluster.local.", "A", "REFUSED"),
    ("not-my-federation.", "A", "REFUSED"),
    ("my-service.my-namespace.my-federation.example.org.", "A", "REFUSED"),
];

#[test]
fn each_name_and_type_has_its_answer() {
    let (authority, known) = berlin();
    for (name, wanted, expected) in ANSWERS {
        assert_eq!(ask(&authority, Some(&known), name, wanted), *expected, "{name} {wanted}");
    }
}

#[test]
fn the_top_of_a_zone_has_its_soa() {
    let (authority, known) = berlin();
    for apex in ["my-federation.", "my-federation.svc.cluster.local.", "example.com.", "18.198.in-addr.arpa."]
    {
        let expected = format!("SOA ns.{apex} hostmaster.{apex} 7 30 10 86400 5");
        assert_eq!(ask(&authority, Some(&known), apex, "SOA"), expected);
    }
}

#[test]
fn who_asks_for_a_port_is_told_the_addresses_too() {
    let (authority, known) = berlin();
    let name = name("_http._tcp.my-service.my-namespace.my-federation.");
    let Answer::Found(_, records) = authority.answer(Some(&known), &name, &name, RecordType::SRV) else {
        panic!("it is there")
    };
    let told: Vec<_> = records.additionals.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["my-service.my-namespace.my-federation. 300 IN A 198.18.0.1"]);
}

#[test]
fn nothing_is_said_of_our_zones_before_the_federation_is_known() {
    let (authority, _) = berlin();
    for name in [
        "my-service.my-namespace.my-federation.",
        "example.com.",
        "other.my-federation.",
        "1.0.18.198.in-addr.arpa.",
    ] {
        assert_eq!(ask(&authority, None, name, "A"), "SERVFAIL", "{name}");
    }
    assert_eq!(ask(&authority, None, "example.org.", "A"), "REFUSED");
}

#[test]
fn answers_follow_each_change_of_the_federation() {
    let (authority, known) = berlin();
    let key = ServiceKey::new("my-namespace", "my-service");
    let mut federation = known.names.federation.clone();
    let mut service = Service::clone(&federation.services[&key]);
    Arc::make_mut(&mut service.vips).insert(Scope::Nearest, vec!["198.18.0.99".parse().unwrap()]);
    federation.services.insert(key.clone(), Arc::new(service));
    federation.clusters.remove("gcp");
    let changed = Known { names: known.names.follow(&federation), ..known.clone() };
    federation.services.remove(&key);
    let gone = Known { names: changed.names.follow(&federation), ..known.clone() };
    for (name, wanted, now, later) in [
        ("my-service.my-namespace.my-federation.", "A", "A 198.18.0.99", "NXDOMAIN my-federation."),
        ("my-namespace.my-federation.", "A", "NODATA my-federation.", "NXDOMAIN my-federation."),
        ("1.0.18.198.in-addr.arpa.", "PTR", "NXDOMAIN 18.198.in-addr.arpa.", "NXDOMAIN 18.198.in-addr.arpa."),
        (
            "99.0.18.198.in-addr.arpa.",
            "PTR",
            "PTR my-service.my-namespace.my-federation.",
            "NXDOMAIN 18.198.in-addr.arpa.",
        ),
        (
            "my-service.my-namespace.my-federation.svc.europe-west1.example.com.",
            "A",
            "NXDOMAIN example.com.",
            "NXDOMAIN example.com.",
        ),
    ] {
        assert_eq!(ask(&authority, Some(&changed), name, wanted), now, "{name}");
        assert_eq!(ask(&authority, Some(&gone), name, wanted), later, "{name}");
    }
}

#[test]
fn zones_within_zones_are_told_apart() {
    let (_, known) = berlin();
    for (domain, name, vip) in [
        // Short and hierarchical names meet: the zone with more labels has them.
        ("cluster.local", "my-service.my-namespace.my-federation.svc.cluster.local.", "A 198.18.0.1"),
        ("cluster.local", "my-service.my-namespace.my-federation.svc.berlin.cluster.local.", "A 198.18.0.5"),
        (
            "corp.my-federation",
            "my-service.my-namespace.my-federation.svc.corp.my-federation.",
            "A 198.18.0.2",
        ),
        ("corp.my-federation", "my-service.my-namespace.my-federation.", "A 198.18.0.1"),
    ] {
        let authority = authority("my-federation", domain, View::Internal);
        assert_eq!(ask(&authority, Some(&known), name, "A"), vip, "{name} with {domain}");
    }
}

#[test]
fn names_that_dns_cannot_carry_are_refused() {
    let long = "x".repeat(64);
    let many = ["x".repeat(60).as_str()].repeat(4).join(".");
    for (federation, domain, server, complaint) in [
        ("", "example.com", "ns.example.com", "--federation"),
        ("a..b", "example.com", "ns.example.com", "--federation"),
        (long.as_str(), "example.com", "ns.example.com", "--federation"),
        ("my-federation", "", "ns.example.com", "--domain"),
        ("my-federation", many.as_str(), "ns.example.com", "--domain"),
        ("my-federation", "My-Federation", "ns.example.com", "--federation \"my-federation\" and --domain"),
        (
            "my-federation",
            "clusterset.local",
            "ns.example.com",
            "--federation \"my-federation\" and --domain",
        ),
        ("my-federation", "example.com", "ns..com", "--dns-server-name"),
    ] {
        let servers = [server.to_owned()];
        let error =
            Zones::new(&settings(federation, domain, &[]), &servers).expect_err("not a name").to_string();
        assert!(error.starts_with(complaint), "{error}");
    }
}

#[test]
fn a_range_that_ends_within_a_label_has_a_zone_for_each_part() {
    for (range, count, first) in [
        ("198.18.0.0/15", 2, "18.198.in-addr.arpa."),
        ("198.18.0.0/16", 1, "18.198.in-addr.arpa."),
        ("198.18.4.0/22", 4, "4.18.198.in-addr.arpa."),
        ("198.18.0.128/30", 4, "128.0.18.198.in-addr.arpa."),
        ("fd00::/110", 4, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."),
    ] {
        let zones = Zones::new(&settings("my-federation", "example.com", &[range]), &[]).unwrap();
        let mut reverse: Vec<_> = zones.iter().filter(|zone| zone.form == Form::Reverse).collect();
        reverse.sort_by_key(|zone| zone.apex.clone());
        assert_eq!((reverse.len(), reverse[0].apex.to_string().as_str()), (count, first), "{range}");
    }
}

#[test]
fn every_record_of_a_zone_is_what_a_question_for_it_would_be_told() {
    for view in [View::Internal, View::External { ttl_seconds: 30 }] {
        let (mut authority, known) = external::world(&external::EVERYBODY);
        authority.view = view;
        let mut count = 0;
        for zone in authority.zones.iter().filter(|zone| authority.serves(zone)) {
            for record in authority.every_record(&known, zone) {
                let (name, wanted) = (record.name.to_string(), record.record_type().to_string());
                let told = ask(&authority, Some(&known), &name, &wanted);
                assert!(told.contains(&record.data.to_string()), "{record}: {told}");
                count += 1;
            }
        }
        // At least the servers' names, and a service with one port under each of its names.
        assert!(count > 20, "{count} records");
    }
}

proptest! {
    /// RFC 8020: where a name is missing there is nothing beneath it, so all names above one that is there are too.
    #[test]
    fn nothing_above_a_name_that_is_there_is_missing(text in name_of_ours()) {
        let (authority, known) = berlin();
        let mut name = name(&text);
        let is = ask(&authority, Some(&known), &text, "A");
        if is.starts_with("NXDOMAIN") || is == "REFUSED" {
            return Ok(());
        }
        while !name.is_root() {
            let is = ask(&authority, Some(&known), &name.to_string(), "A");
            prop_assert!(!is.starts_with("NXDOMAIN"), "{name}");
            name = name.base_name();
        }
    }

    #[test]
    fn case_makes_no_difference(name in name_of_ours(), upper in any::<Vec<bool>>()) {
        let (authority, known) = berlin();
        let mixed: String = name
            .chars()
            .zip(upper.iter().chain(std::iter::repeat(&false)))
            .map(|(c, upper)| if *upper { c.to_ascii_uppercase() } else { c })
            .collect();
        let ask = |name| ask(&authority, Some(&known), name, "A");
        prop_assert_eq!(ask(&name), ask(&mixed));
    }

    /// Whatever bytes a label has (a dot among them is part of it), it is read, and is no name of ours.
    #[test]
    fn strange_labels_are_missing(label in prop::collection::vec(any::<u8>(), 1..20)) {
        let known_labels = ["my-namespace", "svc", "7", "berlin", "europe-west1", "europe-west1-d", "ns"];
        prop_assume!(!known_labels.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(&label)));
        let (authority, known) = berlin();
        for apex in ["my-federation.", "example.com."] {
            let name = Name::from_labels([label.as_slice()]).unwrap();
            let name = name.append_domain(&Name::from_ascii(apex).unwrap()).unwrap();
            let is = authority.answer(Some(&known), &name, &name.to_lowercase(), RecordType::A);
            prop_assert!(matches!(is, Answer::NoName(_)), "{name}: {is:?}");
        }
    }
}

/// Names made of the words that names of ours are made of.
fn name_of_ours() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "my-service",
        "my-namespace",
        "my-federation",
        "svc",
        "berlin",
        "hall",
        "7",
        "europe-west1",
        "europe-west1-d",
        "other",
        "_http",
        "_tcp",
        "0",
        "1",
    ]);
    let apex = prop::sample::select(vec![
        "my-federation.",
        "my-federation.svc.cluster.local.",
        "example.com.",
        "clusterset.local.",
        "18.198.in-addr.arpa.",
    ]);
    (prop::collection::vec(word, 0..8), apex)
        .prop_map(|(words, apex)| words.into_iter().chain([apex]).collect::<Vec<_>>().join("."))
}

/// A federation with two regions, a zone that two clusters share, a zone named like its region, one with a dot in its
/// name, and a service and namespace named like what stands between them and their place.
fn berlin() -> (Authority, Known) {
    let cluster = |region: &str, zones: &[&str]| Cluster {
        provider: "p".into(),
        region: region.into(),
        zones: zones.iter().map(Into::into).collect(),
    };
    let port = |name: &str, protocol, port| Port { name: name.into(), protocol, port };
    let service = |ports: &[Port], vips: &[(Scope, &[&str])]| {
        let vips = vips.iter().map(|(scope, ips)| {
            (scope.clone(), ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>())
        });
        Arc::new(Service { ports: ports.into(), vips: Arc::new(vips.collect()), ..Service::default() })
    };
    let federation = Federation {
        clusters: BTreeMap::from([
            ("gcp".into(), cluster("europe-west1", &["europe-west1-d"])),
            ("cellar".into(), cluster("Berlin", &["berlin"])),
            ("attic".into(), cluster("Berlin", &["hall.7", "berlin"])),
        ]),
        services: imbl::OrdMap::from_iter([
            (
                ServiceKey::new("my-namespace", "my-service"),
                service(
                    &[port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
                    &[
                        (Scope::Nearest, &["198.18.0.1"]),
                        (Scope::Global, &["198.18.0.2"]),
                        (Scope::Region("europe-west1".into()), &["198.18.0.3"]),
                        (Scope::Zone("europe-west1-d".into()), &["198.18.0.4"]),
                        (Scope::Region("Berlin".into()), &["198.18.0.5"]),
                        (Scope::Zone("berlin".into()), &["198.18.0.6"]),
                        (Scope::Zone("hall.7".into()), &["198.18.0.7"]),
                    ],
                ),
            ),
            (
                ServiceKey::new("svc", "svc"),
                service(&[port("", Protocol::Tcp, 80)], &[(Scope::Global, &["198.18.0.9", "fd00::9"])]),
            ),
        ]),
    };
    let names = Names::default().follow(&federation);
    (
        authority("my-federation", "example.com", View::Internal),
        Known { names, serial: 7, ..Known::default() },
    )
}

fn authority(federation: &str, domain: &str, view: View) -> Authority {
    let zones = Zones::new(&settings(federation, domain, &["198.18.0.0/16", "fd00::/64"]), &[]).unwrap();
    let addresses = ["192.0.2.53", "2001:db8::53"].map(|ip| ip.parse().unwrap()).to_vec();
    Authority { zones, view, addresses }
}

fn settings(federation: &str, domain: &str, ranges: &[&str]) -> FederationSettings {
    FederationSettings {
        federation: federation.into(),
        domain: domain.into(),
        vip_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    }
}

/// What is said, in one line: the code with the zone it is of, or the records without what was asked for already.
fn ask(authority: &Authority, known: Option<&Known>, text: &str, wanted: &str) -> String {
    let name = name(text);
    match authority.answer(known, &name, &name.to_lowercase(), wanted.parse().unwrap()) {
        Answer::Elsewhere => "REFUSED".to_owned(),
        Answer::NotYet => "SERVFAIL".to_owned(),
        Answer::NoName(zone) => format!("NXDOMAIN {}", zone.apex),
        Answer::Found(zone, records) if records.answers.is_empty() => format!("NODATA {}", zone.apex),
        Answer::Found(_, records) => {
            let told = records.answers.iter().map(|record| {
                let data = format!("{} {}", record.record_type(), record.data);
                if record.name.eq_case(&name) { data } else { format!("{} {data}", record.name) }
            });
            told.collect::<Vec<_>>().join(", ")
        }
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}
