//! One machine with a Federation API and the `dns` role, and the resolvers that ask it.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use federation_agent::{
    api::{Cluster, FederatedService, FederatedServiceStatus, ScopeKind, VipStatus},
    client,
};
use federation_tests::lab::{Host, Lab, Process, program};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A lab with one host, on which everything runs: the API at port 6443, DNS at port 53.
pub struct World {
    pub lab: Lab,
    pub host: Host,
}

pub const DNS: &str = "127.0.0.1:53";

/// The service of most tests.
pub const NAME: &str = "my-service.my-namespace.my-federation";

pub const VIPS: [(ScopeKind, Option<&str>, &[&str]); 4] = [
    (ScopeKind::Nearest, None, &["198.18.0.1", "fd00:fed::1"]),
    (ScopeKind::Global, None, &["198.18.0.2"]),
    (ScopeKind::Region, Some("europe-west1"), &["198.18.0.3"]),
    (ScopeKind::Zone, Some("europe-west1-d"), &["198.18.0.4"]),
];

/// Runs a test on a thread inside of the host's network, since its API client has to connect from there.
pub fn in_world(test: impl AsyncFnOnce(&World) -> Result<()> + Send) -> Result<()> {
    let lab = Lab::new()?;
    let world = World { host: lab.host("machine")?, lab };
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test(&world))
    };
    thread::scope(|scope| scope.spawn(|| world.host.namespace().run(inside)?).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl World {
    pub fn kubeconfig(&self) -> PathBuf {
        self.lab.folder().join("node.kubeconfig")
    }

    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.lab.folder().join("admin.kubeconfig")
    }

    /// Starts the Federation API, for the first time or again with what it has stored.
    pub async fn start_api(&self) -> Result<Arc<Process>> {
        // It is written once the server answers, so an old one must not be taken for the new one.
        let _ = std::fs::remove_file(self.admin_kubeconfig());
        let mut command = self.host.namespace().command(program("federation-agent")?);
        command
            .args(["apiserver", "--listen", "127.0.0.1:6443", "--data-dir"])
            .arg(self.lab.folder().join("api"));
        command.arg("--kubeconfig").arg(self.admin_kubeconfig());
        command.arg("--node-kubeconfig").arg(self.kubeconfig());
        let process = self.host.spawn("apiserver", command)?;
        let listening =
            async || std::fs::metadata(self.admin_kubeconfig()).map_err(|_| anyhow!("no kubeconfig"));
        self.lab.wait_for("the Federation API listens", PATIENCE, listening).await?;
        Ok(process)
    }

    /// The Federation API, and DNS that answers for a service of one cluster, [`NAME`]; a client of that API.
    pub async fn serve(&self) -> Result<Client> {
        self.start_api().await?;
        let client = self.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        self.start_dns("dns", DNS)?;
        self.eventually_answers(NAME, "198.18.0.1").await?;
        Ok(client)
    }

    pub async fn client(&self) -> Result<Client> {
        let client = client::from_kubeconfig(&self.admin_kubeconfig()).await?;
        let namespace = serde_json::from_value(json!({ "metadata": { "name": "my-namespace" } }))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(client)
    }

    pub fn start_dns(&self, name: &str, listen: &str) -> Result<Arc<Process>> {
        self.start_dns_with(name, &["--listen", listen])
    }

    pub fn start_dns_with(&self, name: &str, arguments: &[&str]) -> Result<Arc<Process>> {
        let mut command = self.host.namespace().command(program("federation-agent")?);
        command.args(["dns", "--federation", "my-federation", "--domain", "example.com"]);
        command.args(["--vip-range", "198.18.0.0/16,fd00:fed::/64"]).args(arguments).arg("--kubeconfig");
        self.host.spawn(name, command_with(command, self.kubeconfig()))
    }

    /// A program that is not ours, with a configuration in the lab's folder.
    pub fn start_with_file(
        &self,
        name: &str,
        arguments: &[&str],
        configuration: &str,
    ) -> Result<Arc<Process>> {
        let file = self.lab.folder().join(format!("{name}.conf"));
        std::fs::write(&file, configuration)?;
        // Debian keeps servers where only root looks.
        let mut command = self.host.namespace().command(format!("/usr/sbin/{name}"));
        command.args(arguments);
        self.host.spawn(name, command_with(command, file))
    }

    pub fn dig(&self, arguments: &[&str]) -> Result<Dig> {
        let mut command = self.host.namespace().command("dig");
        // Who names no other server means ours; of two, dig would ask the first.
        let names_one = arguments.iter().any(|argument| argument.starts_with('@'));
        command.args((!names_one).then_some("@127.0.0.1"));
        command.args(["+tries=1", "+time=2"]).args(arguments);
        let output = command.output().context("run dig")?;
        ensure!(output.status.success(), "dig {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        Dig::read(&String::from_utf8(output.stdout)?)
    }

    pub async fn eventually(&self, name: &str, status: &str) -> Result<()> {
        self.eventually_is(&[name], status, &[]).await
    }

    pub async fn eventually_answers(&self, name: &str, address: &str) -> Result<()> {
        let answer = format!("{name}. 300 IN A {address}");
        self.eventually_is(&[name], "NOERROR", &[&answer]).await
    }

    /// Asks again and again until this is what dig is told.
    pub async fn eventually_is(&self, arguments: &[&str], status: &str, answers: &[&str]) -> Result<()> {
        let probe = async || {
            let answer = self.dig(arguments)?;
            ensure!(answer.status == status && answer.answers == answers, "{arguments:?}: {answer:?}");
            Ok(())
        };
        self.lab.wait_for(format!("{arguments:?} is {status} {answers:?}"), PATIENCE, probe).await
    }

    /// Looks a name up as any program does, with a `resolv.conf` that only this process sees.
    pub fn getent(&self, resolver: &str, database: &str, name: &str) -> Result<Output> {
        self.look_up(resolver, &["getent", database, name])
    }

    /// Runs a program that looks names up, with a `resolv.conf` that only this process sees.
    pub fn look_up(&self, resolver: &str, program: &[&str]) -> Result<Output> {
        let file = self.lab.folder().join("resolv.conf");
        std::fs::write(&file, resolver)?;
        let mut command = self.host.namespace().command("unshare");
        let script = "mount --bind \"$1\" /etc/resolv.conf; shift; exec \"$@\"";
        command.args(["--mount", "sh", "-ec", script, "-"]);
        command_with(command, file).args(program).output().with_context(|| format!("run {}", program[0]))
    }
}

fn command_with(mut command: Command, argument: PathBuf) -> Command {
    command.arg(argument);
    command
}

/// What dig says of a response.
#[derive(Debug)]
pub struct Dig {
    pub status: String,
    pub authoritative: bool,
    pub recursive: bool,
    pub udp_payload: Option<String>,
    pub answers: Vec<String>,
    pub authority: Vec<String>,
}

impl Dig {
    fn read(text: &str) -> Result<Self> {
        let after = |mark: &str, end: char| {
            let rest = text.split_once(mark)?.1;
            Some(rest.split(end).next().unwrap_or_default().trim().to_owned())
        };
        let flags = after(";; flags: ", ';').context("no flags")?;
        let section = |name: &str| {
            let lines =
                text.lines().skip_while(|line| !line.starts_with(&format!(";; {name} SECTION:"))).skip(1);
            let records = lines.take_while(|line| !line.is_empty());
            records.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        Ok(Self {
            status: after("status: ", ',').context("no status")?,
            authoritative: flags.split(' ').any(|flag| flag == "aa"),
            recursive: flags.split(' ').any(|flag| flag == "ra"),
            udp_payload: after("udp: ", '\n'),
            answers: section("ANSWER"),
            authority: section("AUTHORITY"),
        })
    }
}

pub async fn create_cluster(client: &Client) -> Result<()> {
    create_cluster_in(client, "europe-west1-d", "europe-west1", &["europe-west1-d"]).await
}

pub async fn create_cluster_in(client: &Client, name: &str, region: &str, zones: &[&str]) -> Result<()> {
    let cluster = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": name },
            "region": region, "zones": zones, "networks": ["10.8.0.0/16"],
        },
    }))?;
    Api::<Cluster>::all(client.clone()).create(&PostParams::default(), &cluster).await?;
    Ok(())
}

