//! The connections to member clusters: one client, one watch and two work queues each, so that none waits for another.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    jiff::Timestamp,
};
use kube::{Api, Client, api::ListParams};
use tokio::{sync::Notify, task::JoinSet, time::timeout};

use super::{
    admit::Refused,
    context::{Context, Post},
    credentials::Login,
    expiry::Validity,
    identity,
    ingress::{self, Ingresses},
    mcs, mirror, propagate,
    registration::Refusal,
    slices::Slices,
    work::{Queue, backoff, is, work},
};
use crate::{client::chain, model::ServiceKey};

/// How often a cluster that answers is asked whether it still does.
const CHECK_PERIOD: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// How often a cluster is asked what it calls itself.
const ID_PERIOD: Duration = Duration::from_mins(1);
/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// A cluster that we can log in to.
pub struct Member {
    pub name: String,
    pub client: Client,
    /// Services whose shard here wants a look.
    pub shards: Queue<Service>,
    /// Services whose endpoints here want a look.
    pub mirror: Queue<Service>,
    /// Tells the watch of endpoints to begin anew.
    pub relist: Notify,
    /// Its part in the Multi-Cluster Services API.
    pub mcs: mcs::Site,
    /// Where its shards are met from outside.
    pub ingress: Ingresses,
    fingerprint: u64,
    source: RwLock<Slices>,
    refused: Mutex<BTreeMap<ServiceKey, Refused>>,
    contact: Mutex<Contact>,
    /// Until when the credentials are good, where they say so.
    validity: Option<Validity>,
    /// The versions of our shards that we wrote ourselves.
    written: Mutex<BTreeMap<ServiceKey, String>>,
    /// How its Service range was seen to overlap the VIPs.
    overlap: OnceLock<String>,
}

/// What is known of the way to a cluster's API.
#[derive(Clone, Debug)]
pub struct Contact {
    pub state: State,
    pub version: Option<String>,
    /// When it last answered.
    pub last: Option<Timestamp>,
    /// Counts the times that it came to answer. What was found out in an earlier time may not hold any more.
    pub epoch: u64,
    /// How long its last answer took.
    pub latency: Option<Duration>,
    /// What it calls itself.
    pub id: ClusterId,
    failures: u32,
    due: Instant,
    id_due: Instant,
}

/// A cluster's own name for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterId {
    NotAsked,
    Told(Option<String>),
}

/// What a cluster says when it is asked how it does.
struct Answer {
    version: String,
    latency: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    NotAsked,
    Answers,
    /// It answers, but not to us.
    Refuses(Refusal),
    Silent(String),
}

/// What services have to know of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub reach: Reach,
    /// Of what the user says: a number that changes with it.
    pub said: u64,
}

/// Whether shards can be kept in a cluster. How exactly it fails changes from one attempt to the next, and is told on
/// the Cluster alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    NotAsked,
    Answers,
    Silent,
    /// It is no accepted member; with the reason.
    Refused(String),
}

#[derive(Default)]
pub struct Members {
    connected: RwLock<BTreeMap<String, Connected>>,
    standings: RwLock<BTreeMap<String, Standing>>,
}

/// A member and the tasks that work for it; they end with it.
struct Connected {
    member: Arc<Member>,
    _tasks: JoinSet<()>,
}

// === impl Member ===

impl Member {
    pub fn contact(&self) -> Contact {
        self.lock_contact().clone()
    }

    pub fn answers(&self) -> bool {
        self.lock_contact().state == State::Answers
    }

    /// Something failed that should not have: the next check comes at once.
    pub fn doubt(&self) {
        self.lock_contact().due = Instant::now();
    }

