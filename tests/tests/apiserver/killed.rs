//! The server killed at random while operations of every sort are under way: whatever was acknowledged is there
//! afterwards as it was acknowledged, and whatever was refused is not.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use kube::Client;
use kube::client::Body;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::server::{APPLY, JSON, JSON_PATCH, MERGE, STRATEGIC, Server, run_with_input};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
const ROUNDS: usize = 100;
const AT_ONCE: usize = 5;

/// What may stand under a name.
#[derive(Clone, Debug, PartialEq)]
enum State {
    Absent,
    /// Exactly as it was acknowledged, or read.
    Object(Value),
    /// With this in it; the answer did not say more, or there was none.
    Holding(String),
}

/// What an operation would make of its object.
#[derive(Clone, Debug)]
enum Intent {
    Gone,
    Holding(String),
}

#[derive(Debug)]
enum Outcome {
    Acknowledged(State),
    Refused,
    /// The server was killed before it answered: it may have carried the operation out, or not.
    Unknown,
}

/// Something that a client asks for.
enum Operation {
    Request { method: Method, path: String, media_type: &'static str, body: Value },
    Kubectl { arguments: Vec<String>, input: String },
}

impl State {
    fn is(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Holding(content), Self::Object(object)) => object["data"]["content"] == *content,
            (expected, found) => expected == found,
        }
    }
}

impl From<&Intent> for State {
    fn from(intent: &Intent) -> Self {
        match intent {
            Intent::Gone => Self::Absent,
            Intent::Holding(content) => Self::Holding(content.clone()),
        }
    }
}

/// An operation on `name`, of which `state` is known; some of them have to be refused.
fn operation(random: &mut StdRng, name: &str, state: &State, content: &str) -> (Operation, Intent) {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "content": content },
    });
    let path = format!("{MAPS}/{name}");
    let request = |method, path: &str, media_type, body| Operation::Request {
        method,
        path: path.to_owned(),
        media_type,
        body,
    };
    let kubectl = |command: &str, input: &Value| Operation::Kubectl {
        arguments: command.split(' ').map(str::to_owned).collect(),
        input: if input.is_null() { String::new() } else { input.to_string() },
    };
    let intent = Intent::Holding(content.to_owned());
    let data = json!({ "data": { "content": content } });
    let choice = random.random_range(0..12);
    let operation = if let State::Object(stored) = state {
        let mut changed = stored.clone();
        changed["data"]["content"] = content.into();
        match choice {
            0 => request(Method::PUT, &path, JSON, changed),
            1 => {
                changed["metadata"]["resourceVersion"] = "1".into();
                request(Method::PUT, &path, JSON, changed)
            }
            2 => request(Method::PATCH, &path, MERGE, data),
            3 => request(Method::PATCH, &path, STRATEGIC, data),
            4 => {
                let replace = json!([{ "op": "replace", "path": "/data/content", "value": content }]);
                request(Method::PATCH, &path, JSON_PATCH, replace)
            }
            5 => request(Method::PATCH, &format!("{path}?fieldManager=test&force=true"), APPLY, object),
            6 => return (request(Method::DELETE, &path, JSON, Value::Null), Intent::Gone),
            7 => request(Method::POST, MAPS, JSON, object),
            8 => {
                let invalid = json!({ "data": { "content": content, "no key": "" } });
                request(Method::PATCH, &path, MERGE, invalid)
            }
            9 => kubectl("apply -f -", &object),
            10 => kubectl(&format!("patch cm {name} --type=merge -p {data}"), &Value::Null),
            _ => return (kubectl(&format!("delete cm {name} --wait=false"), &Value::Null), Intent::Gone),
        }
    } else {
        match choice {
            0..3 => request(Method::POST, MAPS, JSON, object),
            3..5 => request(Method::PATCH, &format!("{path}?fieldManager=test"), APPLY, object),
            5 => request(Method::PUT, &path, JSON, object),
            6 => return (request(Method::DELETE, &path, JSON, Value::Null), Intent::Gone),
            7 => {
                let mut invalid = object;
                invalid["metadata"]["labels"] = json!({ "label": "-" });
                request(Method::POST, MAPS, JSON, invalid)
            }
            8 => request(Method::POST, &format!("{MAPS}?fieldValidation=Sometimes"), JSON, object),
            9 => kubectl("apply -f -", &object),
            10 => kubectl("create -f -", &object),
            _ => kubectl("replace -f -", &object),
        }
    };
    (operation, intent)
}

