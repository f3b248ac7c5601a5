//! Objects, what stood there before, and what is said about them: one table a kind.

use serde_json::{Value, json};

use super::names;
use crate::apiserver::kinds::{
    CONFIG_MAP, ENDPOINT_SLICE, FEDERATED_SERVICE, Kind, LEASE, Refusal, SECRET, SERVICE,
};
use crate::apiserver::status::FieldErrors;

/// What is wrong with `object`, given what is stored.
fn faults(kind: &Kind, object: &Value, old: Option<&Value>) -> String {
    let admitted = (kind.admit)(object, old).unwrap_or_else(|refusal| panic!("{object}: {refusal:?}"));
    assert!(admitted.unknown_fields.is_empty(), "{:?}", admitted.unknown_fields);
    let mut errors = FieldErrors::default();
    names::metadata(object, kind.name_rule, &mut errors);
    errors.append(admitted.faults);
    if errors.is_empty() { String::new() } else { errors.to_string() }
}

fn named(part: &str, content: Value) -> Value {
    let mut object = json!({ "metadata": { "name": "web", "namespace": "default" } });
    object[part] = content;
    object
}

/// A Service with one port; `spec` says what is different.
fn service(spec: Value) -> Value {
    let mut whole = json!({ "ports": [{ "name": "http", "port": 80 }] });
    let (Value::Object(fields), Value::Object(more)) = (&mut whole, spec) else { unreachable!("objects") };
    fields.extend(more);
    named("spec", whole)
}

fn ports(ports: &Value) -> Value {
    service(json!({ "ports": ports }))
}

