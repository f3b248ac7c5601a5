//! What a `FederatedService` reports, from what is known of it. Pure: time comes in.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{registration::Refusal, vips::Vips};
use crate::{
    api::{FederatedServiceStatus, IngressStatus, ScopeKind, ShardState, ShardStatus, VipStatus},
    model::{Scope, ServiceKey},
};

pub const ACCEPTED: &str = "Accepted";
pub const PROPAGATED: &str = "Propagated";
pub const READY: &str = "Ready";

/// What is said of one aspect of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: it is not known.
    pub holds: Option<bool>,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// How far a shard has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    InPlace,
    /// It is not known yet: what was reported before stands.
    Pending,
    /// Its cluster's API does not answer.
    Silent,
    /// Its cluster is no accepted member.
    NotAccepted(String),
    Conflict(String),
    Failed(String),
}

/// One selected cluster.
#[derive(Clone, Debug)]
pub struct Shard {
    pub cluster: String,
    pub region: String,
    pub zone: String,
    pub progress: Progress,
    pub endpoints: Endpoints,
    /// Where its cluster says that it is met from outside; nothing where it has not been asked.
    pub ingress: Option<Vec<IngressStatus>>,
}

/// The distinct endpoints of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    pub ready: u32,
    pub all: u32,
}

/// Everything that a report is made of.
pub struct Picture<'a> {
    pub generation: Option<i64>,
    pub now: Timestamp,
    pub before: Option<&'a FederatedServiceStatus>,
    pub vips: Vec<VipStatus>,
    pub shards: Vec<Shard>,
    /// What is wrong with what the user asks for, the gravest first.
    pub faults: Vec<Refusal>,
    /// The Service is being deleted, or is not there at all.
    pub is_going: bool,
}

// === impl Verdict ===

impl Verdict {
    pub fn new(holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: Some(holds), reason, message: message.into() }
    }

    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: None, reason, message: message.into() }
    }

    /// As a condition. The time of the last transition stands while what it says does not turn.
    pub fn condition(
        self,
        type_: &str,
        before: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> Condition {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let before = find(before, type_).filter(|condition| condition.status == status);
        let since = before.map_or(Time(now), |condition| condition.last_transition_time.clone());
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message,
            observed_generation: generation,
            last_transition_time: since,
        }
    }
}

pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The conditions that are `False` now and were not so, for that reason and in these words, before.
pub fn newly_false<'a>(before: &'a [Condition], now: &'a [Condition]) -> impl Iterator<Item = &'a Condition> {
    now.iter().filter(|condition| {
        let differs = |before: &Condition| {
            before.status != condition.status
                || before.reason != condition.reason
                || before.message != condition.message
        };
        condition.status == "False" && find(before, &condition.type_).is_none_or(differs)
    })
}

// === impl Endpoints ===

impl Endpoints {
    /// An address in several slices is one endpoint; ready where any says so.
    pub fn count<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut addresses: BTreeMap<&str, bool> = BTreeMap::new();
        for endpoint in slices.into_iter().flat_map(|slice| &slice.endpoints) {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if let Some(address) = endpoint.addresses.first() {
                *addresses.entry(address).or_default() |= ready;
            }
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { ready: count(addresses.values().filter(|ready| **ready).count()), all: count(addresses.len()) }
    }
}

/// The VIPs as they are reported, with the name that each answers to.
pub fn vip_status(service: &ServiceKey, vips: &Vips, federation: &str, domain: &str) -> Vec<VipStatus> {
    let domain = domain.trim_end_matches('.');
    let name = |scope: &Scope| {
        let ServiceKey { namespace, name } = service;
        match scope {
            Scope::Nearest => format!("{name}.{namespace}.{federation}"),
            Scope::Global => format!("{name}.{namespace}.{federation}.svc.{domain}"),
            Scope::Region(place) => format!("{name}.{namespace}.{federation}.svc.{place}.{domain}"),
            Scope::Zone(place) => format!("{name}.{namespace}.{federation}.svc.{place}.{domain}"),
        }
    };
    let status = |(scope, ips): (&Scope, &Vec<_>)| {
        let (kind, location) = match scope {
            Scope::Nearest => (ScopeKind::Nearest, None),
            Scope::Global => (ScopeKind::Global, None),
            Scope::Region(region) => (ScopeKind::Region, Some(region.to_string())),
            Scope::Zone(zone) => (ScopeKind::Zone, Some(zone.to_string())),
        };
        VipStatus { scope: kind, location, ips: ips.clone(), name: name(scope) }
    };
    vips.iter().map(status).collect()
}

