//! Where others on the node ask the agent: a Unix socket in the state folder that speaks HTTP, for `explain` and `probe`.
//!
//! `GET /explain?subject=SERVICE-OR-VIP&from=WHERE&tuple=CLIENT` answers with an [`Answer`] as JSON, or with a sentence
//! that says what is wrong. `GET /live` answers when the agent's main loop comes round to it, `GET /ready` when the data
//! plane follows the federation, else with a sentence that says why it does not.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result, anyhow};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};

use super::readiness::Hindrance;
use crate::{
    dataplane::{Course, Tuple},
    model::{Federation, Protocol, ServiceKey},
    plan::{self, Explanation, Health, Place},
};

/// The socket's name in the state folder.
pub const SOCKET: &str = "agent.sock";

/// What only the agent's main loop can answer, and where its answer goes.
pub(super) enum Call {
    /// Does it turn?
    Turn(oneshot::Sender<()>),
    /// A question to the loaded program.
    Program(Tuple, oneshot::Sender<Result<Course>>),
}

/// Calls that may wait at a time.
const WAITING: usize = 16;

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// `SERVICE`, `NAMESPACE/SERVICE`, `SERVICE.NAMESPACE...`, `VIP` or `VIP:PORT`.
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// A client's address and port: the loaded program is asked as well, about each frontend of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuple: Option<SocketAddr>,
}

/// What is known of each service that the subject may mean.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Where the clients stand.
    pub place: String,
    pub services: Vec<Story>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Story {
    pub service: String,
    pub frontends: Vec<Explanation>,
    /// By VIP and protocol: what the program does with the client of the tuple.
    pub courses: Vec<(SocketAddr, String, Course)>,
}

/// The desk, open for questions.
pub(super) struct Desk {
    listener: UnixListener,
    path: PathBuf,
    asked: Arc<Asked>,
}

/// What answers are made of.
struct Asked {
    hindrance: watch::Receiver<Hindrance>,
    calls: mpsc::Sender<Call>,
    /// Once the agent serves.
    known: OnceLock<Known>,
}

/// What an agent that serves explains by.
pub(super) struct Known {
    pub federation: watch::Receiver<Option<Arc<Federation>>>,
    pub health: watch::Receiver<Arc<Health>>,
    pub place: Place,
}

/// Tells the desk that the agent serves.
pub(super) struct Briefing(Arc<Asked>);

impl Desk {
    /// # Errors
    /// The state folder takes no socket.
    pub(super) fn open(
        state_dir: &Path,
        hindrance: watch::Receiver<Hindrance>,
    ) -> Result<(Self, Briefing, mpsc::Receiver<Call>)> {
        let path = state_dir.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        let for_root = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&path, for_root).with_context(|| format!("protect {}", path.display()))?;
        let (sender, calls) = mpsc::channel(WAITING);
        let asked = Arc::new(Asked { hindrance, calls: sender, known: OnceLock::new() });
        let briefing = Briefing(Arc::clone(&asked));
        Ok((Self { listener, path, asked }, briefing, calls))
    }

    /// Answers until dropped.
    pub(super) async fn serve(self) -> Result<()> {
        let app = Router::new()
            .route("/explain", get(explain))
            .route("/live", get(live))
            .route("/ready", get(ready))
            .with_state(self.asked);
        let served = axum::serve(self.listener, app).await;
        served.with_context(|| format!("answer at {}", self.path.display()))
    }
}

impl Briefing {
    /// From now on connections can be explained.
    pub(super) fn serves(self, known: Known) {
        // There is one briefing, and it is used up.
        let _ = self.0.known.set(known);
    }
}

type Refusal = (StatusCode, String);

/// Whoever asks gives up when the main loop does not come round.
async fn live(State(asked): State<Arc<Asked>>) -> Result<(), Refusal> {
    let (answer, answered) = oneshot::channel();
    asked.call(Call::Turn(answer), answered).await.map_err(unavailable)
}