#[test]
fn a_service_is_refused_for_what_its_type_does_not_have() {
    const ONLY_LB: &str = "may only be used when `type` is 'LoadBalancer'";
    let node_ports = json!([
        { "name": "a", "port": 80, "nodePort": 30_080 },
        { "name": "b", "port": 81, "nodePort": 30_080 },
    ]);
    let cases = [
        (service(json!({})), ""),
        (service(json!({ "type": "NodePort", "externalTrafficPolicy": "Local" })), ""),
        (service(json!({ "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local" })), ""),
        (
            service(
                json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "loadBalancerClass": "a/b" }),
            ),
            "",
        ),
        (
            ports(&json!([{ "port": 80, "nodePort": 30_080 }])),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            service(json!({ "type": "NodePort", "ports": node_ports })),
            "spec.ports[1].nodePort: Duplicate value: 30080",
        ),
        (
            service(json!({ "type": "NodePort", "clusterIP": "None" })),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (
            service(json!({ "externalTrafficPolicy": "Local" })),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (
            service(json!({ "type": "NodePort", "externalTrafficPolicy": "Near" })),
            "spec.externalTrafficPolicy: Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"",
        ),
        (
            service(json!({ "healthCheckNodePort": 30_000 })),
            "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and \
             `externalTrafficPolicy` is 'Local'",
        ),
        (
            service(json!({ "loadBalancerClass": "a/b" })),
            &format!("spec.loadBalancerClass: Forbidden: {ONLY_LB}"),
        ),
        (
            service(json!({ "allocateLoadBalancerNodePorts": false })),
            &format!("spec.allocateLoadBalancerNodePorts: Forbidden: {ONLY_LB}"),
        ),
        (
            service(json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0"] })),
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"192.0.2.0\": must be a valid CIDR value, (e.g. \
             10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            service(json!({ "type": "LoadBalancer", "ports": [{ "port": 10_250 }] })),
            "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
        ),
        (
            service(json!({ "externalIPs": ["127.0.0.1"] })),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            service(json!({ "externalIPs": ["first"] })),
            "spec.externalIPs[0]: Invalid value: \"first\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            service(
                json!({ "type": "ExternalName", "externalName": "example.com.", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"] }),
            ),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ),
        (service(json!({ "type": "ExternalName" })), "spec.externalName: Required value"),
    ];
    for (object, expected) in cases {
        assert_eq!(faults(&SERVICE, &object, None), expected, "{object}");
    }
    let balanced = |class: &str| service(json!({ "type": "LoadBalancer", "loadBalancerClass": class }));
    assert_eq!(
        faults(&SERVICE, &balanced("a/c"), Some(&balanced("a/b"))),
        "spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"
    );
}

#[test]
fn whoever_changes_a_services_type_need_not_take_away_what_came_with_it() {
    let admitted = |object: &Value, old: Option<&Value>| {
        let admitted = (SERVICE.admit)(object, old).expect("a service");
        assert!(admitted.faults.is_empty(), "{}", admitted.faults);
        admitted.object
    };
    let old = admitted(
        &service(json!({
            "type": "LoadBalancer", "ports": [{ "port": 80, "nodePort": 30_080 }], "loadBalancerClass": "a/b",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_000,
        })),
        None,
    );
    let mut plain = old.clone();
    plain["spec"]["type"] = "ClusterIP".into();
    let plain = admitted(&plain, Some(&old));
    assert_eq!(plain, admitted(&service(json!({ "ports": [{ "port": 80 }] })), None));

    let old = admitted(&service(json!({ "clusterIP": "10.0.0.1" })), None);
    let mut elsewhere = old.clone();
    elsewhere["spec"]["type"] = "ExternalName".into();
    elsewhere["spec"]["externalName"] = "example.com".into();
    let spec = &admitted(&elsewhere, Some(&old))["spec"];
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(spec.get(field), None, "{field}");
    }
}

#[test]
fn names_references_and_finalizers_are_refused_by_kind_or_for_all() {
    let meta = |more: Value| {
        let mut object = service(json!({}));
        let (Value::Object(fields), Value::Object(more)) = (&mut object["metadata"], more) else {
            unreachable!("objects")
        };
        fields.extend(more);
        object
    };
    let owner = |more: Value| {
        let mut owner = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u" });
        let (Value::Object(fields), Value::Object(more)) = (&mut owner, more) else {
            unreachable!("objects")
        };
        fields.extend(more);
        owner
    };
    let controller = owner(json!({ "controller": true }));
    let cases = [
        (json!({ "generateName": "web-" }), ""),
        (json!({ "ownerReferences": [owner(json!({})), controller] }), ""),
        (
            json!({ "generateName": "Web-" }),
            "metadata.generateName: Invalid value: \"Web-\": a DNS-1035 label",
        ),
        (
            json!({ "ownerReferences": [owner(json!({ "uid": "" }))] }),
            "metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty",
        ),
        (
            json!({ "ownerReferences": [owner(json!({ "kind": "Event" }))] }),
            "is disallowed from being an owner",
        ),
        (
            json!({ "ownerReferences": [controller, controller] }),
            "Only one reference can have Controller set to true. Found \"true\" in references for ConfigMap/a and ConfigMap/a",
        ),
        (
            json!({ "finalizers": ["orphan", "foregroundDeletion"] }),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ),
    ];
    for (more, expected) in cases {
        let found = faults(&SERVICE, &meta(more.clone()), None);
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{more}: {found}");
    }
}

#[test]
fn data_is_refused_by_its_type_its_size_and_its_immutability() {
    let secret = |kind: &str, data: Value| {
        let mut secret = named("data", data);
        secret["type"] = kind.into();
        secret
    };
    let large = "A".repeat(4 * 1024 * 1024 / 2);
    let cases = [
        (&SECRET, secret("kubernetes.io/tls", json!({ "tls.crt": "", "tls.key": "" })), ""),
        (&SECRET, secret("kubernetes.io/tls", json!({ "tls.crt": "" })), "data[tls.key]: Required value"),
        (
            &SECRET,
            secret("kubernetes.io/basic-auth", json!({})),
            "[data[username]: Required value, data[password]: Required value]",
        ),
        (&SECRET, secret("kubernetes.io/basic-auth", json!({ "password": "" })), ""),
        (&SECRET, secret("kubernetes.io/ssh-auth", json!({})), "data[ssh-privatekey]: Required value"),
        (&SECRET, secret("kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": "e30=" })), ""),
        (&SECRET, secret("example.com/any", json!({})), ""),
        (
            &SECRET,
            secret("Opaque", json!({ "a": large })),
            "data: Too long: may not be more than 1048576 bytes",
        ),
        (
            &CONFIG_MAP,
            named("data", json!({ "a": large })),
            "[]: Too long: may not be more than 1048576 bytes",
        ),
    ];
    for (kind, object, expected) in cases {
        assert_eq!(faults(kind, &object, None), expected, "{}", kind.name);
    }
    let broken = secret("kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": "e30" }));
    assert!((SECRET.admit)(&broken, None).is_err(), "data is base64");
    let broken = faults(
        &SECRET,
        &secret("kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": "e3s=" })),
        None,
    );
    assert!(
        broken.starts_with("data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\""),
        "{broken}"
    );

    let mut twice = named("data", json!({ "a": "1" }));
    twice["binaryData"] = json!({ "a": "" });
    assert_eq!(
        faults(&CONFIG_MAP, &twice, None),
        "data[a]: Invalid value: \"a\": duplicate of key present in binaryData"
    );
    let mut fixed = named("data", json!({ "a": "1" }));
    fixed["immutable"] = true.into();
    let forbidden = |field: &str| format!("{field}: Forbidden: field is immutable when `immutable` is set");
    assert_eq!(
        faults(&CONFIG_MAP, &named("data", json!({ "a": "2" })), Some(&fixed)),
        format!("[{}, {}]", forbidden("immutable"), forbidden("data"))
    );
}

