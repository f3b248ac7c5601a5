use serde_json::{Value, from_value, json};

use super::*;

#[test]
fn a_cluster_stands_in_its_region_and_zones() {
    let object = from_value(json!({
        "metadata": { "name": "c" },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": "c" }, "provider": "gcp",
            "region": "europe-west1", "zones": ["europe-west1-d", "europe-west1-b"], "networks": ["10.8.0.0/14"],
        },
    }))
    .unwrap();
    let expected = Cluster {
        provider: "gcp".into(),
        region: "europe-west1".into(),
        zones: vec!["europe-west1-d".into(), "europe-west1-b".into()],
    };
    assert_eq!(cluster(&object).unwrap(), Translated { value: expected, left_out: vec![] });
}

#[test]
fn a_cluster_without_zones_is_refused() {
    let object = from_value(json!({
        "metadata": { "name": "c" },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": "c" },
            "region": "europe-west1", "zones": [], "networks": [],
        },
    }))
    .unwrap();
    assert_eq!(cluster(&object), Err(Untranslatable::NoZone));
}

#[test]
fn ports_that_cannot_be_served_are_left_out_and_the_others_stay() {
    let object = from_value(json!({
        "spec": {
            "ports": [
                { "port": 80 },
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "signalling", "port": 3868, "protocol": "SCTP" },
                { "name": "newer", "port": 33, "protocol": "DCCP" },
                { "name": "nothing", "port": 0 },
                { "name": "huge", "port": 65536 },
            ],
        },
    }))
    .unwrap();
    let Translated { value, left_out } = service(&object);
    let port = |name: &str, protocol, port| Port { name: name.into(), protocol, port };
    let (dns, signalling) = (port("dns", Protocol::Udp, 53), port("signalling", Protocol::Sctp, 3868));
    assert_eq!(value.ports, [port("", Protocol::Tcp, 80), dns, signalling]);
    assert_eq!(
        left_out.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            r#"port "newer" has protocol DCCP; TCP, UDP and SCTP are served"#,
            r#"port "nothing" has number Some(0); 1 to 65535 can be served"#,
            r#"port "huge" has number Some(65536); 1 to 65535 can be served"#,
        ]
    );
}

#[test]
fn only_affinity_client_ip_binds_a_client() {
    for (spec, expected) in [
        (json!({}), false),
        (json!({ "sessionAffinity": "None" }), false),
        (json!({ "sessionAffinity": "ClientIP" }), true),
    ] {
        let object = from_value(json!({ "spec": spec })).unwrap();
        assert_eq!(service(&object).value.client_ip_affinity, expected, "{spec}");
    }
}

#[test]
fn traffic_prefers_what_the_service_says() {
    for (spec, expected) in [
        (json!({}), TrafficDistribution::Any),
        (json!({ "trafficDistribution": "PreferClose" }), TrafficDistribution::SameZone),
        (json!({ "trafficDistribution": "PreferSameZone" }), TrafficDistribution::SameZone),
        (json!({ "trafficDistribution": "PreferSameNode" }), TrafficDistribution::SameNode),
        (json!({ "internalTrafficPolicy": "Cluster" }), TrafficDistribution::Any),
        (json!({ "internalTrafficPolicy": "Local" }), TrafficDistribution::OnlySameNode),
        (
            json!({ "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferSameNode" }),
            TrafficDistribution::SameNode,
        ),
        (
            json!({ "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameZone" }),
            TrafficDistribution::OnlySameNode,
        ),
    ] {
        let Translated { value, left_out } = service(&from_value(json!({ "spec": spec })).unwrap());
        assert_eq!((value.distribution, left_out), (expected, vec![]), "{spec}");
    }
    let unknown = json!({ "trafficDistribution": "PreferFar", "internalTrafficPolicy": "Zone" });
    let Translated { value, left_out } = service(&from_value(json!({ "spec": unknown })).unwrap());
    assert_eq!(value.distribution, TrafficDistribution::Any);
    assert_eq!(
        left_out,
        [
            Untranslatable::TrafficDistribution("PreferFar".into()),
            Untranslatable::InternalTrafficPolicy("Zone".into()),
        ]
    );
}

