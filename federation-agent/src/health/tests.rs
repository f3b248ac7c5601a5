//! Stories of a watch whose questions are answered by the test, in a time of the test's own.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    probe::{Answer, Failure, Inquiry},
    *,
};
use crate::{
    model::{Cluster, Endpoint, Locality, Port, Protocol::Tcp, Readiness, Service, Shard},
    plan::Verdict,
};

const HERE: &str = "here";
const NEXT: &str = "next";
const FAR: &str = "far";
const AWAY: &str = "away";

/// How endpoints answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Well,
    Silent,
    Refusing,
}

struct Bench {
    watch: Watch,
    now: Instant,
    manners: BTreeMap<&'static str, Manner>,
    /// Inquiries by cluster.
    asked: BTreeMap<String, usize>,
    addresses: usize,
    news: Vec<News>,
    pending: Vec<(Instant, Progress)>,
}

fn address(cluster: usize, n: u8) -> SocketAddr {
    SocketAddr::from(([10, u8::try_from(cluster).unwrap() + 8, 0, n], 8080))
}

fn federation(clusters: &[&'static str], endpoints: u8) -> Federation {
    let mut federation = Federation::default();
    let mut service =
        Service { ports: vec![Port { name: String::new(), protocol: Tcp, port: 80 }], ..Service::default() };
    for (c, name) in clusters.iter().enumerate() {
        let place = Cluster { provider: "p".into(), region: (*name).into(), zones: vec![(*name).into()] };
        federation.clusters.insert((*name).into(), place);
        let endpoints = (1..=endpoints)
            .map(|n| Endpoint {
                address: address(c, n).ip(),
                ports: Arc::new([((String::new(), Tcp), 8080)].into()),
                readiness: Readiness::Ready,
                node: Some(format!("node-{n}").into()),
                zone: None,
            })
            .collect();
        service.shards.insert((*name).into(), Shard { weight: 100, endpoints });
    }
    federation.services.insert(service_key(), Arc::new(service));
    federation
}

fn service_key() -> ServiceKey {
    ServiceKey::new("ns", "s")
}

impl Bench {
    fn new(clusters: &[&'static str], endpoints: u8) -> Self {
        Self::inheriting(clusters, endpoints, Vec::new())
    }

    fn inheriting(clusters: &[&'static str], endpoints: u8, dead: Vec<Backend>) -> Self {
        let locality =
            Locality { provider: "p".into(), region: HERE.into(), zone: HERE.into(), cluster: HERE.into() };
        let now = Instant::now();
        let place = Place { locality, node: "node-1".into() };
        let mut watch = Watch::new(Beginning { place, dead }, now);
        watch.follow(&federation(clusters, endpoints), now);
        let manners = clusters.iter().map(|name| (*name, Manner::Well)).collect();
        Self {
            watch,
            now,
            manners,
            asked: BTreeMap::new(),
            addresses: 0,
            news: Vec::new(),
            pending: Vec::new(),
        }
    }

    fn set(&mut self, cluster: &'static str, manner: Manner) {
        self.manners.insert(cluster, manner);
    }

    /// Goes on for so long, every question answered as its cluster does.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for inquiry in self.watch.due(self.now) {
                *self.asked.entry(inquiry.shard.1.to_string()).or_default() += 1;
                self.addresses += inquiry.sample.len() + inquiry.again.len();
                let answers = self.answers(&inquiry);
                self.pending.extend(answers);
            }
            let pending = std::mem::take(&mut self.pending);
            let (now, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(at, _)| *at <= self.now);
            self.pending = later;
            for (_, progress) in now {
                self.watch.hear(progress, self.now);
            }
            self.watch.end_ejections(self.now);
            self.news.append(&mut self.watch.news);
            self.watch.take_changed();
            self.now += Duration::from_millis(5);
        }
    }

    fn answers(&self, inquiry: &Inquiry) -> Vec<(Instant, Progress)> {
        let manner = self.manners[inquiry.shard.1.as_str()];
        let answer = |address: &SocketAddr| Answer {
            address: *address,
            at: self.now,
            result: match manner {
                Manner::Well => Ok(()),
                Manner::Silent => {
                    Err(Failure { silent: true, no_route: false, evidence: "no answer".into() })
                }
                Manner::Refusing => {
                    Err(Failure { silent: false, no_route: false, evidence: "refused".into() })
                }
            },
            round_trip: (manner == Manner::Well).then_some(Duration::from_millis(5)),
        };
        let [sample, again] = [&inquiry.sample, &inquiry.again].map(|list| list.iter().map(answer).collect());
        let report = Report { shard: inquiry.shard.clone(), asked: self.now, sample, again, trouble: None };
        let done = |after| (self.now + after, Progress::Done(report));
        match manner {
            Manner::Well => vec![done(Duration::from_millis(5))],
            Manner::Refusing => vec![done(Duration::from_millis(130))],
            Manner::Silent => vec![
                {
                    let at = self.now + inquiry.check.begin(1);
                    (at, Progress::LastAttempt { shard: inquiry.shard.clone(), at })
                },
                (self.now + inquiry.patience / 2, Progress::Uneasy { shard: inquiry.shard.clone() }),
                done(inquiry.patience),
            ],
        }
    }

    fn used(&mut self, cluster: usize) {
        self.watch.observe(Observation::Used(vec![(address(cluster, 1), Tcp)]), self.now);
    }

    fn verdict(&self, cluster: &str) -> Option<Verdict> {
        let found = self.watch.health.of(&service_key(), &cluster.into())?;
        found.all.clone()
    }

    /// Once everybody has been asked.
    fn settled(clusters: &[&'static str], endpoints: u8) -> Self {
        let mut bench = Self::new(clusters, endpoints);
        bench.run(Duration::from_secs(12));
        bench.asked.clear();
        bench
    }
}

const ALL: [&str; 4] = [HERE, NEXT, FAR, AWAY];

#[test]
fn a_used_shard_is_asked_often_and_the_others_seldom() {
    let mut bench = Bench::settled(&ALL, 2);
    for _ in 0..10 {
        bench.used(1);
        bench.run(Duration::from_secs(1));
    }
    let times = |name: &str| bench.asked.get(name).copied().unwrap_or(0);
    assert!((35..=45).contains(&times(NEXT)), "{:?}", bench.asked);
    assert!((1..=2).contains(&times(FAR)), "{:?}", bench.asked);
}

#[test]
fn a_used_shard_that_falls_silent_is_left_within_half_a_second_and_dead_when_others_have_spoken() {
    let mut bench = Bench::settled(&ALL, 3);
    bench.used(1);
    bench.run(Duration::from_millis(700));
    bench.set(NEXT, Manner::Silent);
    // The turn that it waits for (jitter and all), the timeout beyond two round trips, and the steps of this bench.
    bench.run(Duration::from_millis(275 + 260 + 15));
    assert!(bench.verdict(NEXT).is_some());
    assert!(bench.news.is_empty(), "it may yet be a moment's trouble: {:?}", bench.news);
    bench.run(Duration::from_millis(300));
    assert!(matches!(bench.verdict(NEXT), Some(Verdict::Failed { .. })), "{:?}", bench.verdict(NEXT));
    assert_eq!(bench.verdict(FAR), None);
    let reasons: Vec<_> = bench.news.iter().map(News::reason).collect();
    assert_eq!(reasons, ["ShardFailed"]);
}

#[test]
fn who_falls_silent_with_most_others_is_doubted_and_recovers_with_them() {
    let mut bench = Bench::settled(&ALL, 1);
    let start = bench.now;
    bench.used(1);
    bench.run(Duration::from_millis(700));
    for cluster in [NEXT, FAR, AWAY] {
        bench.set(cluster, Manner::Silent);
    }
    bench.run(Duration::from_secs(5));
    assert!(matches!(bench.verdict(NEXT), Some(Verdict::Doubted { .. })), "{:?}", bench.verdict(NEXT));
    assert!(bench.news.iter().all(|item| matches!(item.turn, Turn::Doubted { .. })), "{:?}", bench.news);
    for cluster in [NEXT, FAR, AWAY] {
        bench.set(cluster, Manner::Well);
    }
    // Whoever speaks first harms nobody who is asked later.
    while ALL.iter().any(|cluster| bench.verdict(cluster).is_some()) {
        bench.run(Duration::from_millis(5));
        let dead = ALL.iter().any(|c| matches!(bench.verdict(c), Some(Verdict::Failed { .. })));
        assert!(!dead && bench.now < start + Duration::from_secs(30));
    }
}

#[test]
fn clients_whom_nobody_answers_eject_nobody_whom_probes_have_found_silent() {
    let mut bench = Bench::settled(&ALL, 1);
    bench.used(1);
    bench.run(Duration::from_millis(700));
    for cluster in [NEXT, FAR, AWAY] {
        bench.set(cluster, Manner::Silent);
    }
    bench.run(Duration::from_secs(1));
    let (backend, protocol) = (address(1, 1), Tcp);
    bench.watch.observe(Observation::Unanswered { backend, protocol, in_a_row: 100 }, bench.now);
    for cluster in [NEXT, FAR, AWAY] {
        bench.set(cluster, Manner::Well);
    }
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.verdict(NEXT), None, "it is back as soon as it answers");
    bench.watch.observe(Observation::Unanswered { backend, protocol, in_a_row: 5 }, bench.now);
    bench.run(Duration::from_millis(10));
    assert!(bench.news.iter().any(|item| matches!(item.turn, Turn::Ejected { .. })), "{:?}", bench.news);
}