/// The VIPs that a status holds.
pub fn stored_vips(status: Option<&FederatedServiceStatus>) -> Vips {
    let stored = status.map(|status| status.vips.as_slice()).unwrap_or_default();
    let scope = |vip: &VipStatus| {
        Some(match (vip.scope, &vip.location) {
            (ScopeKind::Nearest, _) => Scope::Nearest,
            (ScopeKind::Global, _) => Scope::Global,
            (ScopeKind::Region, Some(region)) => Scope::Region(region.into()),
            (ScopeKind::Zone, Some(zone)) => Scope::Zone(zone.into()),
            (ScopeKind::Region | ScopeKind::Zone, None) => return None,
        })
    };
    stored.iter().filter_map(|vip| Some((scope(vip)?, vip.ips.clone()))).collect()
}

/// The scopes that a service in these places has.
pub fn scopes<'a>(places: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Vec<Scope> {
    let mut scopes = BTreeSet::from([Scope::Nearest, Scope::Global]);
    for (region, zones) in places {
        scopes.insert(Scope::Region(region.into()));
        scopes.extend(zones.iter().map(|zone| Scope::Zone(zone.into())));
    }
    scopes.into_iter().collect()
}

/// The IP families that a Service asks for. `has` says for which there is a range.
pub fn families(service: &Service, has: impl Fn(super::vips::Family) -> bool) -> Vec<super::vips::Family> {
    use super::vips::Family::{V4, V6};
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    match spec.and_then(|spec| spec.ip_family_policy.as_deref()) {
        Some("RequireDualStack") => vec![V4, V6],
        Some("PreferDualStack") => [V4, V6].into_iter().filter(|family| has(*family)).collect(),
        _ => named_families(&named, has),
    }
}

/// The families of these names; where there is none, one that there is a range for.
pub fn named_families(
    named: &[String],
    has: impl Fn(super::vips::Family) -> bool,
) -> Vec<super::vips::Family> {
    use super::vips::Family::{V4, V6};
    if named.is_empty() {
        return vec![if has(V4) { V4 } else { V6 }];
    }
    named.iter().map(|family| if family == V6.name() { V6 } else { V4 }).collect()
}

// === impl Picture ===