    /// Asks the cluster, if it is time to, and gives what is known and when to come again.
    pub async fn check(&self) -> (Contact, Duration) {
        if self.lock_contact().due <= Instant::now() {
            let answer = timeout(CHECK_TIMEOUT, ask(&self.client)).await;
            let late = || Err(State::Silent(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())));
            let judged = |answer: Result<Answer, kube::Error>| answer.map_err(|error| self.judge(&error));
            self.learn(answer.map_or_else(|_| late(), judged));
            self.ask_id().await;
        }
        let contact = self.contact();
        let wait = contact.due.saturating_duration_since(Instant::now());
        (contact, wait)
    }

    /// Asks the cluster what it calls itself, now and then.
    async fn ask_id(&self) {
        let due = {
            let contact = self.lock_contact();
            contact.state == State::Answers && contact.id_due <= Instant::now()
        };
        if !due {
            return;
        }
        let told = timeout(CHECK_TIMEOUT, identity::cluster_id(&self.client)).await;
        let mut contact = self.lock_contact();
        contact.id_due = Instant::now() + ID_PERIOD;
        // Who does not answer has the name that it had.
        if let Ok(Ok(id)) = told {
            contact.id = ClusterId::Told(id);
        }
    }

    fn judge(&self, error: &kube::Error) -> State {
        judge(error, self.validity.as_ref(), Timestamp::now())
    }

    /// Until when its credentials are good, in words.
    pub fn validity(&self) -> Option<String> {
        self.validity.as_ref().map(Validity::tell)
    }

    /// Notes that a shard is as we wrote it.
    pub fn note_written(&self, service: &ServiceKey, shard: &Service) {
        let version = shard.metadata.resource_version.clone().unwrap_or_default();
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(service.clone(), version);
    }

    /// Notes that its Service range overlaps the VIPs. True for the first time: a Service range is for a cluster's life.
    pub fn note_overlap(&self, how: String) -> bool {
        self.overlap.set(how).is_ok()
    }

    pub fn overlap(&self) -> Option<&str> {
        self.overlap.get().map(String::as_str)
    }

    /// Whether a shard of this version is as we wrote it.
    pub fn has_written(&self, service: &ServiceKey, version: Option<&str>) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        version.is_some() && written.get(service).map(String::as_str) == version
    }

    fn learn(&self, answer: Result<Answer, State>) {
        let mut contact = self.lock_contact();
        let wait = match answer {
            Ok(Answer { version, latency }) => {
                if contact.state != State::Answers {
                    contact.epoch += 1;
                    contact.id_due = Instant::now();
                    // The old connection may be dead without knowing.
                    self.relist.notify_one();
                    self.mcs.relist.notify_one();
                }
                contact.state = State::Answers;
                contact.version = Some(version);
                contact.latency = Some(latency);
                contact.last = Some(Timestamp::now());
                contact.failures = 0;
                CHECK_PERIOD
            }
            Err(state) => {
                contact.state = state;
                contact.failures += 1;
                backoff(FIRST_RETRY, LONGEST_RETRY, contact.failures)
            }
        };
        contact.due = Instant::now() + wait;
    }

    fn lock_contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slices that its API server holds.
    pub fn source(&self) -> RwLockReadGuard<'_, Slices> {
        self.source.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn source_mut(&self) -> RwLockWriteGuard<'_, Slices> {
        self.source.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how many endpoints of a service were refused. True when that is news.
    pub fn note_refused(&self, service: &ServiceKey, now: Option<&Refused>) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match now {
            Some(now) => refused.insert(service.clone(), now.clone()),
            None => refused.remove(service),
        };
        before.as_ref() != now
    }

    /// All endpoints that were refused; `None` before the first listing.
    pub fn refused(&self) -> Option<Vec<(ServiceKey, Refused)>> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let all = refused.iter().map(|(service, refused)| (service.clone(), refused.clone()));
        self.source().synced().then(|| all.collect())
    }
}

/// The version of a cluster that knows us. `/version` alone is told to anybody.
async fn ask(client: &Client) -> Result<Answer, kube::Error> {
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    let version = client.apiserver_version().await?.git_version;
    // Not of the first request, which may have to connect before.
    let asked = Instant::now();
    slices.list_metadata(&ListParams::default().limit(1)).await?;
    Ok(Answer { version, latency: asked.elapsed() })
}

