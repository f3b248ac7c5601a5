use proptest::prelude::*;

use super::*;
use crate::model::Cluster;

#[test]
fn each_form_of_a_name_answers_the_vip_of_its_scope() {
    let (zones, names) = berlin();
    for (name, vip) in [
        ("my-service.my-namespace.my-federation.", "198.18.0.1"),
        ("my-service.my-namespace.my-federation.svc.cluster.local.", "198.18.0.1"),
        ("my-service.my-namespace.my-federation.svc.example.com.", "198.18.0.2"),
        ("my-service.my-namespace.my-federation.svc.europe-west1.example.com.", "198.18.0.3"),
        ("my-service.my-namespace.my-federation.svc.europe-west1-d.example.com.", "198.18.0.4"),
        ("my-service.my-namespace.my-federation.svc.europe-west1-d.europe-west1.example.com.", "198.18.0.4"),
        ("my-service.my-namespace.my-federation.svc.berlin.example.com.", "198.18.0.5"),
        ("my-service.my-namespace.my-federation.svc.berlin.berlin.example.com.", "198.18.0.6"),
        ("my-service.my-namespace.my-federation.svc.hall.7.example.com.", "198.18.0.7"),
        ("my-service.my-namespace.my-federation.svc.hall.7.berlin.example.com.", "198.18.0.7"),
        ("MY-Service.my-NAMESPACE.My-Federation.", "198.18.0.1"),
        ("my-service.my-namespace.my-federation.SVC.Europe-West1-D.EXAMPLE.com.", "198.18.0.4"),
        ("svc.svc.my-federation.svc.example.com.", "198.18.0.9"),
        ("my-service.my-namespace.svc.clusterset.local.", "198.18.0.1"),
        ("My-Service.my-namespace.SVC.ClusterSet.local.", "198.18.0.1"),
    ] {
        let expected = Answer::Addresses(vec![vip.parse().unwrap()]);
        assert_eq!(ask(&zones, Some(&names), name, RecordType::A), expected, "{name}");
    }
}

