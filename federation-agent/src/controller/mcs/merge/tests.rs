use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// An export made at `second`, with what is said otherwise.
fn export(second: i64, otherwise: Value) -> Export {
    let mut export = json!({
        "since": Time(Timestamp::from_second(second).expect("a time")),
        "ports": [{ "name": "tcp", "protocol": "TCP", "port": 42 }, { "name": "udp", "protocol": "UDP", "port": 42 }],
        "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
    });
    let Value::Object(otherwise) = otherwise else { panic!("fields") };
    export.as_object_mut().expect("an object").extend(otherwise);
    serde_json::from_value(export).expect("an export")
}

fn of(exports: &[(&str, Export)]) -> Exports {
    exports.iter().map(|(cluster, export)| ((*cluster).to_owned(), export.clone())).collect()
}

fn ports(service: &Export) -> Vec<String> {
    service
        .ports
        .iter()
        .map(|port| {
            let name = port.name.as_deref().unwrap_or_default();
            format!("{name}:{}/{}", port.port, port.protocol.as_deref().unwrap_or_default())
        })
        .collect()
}

#[test]
fn nobodys_exports_make_nothing_and_one_makes_itself() {
    assert_eq!(merge(&Exports::new()), None);
    let alone = export(1, json!({}));
    let merged = merge(&of(&[("a", alone.clone())])).expect("a service");
    assert_eq!((merged.service, merged.conflicts), (alone, Vec::new()));
}

#[test]
fn each_property_is_the_oldest_exports_and_its_conflict_has_the_word_of_the_api() {
    let client_ip = |seconds: i32| json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } } });
    let cases = [
        (json!({}), json!({ "headless": true }), "TypeConflict"),
        (json!({ "headless": true }), json!({}), "TypeConflict"),
        (json!({}), client_ip(10), "SessionAffinityConflict"),
        (client_ip(10), client_ip(20), "SessionAffinityConfigConflict"),
        (json!({}), json!({ "internalTrafficPolicy": "Local" }), "InternalTrafficPolicyConflict"),
        (json!({ "trafficDistribution": "PreferClose" }), json!({}), "TrafficDistributionConflict"),
        (json!({ "ipFamilies": ["IPv4", "IPv6"] }), json!({}), "IPFamilyConflict"),
        (json!({}), json!({ "ipFamilies": ["IPv6"] }), "IPFamilyConflict"),
        (json!({}), json!({ "ipFamilies": ["IPv6", "IPv4"] }), ""),
        (json!({ "labels": { "a": "1" } }), json!({ "labels": { "b": "1" } }), "LabelsConflict"),
        (json!({ "annotations": { "a": "1" } }), json!({}), "AnnotationsConflict"),
        (json!({}), json!({ "ports": [] }), "PortConflict"),
    ];
    for (older, newer, reason) in cases {
        // The older one's cluster comes last by name, so that age alone can tell.
        let (older, newer) = (export(1, older), export(2, newer));
        let exports = of(&[("z", older.clone()), ("a", newer.clone()), ("b", newer)]);
        let merged = merge(&exports).expect("a service");
        let reasons: Vec<_> = merged.conflicts.iter().map(|conflict| conflict.property.reason()).collect();
        assert_eq!(reasons.join(","), reason, "{older:?}");
        assert!(merged.conflicts.iter().all(|conflict| conflict.disagree == 2), "{:?}", merged.conflicts);
        assert_eq!((merged.service, merged.oldest.as_str()), (older, "z"));
    }
}

