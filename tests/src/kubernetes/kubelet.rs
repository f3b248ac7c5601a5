//! Starts pods on a node of the lab, as a kubelet does: volumes and environment from what the API has, init containers
//! one after the other, then the containers, which are probed and started again when they end.
//!
//! A probe runs in a sandbox made like its container's, in the node's network, but with a PID namespace of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{sleep, timeout};

use super::{
    Front,
    rules::Account,
    sandbox::{Bind, ENTRYPOINT, Sandbox},
    template::{Container, Env, HostPathType, PodSpec, Probe, Source, Template, ValueFrom, Volume},
};
use crate::{
    federation::{Member, PATIENCE},
    lab::{Host, LabId, MARK, Namespace, Node, Process},
};

/// How often a process is looked at that is about to start or to end.
const PAUSE: Duration = Duration::from_millis(20);

/// The only image that there is.
const IMAGE: &str = "federation-agent:";

/// Where a service account's token is mounted.
const ACCOUNT_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub struct Kubelet {
    front: Arc<Front>,
    node: Node,
    lab: LabId,
    /// Of this node, in the lab's.
    folder: PathBuf,
    /// By name, or what keeps them from running.
    pods: Mutex<BTreeMap<String, Result<Arc<Pod>, String>>>,
}

/// A pod whose containers run.
pub struct Pod {
    name: String,
    container: Container,
    network: Namespace,
    host: Host,
    lab: LabId,
    /// That of its container.
    sandbox: Sandbox,
    process: Mutex<Arc<Process>>,
}

/// A pod that is about to be made.
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// What a command in a container said, once it has ended.
#[derive(Debug)]
pub struct Ran {
    pub success: bool,
    pub output: String,
}

// === impl Kubelet ===