impl Picture<'_> {
    pub fn report(self) -> FederatedServiceStatus {
        let conditions_before = self.before.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let verdicts = [
            (ACCEPTED, self.accepted()),
            (PROPAGATED, self.propagated(find(conditions_before, PROPAGATED))),
            (READY, self.ready()),
        ];
        let conditions = verdicts
            .into_iter()
            .map(|(type_, verdict)| verdict.condition(type_, conditions_before, self.generation, self.now));
        let conditions = conditions.collect();

        let shards: Vec<_> = self.shards.iter().map(|shard| shard.status(self.before)).collect();
        let healthy = shards.iter().filter(|shard| shard.state == ShardState::Healthy).count();
        let ready: u32 = shards.iter().map(|shard| shard.ready_endpoints).sum();
        let all: u32 = shards.iter().map(|shard| shard.endpoints).sum();
        FederatedServiceStatus {
            vips: self.vips,
            shard_summary: Some(format!("{healthy}/{}", shards.len())),
            endpoint_summary: Some(format!("{ready}/{all}")),
            shards,
            conditions,
        }
    }

    fn accepted(&self) -> Verdict {
        match self.faults.first() {
            None => Verdict::new(true, "Accepted", "the service can be federated as it is"),
            Some(fault) => {
                let sentences: Vec<_> = self.faults.iter().map(|fault| fault.message.as_str()).collect();
                Verdict::new(false, fault.reason, sentences.join("; "))
            }
        }
    }

    fn propagated(&self, before: Option<&Condition>) -> Verdict {
        let failing: Vec<_> =
            self.shards.iter().filter(|shard| shard.progress != Progress::InPlace).collect();
        if self.is_going {
            return Verdict::new(false, "Deleting", "the shards are being removed");
        }
        if self.shards.is_empty() {
            return Verdict::new(false, "NoCluster", "no cluster is selected");
        }
        let Some(first) = failing.first() else {
            let count = self.shards.len();
            return Verdict::new(true, "InPlace", format!("all shards are in place, {count} of {count}"));
        };
        if failing.iter().all(|shard| shard.progress == Progress::Pending) {
            // After a restart nothing is known for a moment: that is no news.
            if before.is_some_and(|before| before.status == "True") {
                return Verdict::new(true, "InPlace", before.map(|b| b.message.clone()).unwrap_or_default());
            }
            return Verdict::unknown("Pending", format!("cluster {} has not been asked yet", first.cluster));
        }
        let told =
            failing.iter().filter_map(|shard| Some(format!("{}: {}", shard.cluster, shard.progress.tell()?)));
        let told = told.collect::<Vec<_>>().join("; ");
        let gravest = failing.iter().map(|shard| &shard.progress).max_by_key(|progress| progress.gravity());
        Verdict::new(false, gravest.map_or("Pending", Progress::reason), told)
    }

    fn ready(&self) -> Verdict {
        let ready: u32 = self.shards.iter().map(|shard| shard.endpoints.ready).sum();
        if self.vips.is_empty() {
            return Verdict::new(false, "NoVIP", "the service has no VIP");
        }
        if ready == 0 {
            return Verdict::new(
                false,
                "NoEndpoint",
                "no shard has a ready endpoint, so its VIPs refuse connections",
            );
        }
        Verdict::new(true, "Serving", "its VIPs lead to ready endpoints")
    }
}

// === impl Shard ===

impl Shard {
    fn status(&self, before: Option<&FederatedServiceStatus>) -> ShardStatus {
        let Endpoints { ready, all } = self.endpoints;
        let by_endpoints = if ready > 0 { ShardState::Healthy } else { ShardState::Unhealthy };
        let before =
            before.and_then(|status| status.shards.iter().find(|shard| shard.cluster == self.cluster));
        let state = match &self.progress {
            Progress::InPlace | Progress::Failed(_) => by_endpoints,
            Progress::Pending if before.is_some_and(|before| before.state != ShardState::Unknown) => {
                by_endpoints
            }
            Progress::Pending | Progress::Silent | Progress::NotAccepted(_) => ShardState::Unknown,
            Progress::Conflict(_) => ShardState::Unhealthy,
        };
        ShardStatus {
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            zone: self.zone.clone(),
            state,
            ready_endpoints: ready,
            endpoints: all,
            // Load balancers stay as last known, as endpoints do.
            ingress: self.ingress.clone().or_else(|| before.map(|b| b.ingress.clone())).unwrap_or_default(),
            message: self.progress.tell().unwrap_or_default(),
        }
    }
}

// === impl Progress ===