#[test]
fn who_was_doubted_is_dead_once_others_speak() {
    let mut bench = Bench::settled(&ALL, 1);
    bench.used(1);
    bench.run(Duration::from_millis(700));
    for cluster in [NEXT, FAR, AWAY] {
        bench.set(cluster, Manner::Silent);
    }
    bench.run(Duration::from_secs(3));
    bench.set(FAR, Manner::Well);
    bench.set(AWAY, Manner::Well);
    bench.run(Duration::from_secs(3));
    assert!(matches!(bench.verdict(NEXT), Some(Verdict::Failed { .. })), "{:?}", bench.verdict(NEXT));
    assert_eq!(bench.verdict(FAR), None);
}

#[test]
fn a_witness_that_speaks_all_the_time_is_heard() {
    // Nobody knows yet how far the silent one is: it is waited for much longer than until the witness speaks again.
    let mut bench = Bench::new(&[HERE, NEXT, FAR], 1);
    bench.set(NEXT, Manner::Silent);
    for _ in 0..6 {
        bench.used(1);
        bench.used(2);
        bench.run(Duration::from_secs(1));
    }
    assert!(matches!(bench.verdict(NEXT), Some(Verdict::Failed { .. })), "{:?}", bench.verdict(NEXT));
}

#[test]
fn a_lone_neighbour_that_falls_silent_is_dead_while_this_node_knows_a_way_there() {
    for measured in [true, false] {
        let mut bench =
            if measured { Bench::settled(&[HERE, NEXT], 1) } else { Bench::new(&[HERE, NEXT], 1) };
        bench.used(1);
        bench.set(NEXT, Manner::Silent);
        bench.run(Duration::from_secs(5));
        assert!(matches!(bench.verdict(NEXT), Some(Verdict::Failed { .. })), "{:?}", bench.verdict(NEXT));
    }
}