#[test]
fn a_name_is_there_missing_or_not_ours() {
    const APEX: &str = "my-federation.";
    const IN_CLUSTER: &str = "my-federation.svc.cluster.local.";
    const DOMAIN: &str = "example.com.";
    enum Expected {
        NoName(&'static str),
        NoData(&'static str),
        Elsewhere,
    }
    use Expected::{Elsewhere, NoData, NoName};

    let (zones, names) = berlin();
    for (name, expected) in [
        // Something is beneath each of these.
        ("my-federation.", NoData(APEX)),
        ("my-namespace.my-federation.", NoData(APEX)),
        ("my-federation.svc.cluster.local.", NoData(IN_CLUSTER)),
        ("my-namespace.my-federation.svc.cluster.local.", NoData(IN_CLUSTER)),
        ("example.com.", NoData(DOMAIN)),
        ("svc.example.com.", NoData(DOMAIN)),
        ("my-federation.svc.example.com.", NoData(DOMAIN)),
        ("my-namespace.my-federation.svc.example.com.", NoData(DOMAIN)),
        ("europe-west1.example.com.", NoData(DOMAIN)),
        ("europe-west1-d.europe-west1.example.com.", NoData(DOMAIN)),
        ("7.example.com.", NoData(DOMAIN)),
        ("svc.hall.7.berlin.example.com.", NoData(DOMAIN)),
        ("my-namespace.my-federation.svc.europe-west1.example.com.", NoData(DOMAIN)),
        // The service has no VIP of that scope.
        ("svc.svc.my-federation.", NoData(APEX)),
        ("svc.svc.my-federation.svc.berlin.example.com.", NoData(DOMAIN)),
        // Nothing is there.
        ("other.my-namespace.my-federation.", NoName(APEX)),
        ("other.my-federation.", NoName(APEX)),
        ("my.my-service.my-namespace.my-federation.", NoName(APEX)),
        ("my-service.other.my-federation.svc.cluster.local.", NoName(IN_CLUSTER)),
        ("www.example.com.", NoName(DOMAIN)),
        ("my-federation.example.com.", NoName(DOMAIN)),
        ("my-service.my-namespace.other.svc.example.com.", NoName(DOMAIN)),
        ("my-service.my-namespace.my-federation.svc.mars.example.com.", NoName(DOMAIN)),
        ("my-service.my-namespace.my-federation.svc.europe-west1-d.berlin.example.com.", NoName(DOMAIN)),
        ("my-service.my-namespace.my-federation.svc.7.example.com.", NoName(DOMAIN)),
        ("a.my-service.my-namespace.my-federation.svc.example.com.", NoName(DOMAIN)),
        ("my-service.my-namespace.my-federation.europe-west1.example.com.", NoName(DOMAIN)),
        ("clusterset.local.", NoData("clusterset.local.")),
        ("svc.clusterset.local.", NoData("clusterset.local.")),
        ("my-namespace.svc.clusterset.local.", NoData("clusterset.local.")),
        ("svc.svc.svc.clusterset.local.", NoData("clusterset.local.")),
        ("other.my-namespace.svc.clusterset.local.", NoName("clusterset.local.")),
        ("my-namespace.clusterset.local.", NoName("clusterset.local.")),
        // Kept free by the specification: one cluster of a service.
        ("gcp.my-service.my-namespace.svc.clusterset.local.", NoName("clusterset.local.")),
        // Not for us to say.
        (".", Elsewhere),
        ("local.", Elsewhere),
        ("com.", Elsewhere),
        ("kubernetes.default.svc.cluster.local.", Elsewhere),
        ("svc.cluster.local.", Elsewhere),
        ("not-my-federation.", Elsewhere),
        ("my-service.my-namespace.my-federation.example.org.", Elsewhere),
    ] {
        let answer = ask(&zones, Some(&names), name, RecordType::A);
        let matches = match (&expected, &answer) {
            (NoName(apex), Answer::NoName(zone)) | (NoData(apex), Answer::NoData(zone)) => {
                zone.apex.to_string() == *apex
            }
            (Elsewhere, Answer::Elsewhere) => true,
            _ => false,
        };
        assert!(matches, "{name}: {answer:?}");
    }
}

#[test]
fn a_type_that_a_name_has_not_is_no_data() {
    let (zones, names) = berlin();
    let service = "my-service.my-namespace.my-federation.";
    assert!(matches!(ask(&zones, Some(&names), service, RecordType::AAAA), Answer::NoData(_)));
    assert!(matches!(ask(&zones, Some(&names), service, RecordType::TXT), Answer::NoData(_)));
    assert!(matches!(ask(&zones, Some(&names), service, RecordType::SOA), Answer::NoData(_)));
    let both = "svc.svc.my-federation.svc.example.com.";
    assert_eq!(
        ask(&zones, Some(&names), both, RecordType::AAAA),
        Answer::Addresses(vec!["fd00::9".parse().unwrap()])
    );
}

#[test]
fn ports_are_named_before_any_form_of_a_name() {
    const SERVICE: &str = "my-service.my-namespace.svc.clusterset.local.";
    let (zones, names) = berlin();
    let ports = |name: &str| match ask(&zones, Some(&names), name, RecordType::SRV) {
        Answer::Ports { ports, target } => Ok((ports.into_iter().collect::<Vec<_>>(), target.to_string())),
        other => Err(format!("{other:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()),
    };
    let hierarchical = "my-service.my-namespace.my-federation.svc.europe-west1.example.com.";
    let at = |numbers: &[u16], target: &str| Ok((numbers.to_vec(), target.to_owned()));
    for (name, expected) in [
        (SERVICE.to_owned(), at(&[42, 53, 80], SERVICE)),
        (format!("_http._tcp.{SERVICE}"), at(&[80], SERVICE)),
        (format!("_HTTP._TCP.{SERVICE}"), at(&[80], SERVICE)),
        (format!("_dns._udp.{SERVICE}"), at(&[53], SERVICE)),
        (format!("_dns._tcp.{SERVICE}"), at(&[53], SERVICE)),
        (format!("_http._tcp.{hierarchical}"), at(&[80], hierarchical)),
        (format!("_http._udp.{SERVICE}"), Err("NoName".to_owned())),
        (format!("_other._tcp.{SERVICE}"), Err("NoName".to_owned())),
        (format!("_._tcp.{SERVICE}"), Err("NoName".to_owned())),
        (format!("_tcp.{SERVICE}"), Err("NoData".to_owned())),
        (format!("_sctp.{SERVICE}"), Err("NoName".to_owned())),
        (format!("http._tcp.{SERVICE}"), Err("NoName".to_owned())),
        ("_http._tcp.my-namespace.svc.clusterset.local.".to_owned(), Err("NoName".to_owned())),
        // It has no VIP of that scope.
        ("svc.svc.my-federation.".to_owned(), Err("NoData".to_owned())),
    ] {
        assert_eq!(ports(&name), expected, "{name}");
    }
    let address = ask(&zones, Some(&names), &format!("_http._tcp.{SERVICE}"), RecordType::A);
    assert!(matches!(address, Answer::NoData(_)), "{address:?}");
}

#[test]
fn the_top_of_a_zone_has_its_soa() {
    let (zones, names) = berlin();
    for apex in ["my-federation.", "my-federation.svc.cluster.local.", "example.com.", "clusterset.local."] {
        match ask(&zones, Some(&names), apex, RecordType::SOA) {
            Answer::Authority(zone) => assert_eq!(zone.apex.to_string(), apex),
            other => panic!("{apex}: {other:?}"),
        }
    }
}

#[test]
fn nothing_is_said_of_our_zones_before_the_federation_is_known() {
    let zones = zones("my-federation", "example.com");
    for name in ["my-service.my-namespace.my-federation.", "example.com.", "other.my-federation."] {
        assert_eq!(ask(&zones, None, name, RecordType::A), Answer::NotYet, "{name}");
    }
    assert_eq!(ask(&zones, None, "example.org.", RecordType::A), Answer::Elsewhere);
}

#[test]
fn zones_within_zones_are_told_apart() {
    let (_, names) = berlin();
    for (domain, name, vip) in [
        // Short and hierarchical names meet: the zone with more labels has them.
        ("cluster.local", "my-service.my-namespace.my-federation.svc.cluster.local.", "198.18.0.1"),
        ("cluster.local", "my-service.my-namespace.my-federation.svc.berlin.cluster.local.", "198.18.0.5"),
        ("corp.my-federation", "my-service.my-namespace.my-federation.svc.corp.my-federation.", "198.18.0.2"),
        ("corp.my-federation", "my-service.my-namespace.my-federation.", "198.18.0.1"),
    ] {
        let zones = zones("my-federation", domain);
        let expected = Answer::Addresses(vec![vip.parse().unwrap()]);
        assert_eq!(ask(&zones, Some(&names), name, RecordType::A), expected, "{name} with {domain}");
    }
}

#[test]
fn names_that_dns_cannot_carry_are_refused() {
    let long = "x".repeat(64);
    let many = ["x".repeat(60).as_str()].repeat(4).join(".");
    for (federation, domain, complaint) in [
        ("", "example.com", "--federation"),
        ("a..b", "example.com", "--federation"),
        (long.as_str(), "example.com", "--federation"),
        ("my-federation", "", "--domain"),
        ("my-federation", many.as_str(), "--domain"),
        ("my-federation", "ClusterSet.local", "clusterset.local is the zone"),
    ] {
        let settings = FederationSettings {
            federation: federation.into(),
            domain: domain.into(),
            vip_ranges: Vec::new(),
        };
        let error = Zones::new(&settings).expect_err("not a name").to_string();
        assert!(error.starts_with(complaint), "{error}");
    }
}

proptest! {
    /// RFC 8020: where a name is missing there is nothing beneath it, so all names above one that is there are too.
    #[test]
    fn nothing_above_a_name_that_is_there_is_missing(name in name_of_ours()) {
        let (zones, names) = berlin();
        let mut name = Name::from_ascii(&name).unwrap();
        if matches!(answer(&zones, Some(&names), &name, RecordType::A), Answer::NoName(_) | Answer::Elsewhere) {
            return Ok(());
        }
        while !name.is_root() {
            let is = answer(&zones, Some(&names), &name, RecordType::A);
            prop_assert!(!matches!(is, Answer::NoName(_)), "{name}");
            name = name.base_name();
        }
    }

    #[test]
    fn case_makes_no_difference(name in name_of_ours(), upper in any::<Vec<bool>>()) {
        let (zones, names) = berlin();
        let mixed: String = name
            .chars()
            .zip(upper.iter().chain(std::iter::repeat(&false)))
            .map(|(c, upper)| if *upper { c.to_ascii_uppercase() } else { c })
            .collect();
        prop_assert_eq!(
            ask(&zones, Some(&names), &name, RecordType::A),
            ask(&zones, Some(&names), &mixed, RecordType::A)
        );
    }

    /// Whatever bytes a label has (a dot among them is part of it), it is read, and is no name of ours.
    #[test]
    fn strange_labels_are_missing(label in prop::collection::vec(any::<u8>(), 1..20)) {
        let known = ["my-namespace", "svc", "7", "berlin", "europe-west1", "europe-west1-d"];
        prop_assume!(!known.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(&label)));
        let (zones, names) = berlin();
        for apex in ["my-federation.", "example.com."] {
            let name = Name::from_labels([label.as_slice()]).unwrap();
            let name = name.append_domain(&Name::from_ascii(apex).unwrap()).unwrap();
            let is = answer(&zones, Some(&names), &name, RecordType::A);
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
        "_udp",
    ]);
    let apex = prop::sample::select(vec![
        "my-federation.",
        "my-federation.svc.cluster.local.",
        "example.com.",
        "clusterset.local.",
    ]);
    (prop::collection::vec(word, 0..8), apex)
        .prop_map(|(words, apex)| words.into_iter().chain([apex]).collect::<Vec<_>>().join("."))
}

/// A federation with two regions, a zone that two clusters share, a zone named like its region, one with a dot in its
/// name, and a service and namespace named like what stands between them and their place.
fn berlin() -> (Zones, Names) {
    let cluster = |region: &str, zones: &[&str]| Cluster {
        provider: "p".into(),
        region: region.into(),
        zones: zones.iter().map(Into::into).collect(),
    };
    let service = |vips: &[(Scope, &[&str])]| {
        let vips = vips.iter().map(|(scope, ips)| {
            (scope.clone(), ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>())
        });
        let port = |name: &str, protocol, port| Port { name: name.to_owned(), protocol, port };
        let ports = vec![
            port("http", Protocol::Tcp, 80),
            port("dns", Protocol::Udp, 53),
            port("dns", Protocol::Tcp, 53),
            port("", Protocol::Tcp, 42),
        ];
        Arc::new(Service { ports, vips: Arc::new(vips.collect()), ..Service::default() })
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
                service(&[
                    (Scope::Nearest, &["198.18.0.1"]),
                    (Scope::Global, &["198.18.0.2"]),
                    (Scope::Region("europe-west1".into()), &["198.18.0.3"]),
                    (Scope::Zone("europe-west1-d".into()), &["198.18.0.4"]),
                    (Scope::Region("Berlin".into()), &["198.18.0.5"]),
                    (Scope::Zone("berlin".into()), &["198.18.0.6"]),
                    (Scope::Zone("hall.7".into()), &["198.18.0.7"]),
                ]),
            ),
            (ServiceKey::new("svc", "svc"), service(&[(Scope::Global, &["198.18.0.9", "fd00::9"])])),
        ]),
    };
    (zones("my-federation", "example.com"), Names::new(&federation))
}

fn zones(federation: &str, domain: &str) -> Zones {
    let settings =
        FederationSettings { federation: federation.into(), domain: domain.into(), vip_ranges: Vec::new() };
    Zones::new(&settings).unwrap()
}

fn ask<'z>(zones: &'z Zones, names: Option<&Names>, name: &str, record: RecordType) -> Answer<'z> {
    answer(zones, names, &Name::from_ascii(name).unwrap(), record)
}