async fn carry_out(operation: Operation, client: Client, mut kubectl: Command, intent: &Intent) -> Outcome {
    match operation {
        Operation::Request { method, path, media_type, body } => {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let request =
                Request::builder().method(&method).uri(path).header(header::CONTENT_TYPE, media_type);
            let request = request.body(Body::from(text.into_bytes())).expect("a request");
            let Ok(response) = client.send(request).await else { return Outcome::Unknown };
            let status = response.status();
            let Ok(body) = response.into_body().collect_bytes().await else { return Outcome::Unknown };
            match status {
                _ if status.is_client_error() => Outcome::Refused,
                _ if !status.is_success() => Outcome::Unknown,
                _ if method == Method::DELETE => Outcome::Acknowledged(State::Absent),
                _ => {
                    let object = serde_json::from_slice(&body).expect("an object");
                    Outcome::Acknowledged(State::Object(object))
                }
            }
        }
        Operation::Kubectl { arguments, input } => {
            kubectl.arg("--request-timeout=10s").args(arguments);
            let run = tokio::task::spawn_blocking(move || run_with_input(&mut kubectl, &input));
            let output = run.await.expect("a thread");
            let said = String::from_utf8_lossy(&output.stderr);
            let refusals = ["(NotFound)", "(AlreadyExists)", "(Conflict)", "(BadRequest)", "is invalid"];
            if output.status.success() {
                Outcome::Acknowledged(intent.into())
            } else if refusals.iter().any(|refusal| said.contains(refusal)) {
                Outcome::Refused
            } else {
                Outcome::Unknown
            }
        }
    }
}

async fn read(client: &Client, name: &str) -> State {
    let request = Request::get(format!("{MAPS}/{name}")).body(Body::empty()).expect("a request");
    let response = client.send(request).await.expect("an answer");
    if response.status() == StatusCode::NOT_FOUND {
        return State::Absent;
    }
    assert_eq!(response.status(), StatusCode::OK, "{name}");
    let body = response.into_body().collect_bytes().await.expect("a body");
    State::Object(serde_json::from_slice(&body).expect("an object"))
}

fn version(state: &State) -> u64 {
    let State::Object(object) = state else { return 0 };
    object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

/// The seed of this run: printed, so that a failure can be had again.
fn seed() -> u64 {
    let seed = match env::var("FEDERATION_TEST_SEED") {
        Ok(text) => text.parse().expect("FEDERATION_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    eprintln!("FEDERATION_TEST_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_and_what_was_refused_is_not_whenever_the_server_is_killed() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut known: BTreeMap<&str, State> = NAMES.into_iter().map(|name| (name, State::Absent)).collect();
    let mut directory = TempDir::new().expect("a directory");
    let mut newest = 0;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let server = Server::start_in(directory);
        let client = server.client().await;
        let mut running = JoinSet::new();
        for name in NAMES.sample(&mut random, AT_ONCE).copied().collect::<Vec<_>>() {
            let (operation, intent) = operation(&mut random, name, &known[name], &format!("{round}-{name}"));
            let (client, kubectl) = (client.clone(), server.kubectl_command());
            running.spawn(async move {
                let outcome = carry_out(operation, client, kubectl, &intent).await;
                (name, intent, outcome)
            });
        }
        // After any number of answers, and any time after the last of them: the moment of death is what is tried, and
        // not something that is waited for.
        let mut ended = Vec::new();
        for _ in 0..random.random_range(0..=AT_ONCE) {
            ended.extend(running.join_next().await);
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        directory = server.kill();

        let mut possible: BTreeMap<&str, Vec<State>> =
            known.iter().map(|(name, state)| (*name, vec![state.clone()])).collect();
        let mut story = String::new();
        ended.extend(running.join_all().await.into_iter().map(Ok));
        for ended in ended {
            let (name, intent, outcome) = ended.expect("it does not panic");
            writeln!(story, "{name}: {intent:?}: {outcome:?}").expect("text");
            let possible = possible.get_mut(name).expect("a name");
            let counted = match outcome {
                Outcome::Acknowledged(state) => {
                    newest = newest.max(version(&state));
                    *possible = vec![state];
                    "acknowledged"
                }
                Outcome::Refused => "refused",
                Outcome::Unknown => {
                    possible.push((&intent).into());
                    "unknown"
                }
            };
            *counts.entry(counted).or_default() += 1;
        }

        let server = Server::start_in(directory);
        let client = server.client().await;
        for (name, possible) in possible {
            let found = read(&client, name).await;
            assert!(
                possible.iter().any(|state| state.is(&found)),
                "round {round}: {name} is {found:?} and not one of {possible:?}, after\n{story}"
            );
            newest = newest.max(version(&found));
            known.insert(name, found);
        }
        let list = Request::get(MAPS).body(Body::empty()).expect("a request");
        let list =
            client.send(list).await.expect("an answer").into_body().collect_bytes().await.expect("a body");
        let list: Value = serde_json::from_slice(&list).expect("a list");
        let listed = list["items"].as_array().expect("items").iter().cloned().map(State::Object);
        let there = known.values().filter(|state| **state != State::Absent).cloned();
        assert_eq!(
            listed.collect::<Vec<_>>(),
            there.collect::<Vec<_>>(),
            "round {round}: nothing else is there"
        );
        let revision = list["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok());
        assert!(revision.expect("a number") >= newest, "round {round}: versions do not go back");
        directory = server.terminate();
    }
    eprintln!("{counts:?}");
    for outcome in ["acknowledged", "refused"] {
        assert!(counts.contains_key(outcome), "some are {outcome}: {counts:?}");
    }
}