#[test]
fn a_shard_that_refuses_is_dead_whoever_else_is_silent() {
    let mut bench = Bench::settled(&[HERE, NEXT], 3);
    bench.used(1);
    bench.set(NEXT, Manner::Refusing);
    bench.run(Duration::from_millis(500));
    assert!(matches!(bench.verdict(NEXT), Some(Verdict::Failed { .. })), "{:?}", bench.verdict(NEXT));
    bench.set(NEXT, Manner::Well);
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.verdict(NEXT), None);
    let reasons: Vec<_> = bench.news.iter().map(News::reason).collect();
    assert_eq!(reasons, ["ShardFailed", "ShardRecovered"]);
}

#[test]
fn one_answer_does_not_bring_back_who_has_failed() {
    let mut bench = Bench::settled(&ALL, 1);
    bench.used(1);
    bench.set(NEXT, Manner::Refusing);
    bench.run(Duration::from_millis(500));
    bench.set(NEXT, Manner::Well);
    let start = bench.now;
    let mut answers = 0;
    while bench.verdict(NEXT).is_some() {
        let before = bench.asked[NEXT];
        bench.run(Duration::from_millis(50));
        answers += bench.asked[NEXT] - before;
        assert!(answers < 10 && bench.now < start + Duration::from_secs(5));
    }
    assert!(answers >= 2);
}

