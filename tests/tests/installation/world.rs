//! One node of one cluster, its own API, and a Federation API at which tests write what they want it to know.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use federation_tests::{
    federation::{DOMAIN, FEDERATION, Federation, Member, PATIENCE, VIP_RANGE, VIP_RANGE_V6},
    lab::{ClusterSpec, Lab, Node, Process, ServiceAccount, program},
};
use k8s_openapi::api::core::v1;
use kube::{Api, api::PostParams};
use serde_json::json;

pub const CLUSTER: &str = "europe-west1-d";
pub const ZONE: &str = "europe-west1-d";
pub const REGION: &str = "europe-west1";

/// Where agents answer DNS, which no interface has.
pub const DNS: &str = "169.254.20.11:53";

/// What root may do in the agent's container.
const RIGHTS: &str = "-all,+bpf,+perfmon,+net_admin,+net_raw,+net_bind_service";

pub struct World {
    pub federation: Federation,
    pub member: Member,
    pub node: Node,
    pub pins: PathBuf,
    pub state: PathBuf,
    /// Where the agent looks for its kubeconfig of the Federation API.
    pub kubeconfig: PathBuf,
    account: ServiceAccount,
}

impl World {
    pub async fn new() -> Result<Self> {
        let mut federation = Federation::without_controller(Lab::new()?).await?;
        let member = federation.add_cluster(ClusterSpec::new(CLUSTER, REGION, ZONE, 8), 0).await?;
        let node = member.cluster().nodes().pop().context("the cluster has a node")?;
        let folder = federation.lab().folder();
        let own = folder.join(member.cluster().control_plane().name()).join("node.kubeconfig");
        Ok(Self {
            pins: federation.lab().id().bpf_folder().join("node"),
            state: folder.join("state"),
            kubeconfig: folder.join("federation.kubeconfig"),
            account: ServiceAccount::of(&own, &folder.join("account"))?,
            federation,
            member,
            node,
        })
    }

    pub fn lab(&self) -> &Lab {
        self.federation.lab()
    }

    /// A command of the agent, on the node.
    pub fn command(&self, name: &str) -> Result<Command> {
        let mut command = self.node.namespace().command(program("federation-agent")?);
        command.arg(name);
        Ok(command)
    }

    /// What the pod of a `DaemonSet` is told, as it is told.
    pub fn settle(&self, command: &mut Command) -> Result<()> {
        for (name, value) in [
            ("FEDERATION_NAME", FEDERATION),
            ("FEDERATION_DOMAIN", DOMAIN),
            ("FEDERATION_VIP_RANGES", &format!("{VIP_RANGE},{VIP_RANGE_V6}")),
            ("FEDERATION_CLUSTER", CLUSTER),
            ("FEDERATION_DNS_LISTEN", DNS),
            ("NODE_NAME", self.node.name()),
        ] {
            command.env(name, value);
        }
        command.env("FEDERATION_KUBECONFIG", &self.kubeconfig);
        command.env("FEDERATION_CGROUP", self.node.host().cgroup()?);
        command.env("FEDERATION_BPF_DIR", &self.pins).env("FEDERATION_STATE_DIR", &self.state);
        self.account.lend(command);
        Ok(())
    }

    /// With no more rights than it needs.
    pub fn start_agent(&self) -> Result<Arc<Process>> {
        let mut command = self.node.namespace().command("setpriv");
        command.args(["--bounding-set", RIGHTS]).arg(program("federation-agent")?).arg("node");
        self.settle(&mut command)?;
        self.node.host().spawn("agent", command)
    }

    /// Everything that the agent waits for, and the agent, until it is ready.
    pub async fn serving(&self) -> Result<Arc<Process>> {
        self.give_kubeconfig()?;
        self.register_node(json!({ "topology.kubernetes.io/zone": ZONE })).await?;
        self.member.register(self.federation.api()).await?;
        let agent = self.start_agent()?;
        self.probed("ready", None).await?;
        Ok(agent)
    }

    pub fn give_kubeconfig(&self) -> Result<()> {
        let kubeconfig = self.federation.kubeconfig().with_file_name("node.kubeconfig");
        std::fs::copy(kubeconfig, &self.kubeconfig).context("give the agent its kubeconfig").map(drop)
    }

    /// The Node object of the node, at its own cluster.
    pub async fn register_node(&self, labels: serde_json::Value) -> Result<()> {
        let node = json!({ "metadata": { "name": self.node.name(), "labels": labels } });
        let nodes = Api::<v1::Node>::all(self.member.api().clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        Ok(())
    }

    /// Asks as a kubelet does: whether, and what it says.
    pub fn probe(&self, question: &str) -> Result<(bool, String)> {
        let mut command = self.command("probe")?;
        let output = command.arg(question).arg("--state-dir").arg(&self.state).output()?;
        Ok((output.status.success(), said(&output)?))
    }

    /// Waits until the probe says no with a sentence that contains `part`; or yes, without one.
    pub async fn probed(&self, question: &str, part: Option<&str>) -> Result<()> {
        let what = format!("the probe {question} says {}", part.unwrap_or("yes"));
        let asked = async || {
            let (yes, said) = self.probe(question)?;
            ensure!(yes == part.is_none() && said.contains(part.unwrap_or_default()), "{yes}: {said}");
            ensure!(yes || said.lines().count() == 1, "{said:?} is not one sentence");
            Ok(())
        };
        self.lab().wait_for(what, PATIENCE, asked).await
    }

    /// The addresses of `lo`.
    pub fn loopback(&self) -> Result<String> {
        self.node.namespace().execute("ip", &["address", "show", "dev", "lo"])
    }
}

pub fn said(output: &Output) -> Result<String> {
    String::from_utf8(output.stdout.clone()).context("read what it said")
}