impl Progress {
    fn reason(&self) -> &'static str {
        match self {
            Self::InPlace => "InPlace",
            Self::Pending => "Pending",
            Self::Silent => "ClusterSilent",
            Self::NotAccepted(_) => "ClusterNotAccepted",
            Self::Conflict(_) => "Conflict",
            Self::Failed(_) => "Refused",
        }
    }

    /// Which of several reasons gives a condition its word: what the user can put right at the service comes first.
    fn gravity(&self) -> u8 {
        match self {
            Self::InPlace => 0,
            Self::Pending => 1,
            Self::Silent => 2,
            Self::NotAccepted(_) => 3,
            Self::Failed(_) => 4,
            Self::Conflict(_) => 5,
        }
    }

    fn tell(&self) -> Option<String> {
        match self {
            Self::InPlace | Self::Pending => None,
            Self::Silent => Some("its API does not answer, endpoints stay as last known".to_owned()),
            Self::NotAccepted(why) => Some(format!("the cluster is not accepted: {why}")),
            Self::Conflict(why) => Some(format!("Conflict: {why}")),
            Self::Failed(why) => Some(format!("its API refuses the shard: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::vips::Family;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn shard(cluster: &str, progress: Progress, ready: u32, all: u32) -> Shard {
        let endpoints = Endpoints { ready, all };
        Shard {
            cluster: cluster.to_owned(),
            region: "r".to_owned(),
            zone: "z".to_owned(),
            progress,
            endpoints,
            ingress: None,
        }
    }

    fn picture(shards: Vec<Shard>, before: Option<&FederatedServiceStatus>, second: i64) -> Picture<'_> {
        let vips = Vips::from([(Scope::Nearest, vec!["172.30.0.9".parse().expect("an address")])]);
        Picture {
            generation: Some(3),
            now: at(second),
            before,
            vips: vip_status(&ServiceKey::new("n", "s"), &vips, "f", "example.com."),
            shards,
            faults: Vec::new(),
            is_going: false,
        }
    }

    fn said(status: &FederatedServiceStatus, type_: &str) -> (String, String, String) {
        let condition = find(&status.conditions, type_).expect("the condition");
        (condition.status.clone(), condition.reason.clone(), condition.message.clone())
    }

    fn states(status: &FederatedServiceStatus) -> Vec<ShardState> {
        status.shards.iter().map(|shard| shard.state).collect()
    }

    #[test]
    fn a_service_whose_shards_are_in_place() {
        let shards = vec![
            shard("a", Progress::InPlace, 2, 2),
            shard("b", Progress::InPlace, 1, 2),
            shard("c", Progress::InPlace, 0, 2),
        ];
        let status = picture(shards, None, 0).report();
        assert_eq!(status.shard_summary.as_deref(), Some("2/3"));
        assert_eq!(status.endpoint_summary.as_deref(), Some("3/6"));
        for type_ in [ACCEPTED, PROPAGATED, READY] {
            assert_eq!(said(&status, type_).0, "True", "{type_}");
        }
        assert_eq!(status.conditions[0].observed_generation, Some(3));
    }

    #[test]
    fn each_way_a_shard_can_be_amiss() {
        let why = || "why".to_owned();
        let cases = [
            (Progress::Silent, ShardState::Unknown, "ClusterSilent"),
            (Progress::NotAccepted(why()), ShardState::Unknown, "ClusterNotAccepted"),
            (Progress::Conflict(why()), ShardState::Unhealthy, "Conflict"),
            (Progress::Failed(why()), ShardState::Healthy, "Refused"),
        ];
        for (progress, state, reason) in cases {
            let shards = vec![shard("a", Progress::InPlace, 1, 1), shard("b", progress, 1, 1)];
            let status = picture(shards, None, 0).report();
            assert_eq!(states(&status), [ShardState::Healthy, state], "{reason}");
            let (holds, word, message) = said(&status, PROPAGATED);
            assert_eq!((holds.as_str(), word.as_str()), ("False", reason));
            assert!(message.starts_with("b: "), "{message}");
            assert_eq!(said(&status, READY).0, "True", "{reason}: what is ready serves");
        }
    }

    #[test]
    fn what_is_not_known_after_a_restart_is_no_news() {
        let before = picture(vec![shard("a", Progress::InPlace, 1, 1)], None, 0).report();
        let after = picture(vec![shard("a", Progress::Pending, 1, 1)], Some(&before), 60).report();
        assert_eq!(after, before);
        let first = picture(vec![shard("a", Progress::Pending, 0, 0)], None, 0).report();
        assert_eq!(said(&first, PROPAGATED).0, "Unknown");
        assert_eq!(states(&first), [ShardState::Unknown]);
    }

    #[test]
    fn a_transition_is_timed_when_it_happens_and_not_after() {
        let healthy = || vec![shard("a", Progress::InPlace, 1, 1)];
        let first = picture(healthy(), None, 0).report();
        let same = picture(healthy(), Some(&first), 10).report();
        assert_eq!(same, first);
        let unready = picture(vec![shard("a", Progress::InPlace, 0, 1)], Some(&same), 20).report();
        let since = |status: &FederatedServiceStatus, type_| {
            find(&status.conditions, type_).expect("the condition").last_transition_time.0
        };
        assert_eq!((since(&unready, READY), since(&unready, ACCEPTED)), (at(20), at(0)));
        let news: Vec<_> =
            newly_false(&same.conditions, &unready.conditions).map(|c| c.type_.as_str()).collect();
        assert_eq!(news, [READY]);
        assert_eq!(newly_false(&unready.conditions, &unready.conditions).count(), 0);
    }

    #[test]
    fn faults_are_told_with_the_gravest_as_the_reason() {
        let mut picture = picture(vec![], None, 0);
        picture.faults =
            vec![Refusal::new("UnknownCluster", "one"), Refusal::new("VIPRangeExhausted", "two")];
        picture.vips.clear();
        let status = picture.report();
        assert_eq!(said(&status, ACCEPTED), ("False".into(), "UnknownCluster".into(), "one; two".into()));
        assert_eq!(said(&status, PROPAGATED).1, "NoCluster");
        assert_eq!(said(&status, READY).1, "NoVIP");
        assert_eq!(status.shard_summary.as_deref(), Some("0/0"));
    }

    #[test]
    fn vips_are_named_and_read_back() {
        let ip = |last: u8| std::net::IpAddr::from([172, 30, 0, last]);
        let vips = Vips::from([
            (Scope::Nearest, vec![ip(1)]),
            (Scope::Global, vec![ip(2)]),
            (Scope::Region("europe-west1".into()), vec![ip(3)]),
            (Scope::Zone("europe-west1-d".into()), vec![ip(4)]),
        ]);
        let service = ServiceKey::new("my-namespace", "my-service");
        let status = vip_status(&service, &vips, "my-federation", "example.com");
        let names: Vec<_> = status.iter().map(|vip| vip.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "my-service.my-namespace.my-federation",
                "my-service.my-namespace.my-federation.svc.example.com",
                "my-service.my-namespace.my-federation.svc.europe-west1.example.com",
                "my-service.my-namespace.my-federation.svc.europe-west1-d.example.com",
            ]
        );
        let stored = FederatedServiceStatus { vips: status, ..FederatedServiceStatus::default() };
        assert_eq!(stored_vips(Some(&stored)), vips);
        assert_eq!(stored_vips(None), Vips::new());
    }

    #[test]
    fn scopes_of_places() {
        let zones = ["d".to_owned(), "b".to_owned()];
        let scopes = scopes([("europe", &zones[..1]), ("europe", &zones[..])]);
        let expected = [
            Scope::Nearest,
            Scope::Global,
            Scope::Region("europe".into()),
            Scope::Zone("b".into()),
            Scope::Zone("d".into()),
        ];
        assert_eq!(scopes, expected);
    }

    #[test]
    fn families_that_a_service_asks_for() {
        let cases = [
            (json!({}), [true, true], vec![Family::V4]),
            (json!({}), [false, true], vec![Family::V6]),
            (json!({ "ipFamilies": ["IPv6"] }), [true, true], vec![Family::V6]),
            (json!({ "ipFamilyPolicy": "PreferDualStack" }), [true, true], vec![Family::V4, Family::V6]),
            (json!({ "ipFamilyPolicy": "PreferDualStack" }), [true, false], vec![Family::V4]),
            (json!({ "ipFamilyPolicy": "RequireDualStack" }), [true, false], vec![Family::V4, Family::V6]),
        ];
        for (spec, [v4, v6], expected) in cases {
            let service: Service =
                serde_json::from_value(json!({ "spec": spec.clone() })).expect("a Service");
            let has = |family| if family == Family::V4 { v4 } else { v6 };
            assert_eq!(families(&service, has), expected, "{spec}");
        }
    }

    #[test]
    fn an_address_in_two_slices_is_one_endpoint() {
        let slice = |endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(json!({ "metadata": {}, "addressType": "IPv4", "endpoints": endpoints }))
                .expect("a slice")
        };
        let slices = [
            slice(
                json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }, { "addresses": ["10.0.0.2"] }]),
            ),
            slice(json!([{ "addresses": ["10.0.0.2"], "conditions": { "ready": true } }])),
        ];
        assert_eq!(Endpoints::count(&slices), Endpoints { ready: 1, all: 2 });
    }
}