#[test]
fn who_flaps_every_second_comes_back_ever_more_seldom() {
    let mut bench = Bench::settled(&ALL, 3);
    let mut returns = 0;
    let mut is_in = true;
    for second in 0..60 {
        bench.used(1);
        bench.set(NEXT, if second % 2 == 0 { Manner::Silent } else { Manner::Well });
        for _ in 0..10 {
            bench.run(Duration::from_millis(100));
            let was_in = std::mem::replace(&mut is_in, bench.verdict(NEXT).is_none());
            returns += usize::from(is_in && !was_in);
        }
    }
    assert!((2..=10).contains(&returns), "{returns}");
    // And once it is steady it is as good as any.
    bench.set(NEXT, Manner::Well);
    bench.run(Duration::from_secs(12));
    assert_eq!(bench.verdict(NEXT), None);
}

#[test]
fn the_dead_of_the_agent_before_stay_dead_until_they_answer() {
    let dead = vec![(address(1, 1), Tcp), (address(1, 2), Tcp)];
    let mut bench = Bench::inheriting(&ALL, 3, dead.clone());
    bench.set(NEXT, Manner::Silent);
    bench.watch.take_changed();
    let health = bench.watch.health.of(&service_key(), &NEXT.into()).expect("something is known").clone();
    for (address, protocol) in dead {
        assert!(matches!(health.verdict(address, protocol), Some(Verdict::Failed { .. })), "{address}");
    }
    assert_eq!(health.verdict(address(1, 3), Tcp), None);
    bench.set(NEXT, Manner::Well);
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.watch.health.of(&service_key(), &NEXT.into()), None);
}

#[test]
fn an_ejection_ends_with_the_outage_that_explains_it() {
    let mut bench = Bench::settled(&ALL, 3);
    let (backend, protocol) = (address(1, 2), Tcp);
    bench.used(1);
    // By the fourth time it would be out for 16 s.
    for _ in 0..4 {
        bench.run(Duration::from_secs(8));
        bench.watch.observe(Observation::Refused { backend, protocol, in_a_row: 5 }, bench.now);
        bench.set(NEXT, Manner::Refusing);
        bench.run(Duration::from_secs(2));
        bench.set(NEXT, Manner::Well);
        bench.used(1);
        bench.run(Duration::from_secs(5));
        assert_eq!(bench.watch.health.of(&service_key(), &NEXT.into()), None);
    }
}

#[test]
fn refusals_in_a_row_eject_and_the_time_ends() {
    let mut bench = Bench::settled(&ALL, 3);
    let (backend, protocol) = (address(1, 2), Tcp);
    for in_a_row in 1..=7 {
        bench.watch.observe(Observation::Refused { backend, protocol, in_a_row }, bench.now);
    }
    bench.run(Duration::from_millis(100));
    let health = bench.watch.health.of(&service_key(), &NEXT.into()).expect("something is known").clone();
    assert!(matches!(health.verdict(backend, protocol), Some(Verdict::Ejected { .. })));
    assert!(bench.asked[NEXT] >= 1, "it is asked at once");
    bench.run(Duration::from_secs(3));
    assert_eq!(bench.watch.health.of(&service_key(), &NEXT.into()), None);
    let reasons: Vec<_> = bench.news.iter().map(News::reason).collect();
    assert_eq!(reasons, ["EndpointEjected", "EndpointReadmitted"]);
    let told = bench.news[0].to_string();
    assert!(told.contains("5 connections in a row were refused"), "{told}");
}