#[test]
fn a_health_check_is_as_good_as_its_values() {
    let object = from_value(json!({
        "metadata": { "name": "s", "namespace": "n" },
        "spec": { "healthCheck": { "intervalMilliseconds": 1000, "healthyThreshold": 11 } },
    }))
    .unwrap();
    let Translated { value, left_out } = federated_service(&object);
    let expected = HealthCheck { interval: std::time::Duration::from_secs(1), ..HealthCheck::default() };
    assert_eq!(value.health_check, expected);
    assert_eq!(
        left_out.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["health check: healthyThreshold is 11, it must be between 1 and 10, inclusive"]
    );
}

#[test]
fn a_federated_service_brings_vips_weights_and_overprovisioning() {
    let object = from_value(json!({
        "metadata": { "name": "s", "namespace": "n" },
        "spec": { "weights": [{ "cluster": "a", "weight": 0 }], "overprovisioningPercent": 200 },
        "status": { "vips": [
            { "scope": "Nearest", "ips": ["172.31.0.1", "fd00:1::1"], "name": "s.n.f" },
            { "scope": "Global", "ips": ["172.31.0.2"], "name": "s.n.f.svc.example.com" },
            { "scope": "Region", "location": "r", "ips": ["172.31.0.3"], "name": "s.n.f.svc.r.example.com" },
            { "scope": "Zone", "location": "z", "ips": ["172.31.0.4"], "name": "s.n.f.svc.z.example.com" },
        ] },
    }))
    .unwrap();
    let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    let Translated { value, left_out } = federated_service(&object);
    assert_eq!(
        *value.vips,
        BTreeMap::from([
            (Scope::Nearest, ips(&["172.31.0.1", "fd00:1::1"])),
            (Scope::Global, ips(&["172.31.0.2"])),
            (Scope::Region("r".into()), ips(&["172.31.0.3"])),
            (Scope::Zone("z".into()), ips(&["172.31.0.4"])),
        ])
    );
    assert_eq!(value.weights, BTreeMap::from([("a".into(), 0)]));
    assert_eq!(value.overprovisioning.percent(), 200);
    assert_eq!(left_out, []);
}

#[test]
fn a_scope_without_its_location_and_a_bad_percentage_are_left_out() {
    let object = from_value(json!({
        "metadata": { "name": "s", "namespace": "n" },
        "spec": { "overprovisioningPercent": 99 },
        "status": { "vips": [
            { "scope": "Region", "ips": ["172.31.0.3"], "name": "?" },
            { "scope": "Nearest", "ips": ["172.31.0.1"], "name": "s.n.f" },
        ] },
    }))
    .unwrap();
    let Translated { value, left_out } = federated_service(&object);
    assert_eq!(value.vips.keys().cloned().collect::<Vec<_>>(), [Scope::Nearest]);
    assert_eq!(value.overprovisioning, Overprovisioning::default());
    assert_eq!(
        left_out,
        [Untranslatable::NoLocation(ScopeKind::Region), Untranslatable::Overprovisioning(99)]
    );
}

#[test]
fn load_balancers_where_no_client_could_be_sent_are_left_out() {
    let point = |point: Value| {
        json!({
            "metadata": { "name": "s", "namespace": "n" },
            "spec": {},
            "status": { "shards": [{
                "cluster": "a", "region": "r", "zone": "z", "state": "Healthy", "readyEndpoints": 1, "endpoints": 1,
                "ingress": [point],
            }] },
        })
    };
    let read = |object: Value| {
        let Translated { value, left_out } = federated_service(&from_value(object).unwrap());
        assert_eq!(value.ingress["a"].state, ShardState::Healthy);
        (value.ingress["a"].points.first().cloned(), left_out)
    };
    for (given, expected) in [
        (json!({ "ip": "192.0.2.1" }), IngressPoint::Address([192, 0, 2, 1].into())),
        (json!({ "ip": "::ffff:192.0.2.1" }), IngressPoint::Address([192, 0, 2, 1].into())),
        (json!({ "hostname": "LB-1.Example.net." }), IngressPoint::Host("lb-1.example.net".into())),
        // The address is nearer to the truth.
        (json!({ "ip": "192.0.2.1", "hostname": "lb" }), IngressPoint::Address([192, 0, 2, 1].into())),
    ] {
        assert_eq!(read(point(given.clone())), (Some(expected), vec![]), "{given}");
    }
    for refused in [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:127.0.0.1",
    ] {
        let left_out = Untranslatable::Ingress { cluster: "a".to_owned(), point: refused.to_owned() };
        assert_eq!(read(point(json!({ "ip": refused }))), (None, vec![left_out]), "{refused}");
    }
    for refused in ["", "a..b", "a b", "*.example.net", &"a".repeat(64), &["a"; 128].join(".")] {
        let left_out = Untranslatable::Ingress { cluster: "a".to_owned(), point: refused.to_owned() };
        assert_eq!(read(point(json!({ "hostname": refused }))), (None, vec![left_out]), "{refused}");
    }
}