fn judge(error: &kube::Error, validity: Option<&Validity>, now: Timestamp) -> State {
    let text = chain(error);
    // Kubernetes answers 401, others end the handshake.
    let is_refusal = is(error, 401) || text.contains("received fatal alert");
    if let Some(refusal) = validity.filter(|_| is_refusal).and_then(|validity| validity.refusal(now)) {
        return State::Refuses(refusal);
    }
    let refused = |why: &str| State::Refuses(Refusal::new("CredentialsRefused", format!("{why}: {text}")));
    match error {
        _ if is(error, 401) => refused("the cluster does not know the credentials; renew the Secret"),
        _ if is(error, 403) => {
            refused("the credentials may not read EndpointSlices; give them the rights of a member")
        }
        _ if text.contains("received fatal alert") => {
            refused("the cluster ends the handshake with the client certificate; renew the Secret")
        }
        _ if text.contains("invalid peer certificate: certificate expired") => State::Refuses(Refusal::new(
            "ServerCertificateExpired",
            format!("the certificate of the cluster's own API server has expired; renew it there: {text}"),
        )),
        _ if text.contains("invalid peer certificate: certificate not valid for name") => {
            State::Refuses(Refusal::new(
                "ServerNotTrusted",
                format!(
                    "the server's certificate is for other names than spec.server has; use one of them: {text}"
                ),
            ))
        }
        _ if text.contains("invalid peer certificate") => {
            let message =
                format!("the server's certificate is not of the CA in the Secret; put its CA there: {text}");
            State::Refuses(Refusal::new("ServerNotTrusted", message))
        }
        _ => State::Silent(text),
    }
}

#[cfg(test)]
impl Contact {
    /// Of a cluster that answered then.
    pub fn example(last: Timestamp) -> Self {
        let (state, due) = (State::Answers, Instant::now());
        let (latency, id) = (None, ClusterId::NotAsked);
        Self { state, version: None, last: Some(last), epoch: 1, latency, id, failures: 0, due, id_due: due }
    }
}

// === impl Reach ===

impl Reach {
    pub fn of(verdict: &Result<State, Refusal>) -> Self {
        match verdict {
            Ok(State::NotAsked) => Self::NotAsked,
            Ok(State::Answers) => Self::Answers,
            Ok(State::Silent(_)) => Self::Silent,
            Ok(State::Refuses(refusal)) | Err(refusal) => Self::Refused(refusal.message.clone()),
        }
    }
}

// === impl Members ===

impl Members {
    /// The member of that name, connected anew where the login changed.
    ///
    /// # Errors
    /// The login cannot be used.
    pub fn connect(context: &Arc<Context>, name: &str, login: Login) -> Result<Arc<Member>, Refusal> {
        let members = &context.members;
        if let Some(member) = members.get(name).filter(|member| member.fingerprint == login.fingerprint) {
            return Ok(member);
        }
        let client = context.fence.client(login.config).map_err(|error| {
            Refusal::new("CredentialsInvalid", format!("the credentials cannot be used: {}", chain(&error)))
        })?;
        let (shards, shards_queued) = tokio::sync::mpsc::unbounded_channel();
        let (mirror, mirror_queued) = tokio::sync::mpsc::unbounded_channel();
        let contact = Contact {
            state: State::NotAsked,
            version: None,
            last: None,
            epoch: members.get(name).map_or(0, |before| before.contact().epoch),
            latency: None,
            id: ClusterId::NotAsked,
            failures: 0,
            due: Instant::now(),
            id_due: Instant::now(),
        };
        let member = Arc::new(Member {
            name: name.to_owned(),
            client,
            shards,
            mirror,
            relist: Notify::new(),
            mcs: mcs::Site::default(),
            ingress: Ingresses::default(),
            fingerprint: login.fingerprint,
            source: RwLock::default(),
            refused: Mutex::default(),
            contact: Mutex::new(contact),
            validity: login.validity,
            written: Mutex::default(),
            overlap: OnceLock::new(),
        });
        let post = Arc::new(Post { context: Arc::clone(context), member: Arc::clone(&member) });
        let services = || context.world.services.clone();
        let mut tasks = JoinSet::new();
        let work_name = format!("shards of {name}");
        let (store, at) = (services(), Arc::clone(&post));
        tasks.spawn(async move { work(&work_name, store, shards_queued, at, propagate::reconcile).await });
        let work_name = format!("endpoints of {name}");
        let (store, at) = (services(), Arc::clone(&post));
        tasks.spawn(async move { work(&work_name, store, mirror_queued, at, mirror::reconcile).await });
        tasks.spawn(ingress::watch(Arc::clone(&post)));
        tasks.spawn(propagate::watch(Arc::clone(&post)));
        tasks.spawn(mirror::watch(Arc::clone(&post)));
        tasks.spawn(mcs::follow(Arc::clone(&post)));
        tasks.spawn(mcs::deliver(post));
        let connected = Connected { member: Arc::clone(&member), _tasks: tasks };
        members.connected_mut().insert(name.to_owned(), connected);
        Ok(member)
    }