impl Kubelet {
    pub(super) fn new(lab: &crate::lab::Lab, member: &Member, node: &Node, front: &Arc<Front>) -> Self {
        let folder = lab.folder().join(format!("{}-{}", member.name(), node.name()));
        Self { front: Arc::clone(front), node: node.clone(), lab: lab.id(), folder, pods: Mutex::default() }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What the node has at one of its paths.
    ///
    /// # Errors
    /// The lab's nodes share one file system, and have a place of their own for these paths alone.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        match path {
            // The BPF file system is one for all network namespaces.
            "/sys/fs/bpf" => Ok(self.lab.bpf_folder().join(self.node.host().name())),
            "/sys/fs/cgroup" => self.node.host().cgroup(),
            "/var/lib/federation" => Ok(self.folder.join("var-lib-federation")),
            other => bail!("hostPath {other}: the lab's nodes have no such folder"),
        }
    }

    /// The pod of this name.
    ///
    /// # Errors
    /// It does not run, with the reason.
    pub fn pod(&self, name: &str) -> Result<Arc<Pod>> {
        match self.pods().get(name) {
            None => bail!("no pod {name} on {}", self.node.host().name()),
            Some(Err(reason)) => bail!("pod {name} does not run: {reason}"),
            Some(Ok(pod)) => Ok(Arc::clone(pod)),
        }
    }

    pub(super) fn note(&self, name: &str, pod: Result<Arc<Pod>>) {
        self.pods().insert(name.to_owned(), pod.map_err(|error| format!("{error:#}")));
    }

    /// The pod has ended for good, if it did.
    pub(super) fn forget(&self, name: &str, stopped: Result<()>) {
        match stopped {
            Ok(()) => drop(self.pods().remove(name)),
            Err(error) => self.note(name, Err(error)),
        }
    }

    /// Runs the init containers of a pod, and starts its container.
    ///
    /// # Errors
    /// A container cannot be made as its template says, or an init container fails: with what it said.
    pub async fn start(
        &self,
        namespace: &str,
        name: &str,
        template: &Template,
        network: &Namespace,
    ) -> Result<Pod> {
        let spec = &template.spec;
        for container in &spec.init_containers {
            let sandbox = self.sandbox(namespace, name, spec, container).await?;
            let process = spawn(self.node.host(), name, container, &sandbox, network)?;
            let status = end(&process).await?;
            ensure!(
                status.success(),
                "init container {} failed ({status}):\n{}",
                container.name,
                process.tail(usize::MAX)?.join("\n")
            );
        }
        let container = template.container()?;
        let sandbox = self.sandbox(namespace, name, spec, container).await?;
        let host = self.node.host().clone();
        let process = spawn(&host, name, container, &sandbox, network)?;
        Ok(Pod {
            name: name.to_owned(),
            container: container.clone(),
            network: network.clone(),
            host,
            lab: self.lab,
            sandbox,
            process: Mutex::new(process),
        })
    }

    async fn sandbox(
        &self,
        namespace: &str,
        name: &str,
        spec: &PodSpec,
        container: &Container,
    ) -> Result<Sandbox> {
        let pod = Named { namespace, name };
        let stage = self.folder.join("sysfs");
        fs::create_dir_all(&stage).with_context(|| format!("create {}", stage.display()))?;
        let mut binds = Vec::new();
        for mount in &container.volume_mounts {
            let from = self.volume(&pod, spec.volume(&mount.name)?).await?;
            binds.push(Bind { from, to: mount.path.clone(), read_only: mount.read_only });
        }
        let address = self.front.address();
        let mut environment = vec![
            (MARK.to_owned(), self.lab.to_string()),
            ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("HOSTNAME".to_owned(), name.to_owned()),
            ("KUBERNETES_SERVICE_HOST".to_owned(), address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), address.port().to_string()),
        ];
        if spec.automount_service_account_token {
            let account = (namespace.to_owned(), spec.service_account_name.clone());
            let from = self.account_volume(&pod, &account)?;
            binds.push(Bind { from, to: ACCOUNT_FOLDER.to_owned(), read_only: true });
        }
        for source in &container.env_from {
            let maps = Api::<ConfigMap>::namespaced(self.front.behind().clone(), namespace);
            let name = &source.config_map_ref.name;
            let map = maps.get(name).await.with_context(|| format!("envFrom: ConfigMap {name}"))?;
            environment.extend(map.data.unwrap_or_default());
        }
        for env in &container.env {
            environment.push((env.name.clone(), self.value(&pod, env).await?));
        }
        Ok(Sandbox {
            user: spec.security_context.run_as_user,
            group: spec.security_context.run_as_group,
            capabilities: container.security_context.capabilities.add.clone(),
            read_only: container.security_context.read_only_root_filesystem,
            binds,
            environment,
            stage,
        })
    }

    async fn value(&self, pod: &Named<'_>, env: &Env) -> Result<String> {
        match &env.value_from {
            None => env.value.clone().context("no value"),
            Some(ValueFrom::FieldRef(field)) => match field.field_path.as_str() {
                "spec.nodeName" => Ok(self.node.name().to_owned()),
                "metadata.name" => Ok(pod.name.to_owned()),
                "metadata.namespace" => Ok(pod.namespace.to_owned()),
                other => bail!("env {}: fieldRef {other} is not known here", env.name),
            },
            Some(ValueFrom::SecretKeyRef(reference)) => {
                let value = self.secret(pod, &reference.name, &reference.key).await?;
                String::from_utf8(value).with_context(|| format!("env {}: not text", env.name))
            }
        }
    }

    async fn secret(&self, pod: &Named<'_>, name: &str, key: &str) -> Result<Vec<u8>> {
        let secrets = Api::<Secret>::namespaced(self.front.behind().clone(), pod.namespace);
        let secret = secrets.get(name).await.with_context(|| format!("Secret {name}"))?;
        let value = secret.data.unwrap_or_default().remove(key);
        value.map(|value| value.0).with_context(|| format!("Secret {name} has no key {key}"))
    }

    /// What is mounted for a volume.
    async fn volume(&self, pod: &Named<'_>, volume: &Volume) -> Result<PathBuf> {
        match &volume.source {
            Source::HostPath(source) => {
                let path = self.path(&source.path)?;
                // A node always has its BPF file system.
                if source.kind == HostPathType::DirectoryOrCreate || source.path == "/sys/fs/bpf" {
                    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
                }
                ensure!(path.is_dir(), "hostPath {}: no such folder", source.path);
                Ok(path)
            }
            Source::Secret(source) => {
                let folder = self.folder.join("pods").join(pod.name).join(&volume.name);
                for item in &source.items {
                    let value = self.secret(pod, &source.secret_name, &item.key).await?;
                    write(&folder, &item.path, &value)?;
                }
                Ok(folder)
            }
        }
    }

    fn account_volume(&self, pod: &Named<'_>, account: &Account) -> Result<PathBuf> {
        let known = self.front.get("ServiceAccount", &account.0, &account.1);
        known.with_context(|| format!("there is no ServiceAccount {}/{}", account.0, account.1))?;
        let folder = self.folder.join("pods").join(pod.name).join("kube-api-access");
        for (name, text) in [
            ("token", self.front.token(account).as_str()),
            ("ca.crt", self.front.ca()),
            ("namespace", &account.0),
        ] {
            write(&folder, name, text.as_bytes())?;
        }
        Ok(folder)
    }
}

