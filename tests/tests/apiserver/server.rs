//! One API server process on a free port of the loopback interface, and ways to talk to it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use federation_agent::client::from_kubeconfig;
use http::{Method, Request, header};
use kube::Client;
use kube::client::Body;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; reached only by a failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Server {
    process: Child,
    directory: TempDir,
}

/// What came back for a request: the HTTP status code and the body.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = profile.join("federation-agent");
    assert!(binary.exists(), "{} is not built: cargo build -p federation-agent", binary.display());
    binary
}

fn command(directory: &Path, listen: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("apiserver").args(["--listen", listen]);
    command.arg("--data-dir").arg(directory.join("data"));
    command.arg("--kubeconfig").arg(directory.join("admin.conf"));
    command.arg("--node-kubeconfig").arg(directory.join("node.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        // The server must not outlive a test that was killed.
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    command
}

/// Runs a server that is expected to give up, and gives what it says.
pub fn refused(directory: &Path, listen: &str) -> (ExitStatus, String) {
    let mut process = command(directory, listen).spawn().expect("start the API server");
    // Read while it runs: a process that says much would wait for a reader, and never end.
    let mut stderr = process.stderr.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("text");
        said
    });
    let status = end(&mut process);
    let said = reader.join().expect("the reader");
    let status = status.unwrap_or_else(|| panic!("the API server has not ended within {DEADLINE:?}: {said}"));
    (status, said)
}

/// Waits for the process to end.
fn wait(process: &mut Child) -> ExitStatus {
    end(process).unwrap_or_else(|| panic!("the API server has not ended within {DEADLINE:?}"))
}

/// How the process has ended; one that does not is killed at the deadline.
fn end(process: &mut Child) -> Option<ExitStatus> {
    let pid = pid(process);
    let (ended, end) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = end.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            kill(pid, Signal::SIGKILL).expect("kill the API server");
        }
        late
    });
    let status = process.wait().expect("wait for the API server");
    drop(ended);
    let late = watchdog.join().expect("the watchdog");
    (!late).then_some(status)
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).expect("a pid"))
}

impl Server {
    /// With an empty store.
    pub fn start() -> Self {
        Self::start_in(TempDir::new().expect("a directory"))
    }

    /// With what is in the directory.
    pub fn start_in(directory: TempDir) -> Self {
        Self::start_at(directory, "127.0.0.1:0")
    }

    /// At this address, for clients that find it there again.
    pub fn start_at(directory: TempDir, listen: &str) -> Self {
        for kubeconfig in ["admin.conf", "node.conf"] {
            drop(fs::remove_file(directory.path().join(kubeconfig)));
        }
        let mut process = command(directory.path(), listen).spawn().expect("start the API server");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let mut said = String::new();
        // It says that it serves after both kubeconfigs are written; its end closes the pipe.
        while !said.contains("serving the API") {
            let length = log.read_line(&mut said).expect("read the log");
            assert!(length > 0, "the API server has ended: {said}");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Self { process, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub async fn client(&self) -> Client {
        from_kubeconfig(&self.path("admin.conf")).await.expect("a client")
    }

    pub async fn reader(&self) -> Client {
        from_kubeconfig(&self.path("node.conf")).await.expect("a client")
    }

    /// A client with another token.
    pub async fn stranger(&self) -> Client {
        self.client_with("guessed").await
    }

    /// A client that says nothing of who it is.
    pub async fn nobody(&self) -> Client {
        self.client_with("null").await
    }

    async fn client_with(&self, token: &str) -> Client {
        let kubeconfig = fs::read_to_string(self.path("admin.conf")).expect("a kubeconfig");
        let known = fs::read_to_string(self.path("data/admin.token")).expect("a token");
        assert!(kubeconfig.contains(&known), "the kubeconfig has the token");
        let path = self.path("other.conf");
        fs::write(&path, kubeconfig.replace(&known, token)).expect("write");
        from_kubeconfig(&path).await.expect("a client")
    }

    /// Ends the process as a person does; it must end well.
    pub fn terminate(mut self) -> TempDir {
        self.signal(Signal::SIGTERM);
        let status = wait(&mut self.process);
        assert!(status.success(), "SIGTERM is a good end: {status}");
        self.into_directory()
    }

    /// Ends the process as a power cut does.
    pub fn kill(mut self) -> TempDir {
        self.signal(Signal::SIGKILL);
        wait(&mut self.process);
        self.into_directory()
    }

    fn signal(&self, signal: Signal) {
        kill(pid(&self.process), signal).expect("signal the API server");
    }

    fn into_directory(mut self) -> TempDir {
        let empty = TempDir::new().expect("a directory");
        std::mem::replace(&mut self.directory, empty)
    }

    /// A kubectl of this server, whatever else the person who runs the test has set up.
    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("KUBECONFIG", self.path("admin.conf")).env("HOME", self.directory.path());
        kubectl
    }

    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        run_with_input(self.kubectl_command().args(arguments), input)
    }

    /// The path of a kubectl whose output is read while it runs.
    pub fn kubectl_lines(&self, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut kubectl = self.kubectl_command();
        let kubectl = kubectl.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut kubectl = kubectl.expect("run kubectl");
        let lines = BufReader::new(kubectl.stdout.take().expect("piped"));
        (kubectl, lines)
    }
}

/// Runs a program to its end.
pub fn run_with_input(command: &mut Command, input: &str) -> Output {
    use std::io::Write as _;
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut process =
        piped.unwrap_or_else(|error| panic!("run {}: {error}", command.get_program().display()));
    // One that ends without reading has said why.
    drop(process.stdin.take().expect("piped").write_all(input.as_bytes()));
    process.wait_with_output().expect("wait for the program")
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A request as it stands, and its answer as it stands.
pub async fn send(client: &Client, method: Method, path: &str, media_type: &str, body: &Value) -> Answer {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    send_text(client, method, path, media_type, text).await
}

pub async fn send_text(
    client: &Client,
    method: Method,
    path: &str,
    media_type: &str,
    body: String,
) -> Answer {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media_type);
    let request = request.body(Body::from(body.into_bytes())).expect("a request");
    let response = client.send(request).await.expect("an answer");
    let code = response.status().as_u16();
    let warnings = response.headers().get_all(header::WARNING).iter();
    let warnings = warnings.map(|warning| warning.to_str().expect("text").to_owned()).collect();
    let body = response.into_body().collect_bytes().await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
    Answer { code, body, warnings }
}

impl Answer {
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }
}

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";
pub const CLUSTERS: &str = "/apis/federation.dev/v1alpha1/clusters";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A Service with one port.
pub fn service(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}