async fn ready(State(asked): State<Arc<Asked>>) -> Result<(), Refusal> {
    match asked.hindrance.borrow().clone() {
        None => Ok(()),
        Some(why) => Err(unavailable(anyhow!(why))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as the one who hands errors on would have it")]
fn unavailable(error: anyhow::Error) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"))
}

async fn explain(
    State(asked): State<Arc<Asked>>,
    Query(question): Query<Question>,
) -> Result<Json<Answer>, Refusal> {
    let not_found = |reason: String| (StatusCode::NOT_FOUND, reason);
    let known = asked.known.get().ok_or_else(|| not_found("the agent does not serve yet".to_owned()))?;
    let federation = known.federation.borrow().clone();
    let federation = federation.ok_or_else(|| not_found("the federation is not known yet".to_owned()))?;
    let health = known.health.borrow().clone();
    let place = match &question.from {
        None => known.place.clone(),
        Some(from) => plan::place_of(&federation, from).map_err(not_found)?,
    };
    let subject = Subject::find(&federation, &question.subject).map_err(not_found)?;
    let mut services = Vec::new();
    for key in &subject.services {
        let vip = subject.vip.map(|vip| vip.ip());
        let mut frontends = plan::explain(&federation, &place, &health, key, vip);
        if let Some(port) = subject.vip.map(|vip| vip.port()).filter(|port| *port != 0) {
            frontends.retain(|frontend| frontend.vip.port() == port);
        }
        let mut courses = Vec::new();
        if let Some(client) = question.tuple {
            for frontend in frontends.iter().filter(|f| f.vip.is_ipv4() == client.is_ipv4()) {
                let Some(protocol) = asked_about(&frontend.protocol) else { continue };
                let course = asked.ask(Tuple { client, vip: frontend.vip, protocol }).await;
                let course =
                    course.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
                courses.push((frontend.vip, frontend.protocol.clone(), course));
            }
        }
        services.push(Story { service: key.to_string(), frontends, courses });
    }
    let place = format!("{}/{}", place.locality.cluster, place.node);
    Ok(Json(Answer { place: place.trim_end_matches('/').to_owned(), services }))
}

/// Protocols whose connections have a first packet that can be made up.
fn asked_about(protocol: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|known| known.to_string() == protocol)
}

impl Asked {
    async fn ask(&self, tuple: Tuple) -> Result<Course> {
        let (answer, answered) = oneshot::channel();
        self.call(Call::Program(tuple, answer), answered).await?
    }

    async fn call<T>(&self, call: Call, answered: oneshot::Receiver<T>) -> Result<T> {
        self.calls.send(call).await.context("the agent is ending")?;
        answered.await.context("the agent is ending")
    }
}

/// What a question is about.
#[derive(Debug, PartialEq, Eq)]
struct Subject {
    services: Vec<ServiceKey>,
    /// Port 0: all of its ports.
    vip: Option<SocketAddr>,
}

impl Subject {
    fn find(federation: &Federation, subject: &str) -> Result<Self, String> {
        let vip =
            subject.parse::<SocketAddr>().or_else(|_| subject.parse().map(|ip| SocketAddr::new(ip, 0))).ok();
        if let Some(vip) = vip {
            let holds =
                |service: &crate::model::Service| service.vips.values().flatten().any(|ip| *ip == vip.ip());
            let services: Vec<_> =
                federation.services.iter().filter(|(_, it)| holds(it)).map(|(key, _)| key.clone()).collect();
            if services.is_empty() {
                return Err(format!("{} is no service's VIP", vip.ip()));
            }
            return Ok(Self { services, vip: Some(vip) });
        }
        let (namespace, name) = match (subject.split_once('/'), subject.split_once('.')) {
            (Some((namespace, name)), _) => (Some(namespace), name),
            (None, Some((name, rest))) => (rest.split('.').next(), name),
            (None, None) => (None, subject),
        };
        let is_meant =
            |key: &&ServiceKey| *key.name == *name && namespace.is_none_or(|n| *key.namespace == *n);
        let services: Vec<_> = federation.services.keys().filter(is_meant).cloned().collect();
        if services.is_empty() {
            return Err(format!(
                "the federation has no service {subject} with a VIP; `federation-agent services` lists the VIPs"
            ));
        }
        Ok(Self { services, vip: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Scope, Service};

    #[test]
    fn a_subject_is_a_service_by_any_of_its_names_or_a_vip() {
        let service = |vip: &str| {
            let vips = Arc::new([(Scope::Nearest, vec![vip.parse().unwrap()])].into());
            Arc::new(Service { vips, ..Service::default() })
        };
        let one = ServiceKey::new("shop", "cart");
        let other = ServiceKey::new("test", "cart");
        let services = [(one.clone(), service("198.18.0.1")), (other.clone(), service("fd98::1"))];
        let federation = Federation { services: services.into_iter().collect(), ..Federation::default() };
        for (subject, expected, vip) in [
            ("cart", vec![&one, &other], None),
            ("shop/cart", vec![&one], None),
            ("cart.test", vec![&other], None),
            ("cart.test.my-federation", vec![&other], None),
            ("198.18.0.1", vec![&one], Some("198.18.0.1:0")),
            ("198.18.0.1:80", vec![&one], Some("198.18.0.1:80")),
            ("[fd98::1]:80", vec![&other], Some("[fd98::1]:80")),
        ] {
            let found = Subject::find(&federation, subject).unwrap();
            assert_eq!(found.services.iter().collect::<Vec<_>>(), expected, "{subject}");
            assert_eq!(found.vip, vip.map(|vip| vip.parse().unwrap()), "{subject}");
        }
        for unknown in ["basket", "shop/basket", "198.18.0.9", "cart.nowhere"] {
            assert!(Subject::find(&federation, unknown).unwrap_err().contains(unknown), "{unknown}");
        }
    }
}