#[test]
fn ports_are_united_by_name_and_then_by_number() {
    let port = |name: &str, protocol: &str, number: i32| json!({ "name": name, "protocol": protocol, "port": number });
    let cases = [
        (vec![port("tcp", "TCP", 42), port("udp", "UDP", 42)], vec!["tcp:42/TCP", "udp:42/UDP"], false),
        (
            vec![port("tcp", "TCP", 42), port("stcp", "SCTP", 142)],
            vec!["tcp:42/TCP", "udp:42/UDP", "stcp:142/SCTP"],
            true,
        ),
        (vec![port("tcp", "TCP", 43), port("udp", "UDP", 42)], vec!["tcp:42/TCP", "udp:42/UDP"], true),
        (vec![port("web", "TCP", 42), port("udp", "UDP", 42)], vec!["tcp:42/TCP", "udp:42/UDP"], true),
        (vec![json!({ "protocol": "TCP", "port": 80 })], vec!["tcp:42/TCP", "udp:42/UDP", ":80/TCP"], true),
        (vec![port("udp", "UDP", 42), port("tcp", "TCP", 42)], vec!["tcp:42/TCP", "udp:42/UDP"], false),
    ];
    for (newer, united, conflicts) in cases {
        let exports = of(&[("a", export(1, json!({}))), ("b", export(2, json!({ "ports": newer })))]);
        let merged = merge(&exports).expect("a service");
        assert_eq!(ports(&merged.service), united);
        let expected =
            if conflicts { vec![Conflict { property: Property::Ports, disagree: 1 }] } else { vec![] };
        assert_eq!(merged.conflicts, expected, "{newer:?}");
    }
}

/// Exports of few values, so that they agree and disagree often.
fn some_export() -> impl Strategy<Value = Export> {
    let name = prop::sample::select(vec!["", "a", "b"]);
    let port = (name, prop::sample::select(vec!["TCP", "UDP"]), 80_i32..83);
    let ports = prop::collection::vec(port, 0..4);
    (0_i64..3, ports, any::<bool>(), any::<bool>(), prop::sample::subsequence(vec!["IPv4", "IPv6"], 0..=2)).prop_map(
        |(second, ports, headless, affine, families)| {
            let ports: Vec<_> = ports
                .into_iter()
                .map(|(name, protocol, port)| {
                    let name = Some(name).filter(|name| !name.is_empty());
                    json!({ "name": name, "protocol": protocol, "port": port })
                })
                .collect();
            let affinity = if affine { "ClientIP" } else { "None" };
            export(
                second,
                json!({ "ports": ports, "headless": headless, "sessionAffinity": affinity, "ipFamilies": families }),
            )
        },
    )
}

fn some_exports() -> impl Strategy<Value = Vec<(String, Export)>> {
    prop::collection::btree_map("[a-e]", some_export(), 1..5)
        .prop_map(|exports| exports.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

proptest! {
    #[test]
    fn the_order_in_which_exports_are_seen_makes_no_difference(exports in some_exports()) {
        let forwards = merge(&exports.iter().cloned().collect());
        let backwards = merge(&exports.into_iter().rev().collect());
        prop_assert_eq!(forwards, backwards);
    }

    #[test]
    fn the_oldest_wins_whatever_others_say(exports in some_exports(), other in some_export()) {
        let exports: Exports = exports.into_iter().collect();
        let before = merge(&exports).expect("a service");
        let mut other = other;
        other.since = Time(Timestamp::from_second(9).expect("a time"));
        let mut more = exports.clone();
        more.insert("later".to_owned(), other);
        let after = merge(&more).expect("a service");
        prop_assert_eq!(&before.oldest, &after.oldest);
        let oldest = &exports[&after.oldest];
        prop_assert!(exports.values().all(|export| oldest.since.0 <= export.since.0));
        // Whoever comes later changes nothing but adds ports, behind those that are there.
        prop_assert_eq!(&after.service.ports[..before.service.ports.len()], &before.service.ports[..]);
        let without_ports = |export: &Export| Export { ports: Vec::new(), ..export.clone() };
        prop_assert_eq!(without_ports(&after.service), without_ports(oldest));
    }

    #[test]
    fn united_ports_exclude_each_other_nowhere_and_miss_nobodys_name_and_number(exports in some_exports()) {
        let exports: Exports = exports.into_iter().collect();
        let united = merge(&exports).expect("a service").service.ports;
        for (index, port) in united.iter().enumerate() {
            for other in &united[index + 1..] {
                prop_assert!(port.name != other.name && !same_number(port, other), "{united:?}");
            }
        }
        for port in exports.values().flat_map(|export| &export.ports) {
            prop_assert!(united.iter().any(|known| known.name == port.name || same_number(known, port)));
        }
    }

    #[test]
    fn there_is_a_conflict_exactly_where_exports_differ(export in some_export(), clusters in 1_usize..4) {
        let alike: Exports = (0..clusters).map(|number| (number.to_string(), export.clone())).collect();
        let merged = merge(&alike).expect("a service");
        prop_assert_eq!(merged.conflicts, Vec::new());
    }
}
