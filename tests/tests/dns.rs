//! The `dns` role as its users meet it: real resolvers ask the real process, which follows a real Federation API.

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
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

/// A lab with one host, on which everything runs: the API at port 6443, DNS at port 53.
struct World {
    lab: Lab,
    host: Host,
}

#[test]
fn every_form_of_a_name_answers_over_udp_and_tcp() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        world.start_dns("dns", DNS)?;
        let short = "my-service.my-namespace.my-federation";
        world.eventually_answers(short, "198.18.0.1").await?;

        for (name, record, expected) in [
            (short.to_owned(), "A", "198.18.0.1"),
            (format!("{short}.svc.cluster.local"), "A", "198.18.0.1"),
            (format!("{short}.svc.example.com"), "A", "198.18.0.2"),
            (format!("{short}.svc.europe-west1.example.com"), "A", "198.18.0.3"),
            (format!("{short}.svc.europe-west1-d.example.com"), "A", "198.18.0.4"),
            (format!("{short}.svc.europe-west1-d.europe-west1.example.com"), "A", "198.18.0.4"),
            (short.to_owned(), "AAAA", "fd00:fed::1"),
            ("my-service.my-namespace.svc.clusterset.local".to_owned(), "A", "198.18.0.1"),
            ("my-service.my-namespace.svc.clusterset.local".to_owned(), "AAAA", "fd00:fed::1"),
            (
                "my-service.my-namespace.svc.clusterset.local".to_owned(),
                "SRV",
                "0 0 80 my-service.my-namespace.svc.clusterset.local.",
            ),
            (
                "_http._tcp.my-service.my-namespace.svc.clusterset.local".to_owned(),
                "SRV",
                "0 0 80 my-service.my-namespace.svc.clusterset.local.",
            ),
        ] {
            for transport in ["+notcp", "+tcp"] {
                let answer = world.dig(&[&name, record, transport])?;
                assert_eq!(answer.status, "NOERROR", "{answer:?}");
                assert_eq!(answer.answers, [format!("{name}. 300 IN {record} {expected}")]);
                assert!(answer.authoritative, "{answer:?}");
                assert!(!answer.recursive, "{answer:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_name_without_an_answer_is_told_from_one_that_is_not_there() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        world.start_dns("dns", DNS)?;
        world.eventually_answers("my-service.my-namespace.my-federation", "198.18.0.1").await?;

        for (name, record, status, soa_of) in [
            ("my-service.my-namespace.my-federation", "TXT", "NOERROR", Some("my-federation.")),
            (
                "my-service.my-namespace.my-federation.svc.example.com",
                "AAAA",
                "NOERROR",
                Some("example.com."),
            ),
            ("my-namespace.my-federation", "A", "NOERROR", Some("my-federation.")),
            ("svc.europe-west1.example.com", "A", "NOERROR", Some("example.com.")),
            ("other.my-namespace.my-federation", "A", "NXDOMAIN", Some("my-federation.")),
            ("my-service.other.my-federation.svc.cluster.local", "A", "NXDOMAIN", {
                Some("my-federation.svc.cluster.local.")
            }),
            (
                "my-service.my-namespace.my-federation.svc.mars.example.com",
                "A",
                "NXDOMAIN",
                Some("example.com."),
            ),
            ("other.my-namespace.svc.clusterset.local", "A", "NXDOMAIN", Some("clusterset.local.")),
            ("my-service.my-namespace.svc.clusterset.local", "TXT", "NOERROR", Some("clusterset.local.")),
            ("kubernetes.default.svc.cluster.local", "A", "REFUSED", None),
            ("example.org", "A", "REFUSED", None),
            (".", "NS", "REFUSED", None),
        ] {
            for transport in ["+notcp", "+tcp"] {
                let answer = world.dig(&[name, record, transport])?;
                assert_eq!(answer.status, status, "{name} {record}: {answer:?}");
                assert!(answer.answers.is_empty(), "{answer:?}");
                // How long the absence may be remembered is the smaller one of the TTL and the last number.
                let soa = soa_of
                    .map(|zone| format!("{zone} 5 IN SOA ns.{zone} hostmaster.{zone} 1 7200 1800 86400 5"));
                assert_eq!(answer.authority, Vec::from_iter(soa), "{name} {record}");
            }
        }
        Ok(())
    })
}

#[test]
fn odd_questions_are_answered_by_the_book() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        world.start_dns("dns", DNS)?;
        let name = "my-service.my-namespace.my-federation";
        world.eventually_answers(name, "198.18.0.1").await?;

        // Case does not matter, and comes back as it was sent.
        let mixed = "mY-sErViCe.My-NaMeSpAcE.mY-fEdErAtIoN";
        assert_eq!(world.dig(&[mixed])?.answers, [format!("{mixed}. 300 IN A 198.18.0.1")]);
        for (arguments, status) in [
            (&["-c", "CH", name, "TXT"][..], "REFUSED"),
            (&["+opcode=NOTIFY", name][..], "NOTIMP"),
            (&["+edns=1", "+noednsnegotiation", name][..], "BADVERS"),
            (&["+noedns", name][..], "NOERROR"),
        ] {
            assert_eq!(world.dig(arguments)?.status, status, "{arguments:?}");
        }
        // What a client offers to take is not what the network can carry unfragmented.
        let large = world.dig(&["+bufsize=65535", name])?;
        assert_eq!(large.udp_payload.as_deref(), Some("1232"));
        Ok(())
    })
}