#[test]
fn slices_and_leases_are_refused_field_by_field() {
    let slice = |endpoint: Value| {
        let mut slice = named("endpoints", json!([endpoint]));
        slice["addressType"] = "IPv4".into();
        slice
    };
    let endpoint = |field: &str, value: Value| {
        let mut endpoint = json!({ "addresses": ["192.0.2.1"] });
        endpoint[field] = value;
        slice(endpoint)
    };
    let zones = |names: &[&str]| {
        let zones: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        endpoint("hints", json!({ "forZones": zones }))
    };
    let lease = |spec: Value| named("spec", spec);
    let cases = [
        (&ENDPOINT_SLICE, endpoint("nodeName", json!("node.example")), ""),
        (&ENDPOINT_SLICE, zones(&["a", "b"]), ""),
        (
            &ENDPOINT_SLICE,
            endpoint("nodeName", json!("Node")),
            "endpoints[0].nodeName: Invalid value: \"Node\": a lowercase",
        ),
        (
            &ENDPOINT_SLICE,
            endpoint("hostname", json!("a.b")),
            "endpoints[0].hostname: Invalid value: \"a.b\": a lowercase",
        ),
        (&ENDPOINT_SLICE, zones(&["a", "a"]), "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""),
        (
            &ENDPOINT_SLICE,
            zones(&["a"; 9]),
            "endpoints[0].hints.forZones: Too many: 9: must have at most 8 items",
        ),
        (&LEASE, lease(json!({ "holderIdentity": "a", "leaseDurationSeconds": 1 })), ""),
        (
            &LEASE,
            lease(json!({ "holderIdentity": "" })),
            "spec.holderIdentity: Invalid value: \"\": must not be empty",
        ),
        (
            &LEASE,
            lease(json!({ "leaseDurationSeconds": 0 })),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
    ];
    for (kind, object, expected) in cases {
        let found = faults(kind, &object, None);
        assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{object}: {found}");
    }
}

#[test]
fn a_health_check_that_nodes_could_not_ask_is_refused_field_by_field() {
    let check = |check: Value| named("spec", json!({ "healthCheck": check }));
    let cases = [
        (json!({}), ""),
        (json!({ "protocol": "HTTP", "path": "/healthz", "expectedCodes": ["200-299"] }), ""),
        (
            json!({ "port": 0 }),
            "spec.healthCheck.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({ "intervalMilliseconds": 49 }),
            "spec.healthCheck.intervalMilliseconds: Invalid value: 49: must be between 50 and 60000, inclusive",
        ),
        (
            json!({ "timeoutMilliseconds": 60_001, "unhealthyThreshold": 0 }),
            "[spec.healthCheck.timeoutMilliseconds: Invalid value: 60001: must be between 50 and 60000, inclusive, \
             spec.healthCheck.unhealthyThreshold: Invalid value: 0: must be between 1 and 10, inclusive]",
        ),
        (
            json!({ "protocol": "HTTP", "path": "healthz" }),
            "spec.healthCheck.path: Invalid value: \"healthz\": must begin with / and have no blanks",
        ),
        (
            json!({ "protocol": "HTTP", "expectedCodes": ["2xx"] }),
            "spec.healthCheck.expectedCodes: Invalid value: \"2xx\": must be a code like 200 or a range like 200-399",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(faults(&FEDERATED_SERVICE, &check(spec.clone()), None), expected, "{spec}");
    }
    for undecodable in [json!({ "protocol": "ICMP" }), json!({ "port": 70_000 }), json!({ "port": "http" })] {
        let refusal = (FEDERATED_SERVICE.admit)(&check(undecodable.clone()), None);
        let Err(Refusal::Undecodable(why)) = refusal else { panic!("{undecodable}: {refusal:?}") };
        assert!(why.starts_with("spec.healthCheck."), "{undecodable}: {why}");
    }
}