#[test]
fn a_cluster_is_as_far_as_its_handshakes_take() {
    let mut bench = Bench::settled(&ALL, 1);
    assert_eq!(bench.watch.health.distances.len(), 4, "by the probes alone");
    let near = bench.watch.health.distances[&ClusterName::from(NEXT)];
    for _ in 0..200 {
        let time = Duration::from_millis(50);
        let seen = Observation::RoundTrip { backend: address(1, 1), protocol: Tcp, time };
        bench.watch.observe(seen, bench.now);
    }
    bench.watch.take_changed();
    assert!(bench.watch.health.distances[&ClusterName::from(NEXT)] > near);
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut bench = Bench::settled(&ALL, 2);
    bench.used(1);
    bench.set(NEXT, Manner::Refusing);
    bench.run(Duration::from_secs(1));
    assert!(bench.verdict(NEXT).is_some());
    bench.watch.follow(&Federation::default(), bench.now);
    bench.watch.take_changed();
    assert!(bench.watch.health.services.is_empty() && bench.watch.health.distances.is_empty());
    bench.run(Duration::from_secs(1));
    assert!(bench.watch.due(bench.now).is_empty());
}

#[test]
fn a_check_of_nothing_asks_nobody_and_a_check_at_a_port_speaks_for_all() {
    use crate::model::Question;
    let mut all = federation(&[HERE, NEXT], 2);
    let edit = |all: &mut Federation, check: HealthCheck| {
        let mut service = Service::clone(&all.services[&service_key()]);
        service.health_check = check;
        service.ports.push(Port { name: "dns".into(), protocol: Protocol::Udp, port: 53 });
        for shard in service.shards.values_mut() {
            shard.endpoints = std::mem::take(&mut shard.endpoints)
                .iter()
                .cloned()
                .map(|mut endpoint| {
                    Arc::make_mut(&mut endpoint.ports).insert(("dns".into(), Protocol::Udp), 5353);
                    endpoint
                })
                .collect();
        }
        all.services.insert(service_key(), Arc::new(service));
    };
    let udp = |address: SocketAddr| (SocketAddr::new(address.ip(), 5353), Protocol::Udp);
    edit(&mut all, HealthCheck { question: Question::Nothing, ..HealthCheck::default() });
    let mut bench = Bench::new(&[HERE, NEXT], 2);
    bench.watch.follow(&all, bench.now);
    bench.run(Duration::from_secs(20));
    assert!(bench.asked.is_empty(), "{:?}", bench.asked);

    for port in [None, Some(9000)] {
        let mut bench = Bench::new(&[HERE, NEXT], 2);
        edit(&mut all, HealthCheck { port, ..HealthCheck::default() });
        bench.watch.follow(&all, bench.now);
        bench.set(NEXT, Manner::Refusing);
        bench.run(Duration::from_secs(12));
        let health = bench.watch.health.of(&service_key(), &NEXT.into()).expect("it fails").clone();
        let (backend, protocol) = udp(address(1, 1));
        assert!(health.endpoints.contains_key(&(backend, protocol)), "{port:?}: UDP falls too");
        assert!(health.endpoints.contains_key(&(address(1, 1), Tcp)), "{port:?}");
    }
}

#[test]
fn one_budget_holds_for_everything_and_the_used_go_first() {
    let mut all = federation(&ALL, 3);
    let service = all.services[&service_key()].clone();
    for n in 0..3000_u16 {
        let mut copy = Service::clone(&service);
        for (c, shard) in copy.shards.values_mut().enumerate() {
            let [high, low] = n.to_be_bytes();
            let octets = |i: u8| [11 + u8::try_from(c).unwrap(), high, low, i];
            let endpoints = std::mem::take(&mut shard.endpoints);
            let moved = endpoints.iter().cloned().zip(1..);
            shard.endpoints =
                moved.map(|(e, i)| Endpoint { address: IpAddr::from(octets(i)), ..e }).collect();
        }
        all.services.insert(ServiceKey::new("ns", format!("s{n}")), Arc::new(copy));
    }
    let mut bench = Bench::new(&ALL, 3);
    bench.watch.follow(&all, bench.now);
    bench.run(Duration::from_secs(10));
    bench.addresses = 0;
    bench.asked.clear();
    for _ in 0..5 {
        bench.used(1);
        bench.run(Duration::from_secs(1));
    }
    // 12 000 shards of three would be 3 600 addresses a second.
    assert!(bench.addresses <= 5 * 2000 + 250, "{}", bench.addresses);
    let health = bench.watch.roster.get(&(service_key(), NEXT.into())).expect("a shard");
    assert!(!health.targets.list.is_empty());
}