#[test]
fn programs_resolve_names_through_the_c_library() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        world.start_dns("dns", DNS)?;
        let name = "my-service.my-namespace.my-federation";
        world.eventually_answers(name, "198.18.0.1").await?;

        for (resolver, database, expected) in [
            ("nameserver 127.0.0.1\n", "ahostsv4", "198.18.0.1"),
            ("nameserver 127.0.0.1\n", "hosts", "fd00:fed::1"),
            ("nameserver 127.0.0.1\noptions use-vc\n", "ahostsv4", "198.18.0.1"),
            // As in a pod: the name has few dots, so the search path comes first.
            ("nameserver 127.0.0.1\nsearch svc.cluster.local\noptions ndots:5\n", "ahostsv4", "198.18.0.1"),
        ] {
            let output = world.getent(resolver, database, name)?;
            let text = String::from_utf8_lossy(&output.stdout);
            let addresses: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
            assert!(!addresses.is_empty(), "{resolver}{database}: {output:?}");
            assert!(addresses.iter().all(|address| *address == expected), "{resolver}{database}: {text}");
        }
        Ok(())
    })
}

#[test]
fn answers_follow_the_federation() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        world.start_dns("dns", DNS)?;
        let name = "late.my-namespace.my-federation";
        world.eventually(name, "NXDOMAIN").await?;
        create_service(&client, "late", &VIPS).await?;
        world.eventually_answers(name, "198.18.0.1").await?;

        let services = Api::<Service>::namespaced(client.clone(), "my-namespace");
        services.delete("late", &DeleteParams::default()).await?;
        world.eventually(name, "NXDOMAIN").await
    })
}

#[test]
fn nothing_is_denied_before_the_federation_is_known_and_nothing_forgotten_when_its_api_ends() -> Result<()> {
    in_world(async |world| {
        let api = world.start_api().await?;
        let client = world.client().await?;
        create_cluster(&client).await?;
        create_service(&client, "my-service", &VIPS).await?;
        api.terminate().await?;

        let name = "my-service.my-namespace.my-federation";
        world.start_dns("dns", DNS)?;
        world.eventually(name, "SERVFAIL").await?;
        assert_eq!(world.dig(&["other.my-namespace.my-federation"])?.status, "SERVFAIL");
        assert_eq!(world.dig(&["example.org"])?.status, "REFUSED");

        let api = world.start_api().await?;
        world.eventually_answers(name, "198.18.0.1").await?;
        api.terminate().await?;
        assert_eq!(world.dig(&[name])?.answers, [format!("{name}. 300 IN A 198.18.0.1")]);
        Ok(())
    })
}

#[test]
fn refused_credentials_are_told_and_nothing_is_denied() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        let kubeconfig = std::fs::read_to_string(world.kubeconfig())?;
        let token = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: "));
        let wrong = kubeconfig.replace(token.context("a token in the kubeconfig")?, "wrong");
        std::fs::write(world.kubeconfig(), wrong)?;
        let dns = world.start_dns("dns", DNS)?;

        let told = async || {
            let log = std::fs::read_to_string(dns.log())?;
            ensure!(log.contains("it refuses the credentials of the kubeconfig"), "{log}");
            Ok(())
        };
        world.lab.wait_for("the reason is told", PATIENCE, told).await?;
        assert_eq!(world.dig(&["my-service.my-namespace.my-federation"])?.status, "SERVFAIL");
        Ok(())
    })
}

#[test]
fn what_cannot_work_ends_in_a_sentence() -> Result<()> {
    in_world(async |world| {
        let _api = world.start_api().await?;
        world.start_dns("dns", DNS)?;
        world.eventually("my-federation", "NOERROR").await?;

        let kubeconfig = world.kubeconfig();
        let kubeconfig = kubeconfig.to_str().context("a path of ASCII")?;
        let good = ["--kubeconfig", kubeconfig, "--federation", "my-federation", "--domain", "example.com"];
        for (changed, sentence) in [
            // The first process holds it.
            (["--listen", "127.0.0.1:53"], "cannot answer DNS at 127.0.0.1:53"),
            (["--listen", "192.0.2.1:53"], "cannot answer DNS at 192.0.2.1:53"),
            (["--kubeconfig", "/nowhere"], "read the kubeconfig /nowhere"),
            (["--federation", "a..b"], "--federation \"a..b\" cannot be a DNS name"),
            (["--vip-range", "198.18.0.0/16,198.19.0.0/16"], "--vip-range"),
        ] {
            let mut arguments: Vec<_> = good
                .into_iter()
                .chain(["--vip-range", "198.18.0.0/16", "--listen", "127.0.0.1:54"])
                .collect();
            let place = arguments.iter().position(|flag| *flag == changed[0]).context("a flag of ours")?;
            arguments[place + 1] = changed[1];
            let mut command = world.host.namespace().command(program("federation-agent")?);
            let output = command.arg("dns").args(arguments).output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{changed:?} was taken");
            assert!(errors.contains(sentence), "{changed:?}: {errors}");
        }
        Ok(())
    })
}

