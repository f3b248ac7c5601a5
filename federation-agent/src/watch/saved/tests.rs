use super::*;
use crate::model::{
    Endpoint, HealthCheck, HostName, Ingress, IngressPoint, Overprovisioning, Port, Protocol, Question,
    Readiness, Scope, Shard, ShardState, TrafficDistribution,
};

/// Every field with a value that is not its default.
fn federation() -> Federation {
    let cluster = Cluster { provider: "gcp".into(), region: "r".into(), zones: vec!["z".into(), "y".into()] };
    let endpoint = Endpoint {
        address: "fd00::1".parse().unwrap(),
        ports: Arc::new([(("http".to_owned(), Protocol::Sctp), 8080)].into()),
        readiness: Readiness::Serving,
        node: Some("node-1".into()),
        zone: Some("z".into()),
    };
    let points = [
        IngressPoint::Address("192.0.2.1".parse().unwrap()),
        IngressPoint::Host(HostName::from("lb.example")),
    ];
    let service = Service {
        ports: vec![Port { name: "http".to_owned(), protocol: Protocol::Udp, port: 80 }],
        vips: Arc::new(
            [
                (Scope::Nearest, vec!["198.18.0.1".parse().unwrap()]),
                (Scope::Zone("z".into()), vec!["fd00::2".parse().unwrap()]),
            ]
            .into(),
        ),
        shards: [("c".into(), Shard { weight: 7, endpoints: [endpoint].into() })].into(),
        ingress: [("c".into(), Ingress { points: points.into(), state: ShardState::Unknown })].into(),
        client_ip_affinity: true,
        overprovisioning: Overprovisioning::from_percent(200).unwrap(),
        distribution: TrafficDistribution::OnlySameNode,
        health_check: HealthCheck {
            question: Question::Http { path: "/".to_owned(), codes: vec![200..=299] },
            port: Some(1),
            ..HealthCheck::default()
        },
    };
    Federation {
        clusters: [("c".into(), cluster)].into(),
        services: imbl::OrdMap::from_iter([(ServiceKey::new("n", "s"), Arc::new(service))]),
    }
}

fn saved(folder: &tempfile::TempDir) -> Saved {
    Saved::in_folder(folder.path(), "my-federation").unwrap()
}

#[test]
fn what_is_saved_is_read_again_and_leaves_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let saved = saved(&folder);
    assert_eq!(saved.load(), None, "nothing was saved yet");
    saved.save(&Federation::default()).unwrap();
    saved.save(&federation()).unwrap();
    assert_eq!(saved.load(), Some(federation()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_file_is_ignored_whatever_byte_is_damaged_or_missing() {
    let folder = tempfile::tempdir().unwrap();
    let saved = saved(&folder);
    saved.save(&federation()).unwrap();
    let whole = fs::read(&saved.path).unwrap();
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        fs::write(&saved.path, damaged).unwrap();
        assert_eq!(saved.load(), None, "byte {place} is damaged");
        fs::write(&saved.path, &whole[..place]).unwrap();
        assert_eq!(saved.load(), None, "it ends at byte {place}");
    }
    saved.save(&federation()).unwrap();
    assert_eq!(saved.load(), Some(federation()));
}

#[test]
fn a_file_of_another_version_or_federation_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let other = Saved::in_folder(folder.path(), "other").unwrap();
    other.save(&federation()).unwrap();
    let refusal = saved(&folder).read().unwrap_err().to_string();
    assert!(refusal.contains("of the federation other, not of my-federation"), "{refusal}");

    let text = fs::read_to_string(&other.path).unwrap();
    fs::write(&other.path, text.replacen(" 2 ", " 9 ", 1)).unwrap();
    assert_eq!(other.read().unwrap_err().to_string(), "it is of version 9, this agent reads version 2");
}