#[test]
fn an_endpoint_is_as_ready_as_its_conditions_say() {
    for (conditions, expected) in [
        (Value::Null, Readiness::Ready),
        (json!({}), Readiness::Ready),
        (json!({ "ready": true }), Readiness::Ready),
        (json!({ "ready": false }), Readiness::NotReady),
        (json!({ "ready": false, "serving": true }), Readiness::NotReady),
        (json!({ "ready": false, "serving": true, "terminating": true }), Readiness::Serving),
        (json!({ "ready": false, "serving": false, "terminating": true }), Readiness::NotReady),
        (json!({ "ready": false, "terminating": true }), Readiness::NotReady),
        // publishNotReadyAddresses
        (json!({ "ready": true, "serving": false, "terminating": true }), Readiness::Ready),
    ] {
        let endpoints = json!([{ "addresses": ["10.8.0.1"], "conditions": conditions }]);
        let slice = endpoint_slice(&slice("IPv4", &json!([]), &endpoints)).unwrap().value;
        assert_eq!(slice.endpoints.first().unwrap().readiness, expected, "{conditions}");
    }
}

#[test]
fn a_slice_brings_the_endpoints_of_one_shard() {
    let translated = endpoint_slice(&slice(
        "IPv6",
        &json!([{ "port": 8080 }, { "name": "any" }, { "name": "s", "port": 1, "protocol": "DCCP" }]),
        &json!([
            { "addresses": ["fd00:8::1", "fd00:8::2"], "nodeName": "node-1", "zone": "europe-west1-d" },
            { "addresses": ["10.8.0.1"] },
            { "addresses": [] },
        ]),
    ))
    .unwrap();
    let endpoint = Endpoint {
        address: "fd00:8::1".parse().unwrap(),
        ports: Arc::new([((String::new(), Protocol::Tcp), 8080)].into()),
        readiness: Readiness::Ready,
        node: Some("node-1".into()),
        zone: Some("europe-west1-d".into()),
    };
    let expected = Slice {
        service: ServiceKey::new("my-namespace", "my-service"),
        cluster: "europe-west1-d".into(),
        endpoints: [endpoint].into(),
    };
    assert_eq!(translated.value, expected);
    assert_eq!(
        translated.left_out,
        [
            Untranslatable::PortNumber { port: "any".into(), number: None },
            Untranslatable::Protocol { port: "s".into(), protocol: "DCCP".into() },
            Untranslatable::Address { address: "10.8.0.1".into(), family: "IPv6".into() },
            Untranslatable::NoAddress,
        ]
    );
}

#[test]
fn a_slice_that_belongs_nowhere_is_refused() {
    let whole = || serde_json::to_value(slice("IPv4", &json!([]), &json!([]))).unwrap();
    let without = |pointer: &str, member: &str| {
        let mut object = whole();
        object.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(member);
        object
    };
    let mut names = whole();
    names["addressType"] = json!("FQDN");
    for (object, expected) in [
        (without("/metadata/labels", SERVICE_LABEL), Untranslatable::NoLabel(SERVICE_LABEL)),
        (without("/metadata/labels", CLUSTER_LABEL), Untranslatable::NoLabel(CLUSTER_LABEL)),
        (without("/metadata", "namespace"), Untranslatable::NoNamespace),
        (names, Untranslatable::AddressType("FQDN".into())),
    ] {
        assert_eq!(endpoint_slice(&from_value(object).unwrap()), Err(expected));
    }
}

fn slice(address_type: &str, ports: &Value, endpoints: &Value) -> discovery::v1::EndpointSlice {
    from_value(json!({
        "metadata": {
            "name": "europe-west1-d-my-service",
            "namespace": "my-namespace",
            "labels": { SERVICE_LABEL: "my-service", CLUSTER_LABEL: "europe-west1-d" },
        },
        "addressType": address_type,
        "ports": ports,
        "endpoints": endpoints,
    }))
    .unwrap()
}