const DNS: &str = "127.0.0.1:53";

const VIPS: [(ScopeKind, Option<&str>, &[&str]); 4] = [
    (ScopeKind::Nearest, None, &["198.18.0.1", "fd00:fed::1"]),
    (ScopeKind::Global, None, &["198.18.0.2"]),
    (ScopeKind::Region, Some("europe-west1"), &["198.18.0.3"]),
    (ScopeKind::Zone, Some("europe-west1-d"), &["198.18.0.4"]),
];

/// Runs a test on a thread inside of the host's network, since its API client has to connect from there.
fn in_world(test: impl AsyncFnOnce(&World) -> Result<()> + Send) -> Result<()> {
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
    fn kubeconfig(&self) -> PathBuf {
        self.lab.folder().join("node.kubeconfig")
    }

    fn admin_kubeconfig(&self) -> PathBuf {
        self.lab.folder().join("admin.kubeconfig")
    }

    /// Starts the Federation API, for the first time or again with what it has stored.
    async fn start_api(&self) -> Result<Arc<Process>> {
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

    async fn client(&self) -> Result<Client> {
        let client = client::from_kubeconfig(&self.admin_kubeconfig()).await?;
        let namespace = serde_json::from_value(json!({ "metadata": { "name": "my-namespace" } }))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(client)
    }

    fn start_dns(&self, name: &str, listen: &str) -> Result<Arc<Process>> {
        let mut command = self.host.namespace().command(program("federation-agent")?);
        command.args(["dns", "--federation", "my-federation", "--domain", "example.com"]);
        command.args(["--vip-range", "198.18.0.0/16,fd00:fed::/64", "--listen", listen, "--kubeconfig"]);
        self.host.spawn(name, command_with(command, self.kubeconfig()))
    }

    fn dig(&self, arguments: &[&str]) -> Result<Dig> {
        let mut command = self.host.namespace().command("dig");
        command.args(["@127.0.0.1", "+tries=1", "+time=2"]).args(arguments);
        let output = command.output().context("run dig")?;
        ensure!(output.status.success(), "dig {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        Dig::read(&String::from_utf8(output.stdout)?)
    }

    async fn eventually(&self, name: &str, status: &str) -> Result<()> {
        let probe = async || {
            let answer = self.dig(&[name])?;
            ensure!(answer.status == status, "{name}: {answer:?}");
            Ok(())
        };
        self.lab.wait_for(format!("{name} is {status}"), PATIENCE, probe).await
    }

    async fn eventually_answers(&self, name: &str, address: &str) -> Result<()> {
        let probe = async || {
            let answer = self.dig(&[name])?;
            ensure!(answer.answers == [format!("{name}. 300 IN A {address}")], "{name}: {answer:?}");
            Ok(())
        };
        self.lab.wait_for(format!("{name} is {address}"), PATIENCE, probe).await
    }

    /// Looks a name up as any program does, with a `resolv.conf` that only this process sees.
    fn getent(&self, resolver: &str, database: &str, name: &str) -> Result<Output> {
        let file = self.lab.folder().join("resolv.conf");
        std::fs::write(&file, resolver)?;
        let mut command = self.host.namespace().command("unshare");
        command.args([
            "--mount",
            "sh",
            "-ec",
            "mount --bind \"$1\" /etc/resolv.conf; exec getent \"$2\" \"$3\"",
            "-",
        ]);
        command_with(command, file).args([database, name]).output().context("run getent")
    }
}

fn command_with(mut command: Command, argument: PathBuf) -> Command {
    command.arg(argument);
    command
}

/// What dig says of a response.
#[derive(Debug)]
struct Dig {
    status: String,
    authoritative: bool,
    recursive: bool,
    udp_payload: Option<String>,
    answers: Vec<String>,
    authority: Vec<String>,
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

async fn create_cluster(client: &Client) -> Result<()> {
    let cluster = serde_json::from_value(json!({
        "metadata": { "name": "europe-west1-d" },
        "spec": {
            "server": "https://192.0.2.1:6443", "credentialsRef": { "name": "europe-west1-d" },
            "region": "europe-west1", "zones": ["europe-west1-d"], "networks": ["10.8.0.0/16"],
        },
    }))?;
    Api::<Cluster>::all(client.clone()).create(&PostParams::default(), &cluster).await?;
    Ok(())
}

/// A service with VIPs, as the controller would leave it.
async fn create_service(
    client: &Client,
    name: &str,
    vips: &[(ScopeKind, Option<&str>, &[&str])],
) -> Result<()> {
    let service =
        json!({ "metadata": { "name": name }, "spec": { "ports": [{ "name": "http", "port": 80 }] } });
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
    let patch = Patch::Merge(json!({ "status": status }));
    federated.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