/// A service with VIPs, as the controller would leave it.
pub async fn create_service(
    client: &Client,
    name: &str,
    vips: &[(ScopeKind, Option<&str>, &[&str])],
) -> Result<()> {
    let ports = json!([{ "name": "http", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
    let service = json!({ "metadata": { "name": name }, "spec": { "ports": ports } });
    let services = Api::<Service>::namespaced(client.clone(), "my-namespace");
    services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;

    let federated = Api::<FederatedService>::namespaced(client.clone(), "my-namespace");
    let object = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": {} }))?;
    federated.create(&PostParams::default(), &object).await?;
    let vips = vips.iter().map(|(scope, location, ips)| {
        let ips = ips.iter().map(|ip| ip.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
        Ok(VipStatus { scope: *scope, location: location.map(str::to_owned), ips, name: name.to_owned() })
    });
    let status = FederatedServiceStatus { vips: vips.collect::<Result<_>>()?, ..Default::default() };
    set_status(client, name, &json!(status)).await
}

/// Sets parts of what is reported of a service, as the controller would.
pub async fn set_status(client: &Client, name: &str, status: &Value) -> Result<()> {
    let federated = Api::<FederatedService>::namespaced(client.clone(), "my-namespace");
    let patch = Patch::Merge(json!({ "status": status }));
    federated.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