    pub fn get(&self, name: &str) -> Option<Arc<Member>> {
        self.connected().get(name).map(|connected| Arc::clone(&connected.member))
    }

    pub fn all(&self) -> Vec<Arc<Member>> {
        self.connected().values().map(|connected| Arc::clone(&connected.member)).collect()
    }

    /// Of all clusters that were looked at, connected or not.
    pub fn names(&self) -> Vec<String> {
        self.standings.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Ends the connection; its mirrored endpoints stay.
    pub fn disconnect(&self, name: &str) {
        self.connected_mut().remove(name);
    }

    /// Ends every connection and the work for it.
    pub fn disconnect_all(&self) {
        self.connected_mut().clear();
    }

    /// Forgets a cluster that is registered no more.
    pub fn remove(&self, name: &str) {
        self.disconnect(name);
        self.standings.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub fn standing(&self, name: &str) -> Option<Standing> {
        self.standings.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// True when it is news.
    pub fn set_standing(&self, name: &str, standing: Standing) -> bool {
        let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
        standings.insert(name.to_owned(), standing.clone()) != Some(standing)
    }

    fn connected(&self) -> RwLockReadGuard<'_, BTreeMap<String, Connected>> {
        self.connected.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Connected>> {
        self.connected.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("no", "Unauthorized").with_code(code).boxed())
    }

    fn handshake(text: &str) -> kube::Error {
        kube::Error::Service(text.to_owned().into())
    }

    #[test]
    fn what_a_failure_says_of_the_cluster() {
        let cases = [
            (answered(401), Some("CredentialsRefused")),
            (answered(403), Some("CredentialsRefused")),
            (answered(500), None),
            (handshake("received fatal alert: BadCertificate"), Some("CredentialsRefused")),
            (handshake("invalid peer certificate: UnknownIssuer"), Some("ServerNotTrusted")),
            (
                handshake("invalid peer certificate: certificate expired: ..."),
                Some("ServerCertificateExpired"),
            ),
            (
                handshake("invalid peer certificate: certificate not valid for name \"a\""),
                Some("ServerNotTrusted"),
            ),
            (handshake("connection refused"), None),
        ];
        for (error, expected) in cases {
            let reason = match judge(&error, None, Timestamp::UNIX_EPOCH) {
                State::Refuses(refusal) => Some(refusal.reason),
                _ => None,
            };
            assert_eq!(reason, expected, "{error}");
        }
    }

    #[test]
    fn credentials_whose_time_is_over_are_named_so_only_where_they_are_refused() {
        // Until 2025-01-01.
        let token = "e30.eyJleHAiOjE3MzU2ODk2MDAsIm5iZiI6MTcwNDA2NzIwMH0.c2lnbmF0dXJl";
        let kubeconfig = format!("{{users: [{{name: u, user: {{token: {token}}}}}]}}");
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&kubeconfig).expect("a kubeconfig");
        let validity = Validity::of(&kubeconfig).expect("a validity");
        let judged = |error: &kube::Error, day: &str| match judge(
            error,
            Some(&validity),
            day.parse().expect("a time"),
        ) {
            State::Refuses(refusal) => refusal.reason,
            _ => "",
        };
        assert_eq!(judged(&answered(401), "2025-06-01T00:00:00Z"), "CredentialsExpired");
        assert_eq!(
            judged(&handshake("received fatal alert: CertificateExpired"), "2025-06-01T00:00:00Z"),
            "CredentialsExpired"
        );
        assert_eq!(judged(&answered(401), "2024-06-01T00:00:00Z"), "CredentialsRefused");
        assert_eq!(judged(&answered(403), "2025-06-01T00:00:00Z"), "CredentialsRefused");
        assert_eq!(judged(&handshake("connection refused"), "2025-06-01T00:00:00Z"), "");
    }
}