impl Kubelet {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Result<Arc<Pod>, String>>> {
        self.pods.lock().expect("no holder of the pods panics")
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).context("let the container read it")
}

// === impl Pod ===

impl Pod {
    /// The process that is the container's, as bubblewrap's, which ends with it.
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().expect("no holder of the process panics"))
    }

    /// The first process in the container.
    ///
    /// # Errors
    /// It has ended, or does not run yet.
    pub fn first(&self) -> Result<Pid> {
        let process = self.process();
        let (id, status) = (process.id(), process.ended()?);
        ensure!(status.is_none(), "{} has ended with {status:?}", process.name());
        let path = format!("/proc/{id}/task/{id}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let first = children.split_whitespace().next().context("it is only about to start")?;
        Ok(Pid::from_raw(first.parse()?))
    }

    /// Sends a signal to the first process in the container.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.first()?, signal).with_context(|| format!("send {signal} to pod {}", self.name))
    }

    /// Tells the pod to end, and waits until it has.
    pub async fn stop(&self) -> Result<ExitStatus> {
        let process = self.process();
        // One that is only about to start cannot be told yet.
        while process.ended()?.is_none() && self.signal(Signal::SIGTERM).is_err() {
            sleep(PAUSE).await;
        }
        end(&process).await
    }

    /// Starts its container again, after that has ended.
    pub(super) fn start_again(&self) -> Result<()> {
        let process = spawn(&self.host, &self.name, &self.container, &self.sandbox, &self.network)?;
        *self.process.lock().expect("no holder of the process panics") = process;
        Ok(())
    }

    pub fn readiness(&self) -> Option<&Probe> {
        self.container.readiness_probe.as_ref()
    }

    pub fn liveness(&self) -> Option<&Probe> {
        self.container.liveness_probe.as_ref()
    }

    /// Runs a probe once, within its time.
    pub async fn probe(&self, probe: &Probe) -> Result<Ran> {
        let limit = Duration::from_secs(probe.timeout_seconds);
        let words: Vec<_> = probe.exec.command.iter().map(String::as_str).collect();
        let Ok(outcome) = timeout(limit, self.run(&words)).await else {
            return Ok(Ran { success: false, output: format!("no answer within {limit:?}") });
        };
        outcome
    }

    /// Runs a command in the container, as `kubectl exec` does.
    pub async fn run(&self, words: &[&str]) -> Result<Ran> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut command = tokio::process::Command::from(self.sandbox.command(&self.network, &words)?);
        command.env(MARK, self.lab.to_string()).kill_on_drop(true);
        let output = command.output().await.context("start a command in a container")?;
        let said = [output.stdout, output.stderr].concat();
        Ok(Ran { success: output.status.success(), output: String::from_utf8_lossy(&said).trim().to_owned() })
    }
}

/// Waits until a process ends by itself. (What [`Process::end`] returns cannot be sent between threads.)
async fn end(process: &Process) -> Result<ExitStatus> {
    let ended = async {
        loop {
            match process.ended()? {
                Some(status) => return anyhow::Ok(status),
                None => sleep(PAUSE).await,
            }
        }
    };
    timeout(PATIENCE, ended).await.with_context(|| format!("{} does not end", process.name()))?
}

fn spawn(
    host: &Host,
    pod: &str,
    container: &Container,
    sandbox: &Sandbox,
    network: &Namespace,
) -> Result<Arc<Process>> {
    ensure!(container.image.starts_with(IMAGE), "there is no image {}", container.image);
    let entrypoint = vec![ENTRYPOINT.to_owned()];
    let entrypoint = if container.command.is_empty() { &entrypoint } else { &container.command };
    let words = [entrypoint.as_slice(), &container.args].concat();
    host.spawn(&format!("{}-{pod}-{}", host.name(), container.name), sandbox.command(network, &words)?)
}
