//! What answers of DNS cost, beside a server that does nothing else and serves the same zone, which it has copied from us.
//!
//! Each server has one processor, whoever asks has the other one. The floor is a loop that sends every question back: what it
//! takes, the machine takes. Time runs from a question's arrival at the server to its answer's at the client. Both are told also
//! for questions that come again only after more others than any memory of answers holds.
//!
//! What an answer weighs is told too: the bytes that come back for each byte of a question are what a forged sender could do to
//! others.

use std::{
    fmt::Write as _,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use federation_agent::{
    model::{Cluster, Federation, Port, Protocol, Scope, Service, ServiceKey},
    watch::Saved,
};
use hickory_proto::rr::RecordType;

use super::{
    Case, Measurement, Promise,
    cpu::{Cpus, stay_on},
    tap::Tap,
};
use crate::{
    client,
    federation::{DOMAIN, FEDERATION, NAMESPACE, PATIENCE, VIP_RANGE},
    figures::percentile,
    lab::{Host, Lab, Namespace, program},
};

pub const GROUP: &str = "dns/";

const SERVICES: u32 = 10_000;

/// Ours, and the one beside it.
const SERVERS: [(&str, u16); 2] = [("federation-agent", 5300), ("nsd", 5301)];
const FLOOR: u16 = 5302;

/// Of every turn: as many questions as a server takes in this time.
const TURNS: usize = 5;
const SECONDS: &str = "3";

/// Questions a second on one processor, and what an answer may take at that rate, in milliseconds.
const RATE: u32 = 50_000;
const RATE_PROMISE: Promise = Promise::RatioAtLeast(0.5);
const LATENCY_PROMISE: Promise = Promise::AtMost(1.0);

/// What is asked, and how much larger than the question an answer may look to whoever forges its sender.
const WEIGHED: [(&str, &str, RecordType); 6] = [
    ("dns/amplification/address", "", RecordType::A),
    ("dns/amplification/no_address", "", RecordType::AAAA),
    ("dns/amplification/port", "_http._tcp.", RecordType::SRV),
    ("dns/amplification/any", "", RecordType::ANY),
    ("dns/amplification/no_name", "missing.", RecordType::A),
    ("dns/amplification/text", "", RecordType::TXT),
];

/// Both servers with the same zone.
struct Servers {
    lab: Lab,
    host: Host,
    cpus: Cpus,
    /// Every name again and again.
    questions: PathBuf,
    /// A million, none twice in the same letters.
    new_questions: PathBuf,
    floor: Floor,
}

/// What was measured in every turn.
#[derive(Default)]
struct Turns {
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

/// A loop on a thread of its own that sends each question back as an answer, until it is dropped.
struct Floor {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Measures both servers in turns.
///
/// # Errors
/// A server does not come up, or `dnsperf` cannot be run.
pub async fn measure() -> Result<Vec<Measurement>> {
    let mut servers = Servers::start().await?;
    let mut measured = Vec::new();
    let [mut ours, mut nsd, mut ours_new, mut nsd_new] = [(); 4].map(|()| Turns::default());
    let mut floor = Vec::new();
    for turn in 0..=TURNS {
        for (turns, (_, port), questions) in [
            (&mut ours, SERVERS[0], &servers.questions),
            (&mut nsd, SERVERS[1], &servers.questions),
            (&mut ours_new, SERVERS[0], &servers.new_questions),
            (&mut nsd_new, SERVERS[1], &servers.new_questions),
        ] {
            let (rate, latency) = (servers.rate(port, questions)?, servers.latency(port, questions)?);
            // The first turn warms up.
            if turn > 0 {
                turns.rates.push(rate);
                turns.latencies.push(latency);
            }
        }
        let latency = servers.latency(FLOOR, &servers.questions)?;
        if turn > 0 {
            floor.push(latency);
        }
    }
    servers.floor.end()?;
    let alone =
        |name, unit, samples: &[f64]| Case { name, unit, against: None, promise: None }.alone(samples);
    let rate = |name, against, promise| Case { name, unit: "1/s", against: Some(against), promise };
    let latency = |name, promise| Case { name, unit: "ms", against: Some("dns/latency_p99/floor"), promise };
    measured.extend([
        alone("dns/rate/nsd", "1/s", &nsd.rates)?,
        rate("dns/rate/federation", "dns/rate/nsd", Some(RATE_PROMISE)).beside(&ours.rates, &nsd.rates)?,
        alone("dns/rate/nsd_new", "1/s", &nsd_new.rates)?,
        rate("dns/rate/federation_new", "dns/rate/nsd_new", None).beside(&ours_new.rates, &nsd_new.rates)?,
        alone("dns/latency_p99/floor", "ms", &floor)?,
        latency("dns/latency_p99/nsd", None).beside(&nsd.latencies, &floor)?,
        latency("dns/latency_p99/federation", Some(LATENCY_PROMISE)).beside(&ours.latencies, &floor)?,
        latency("dns/latency_p99/nsd_new", None).beside(&nsd_new.latencies, &floor)?,
        latency("dns/latency_p99/federation_new", None).beside(&ours_new.latencies, &floor)?,
    ]);
    for (name, prefix, kind) in WEIGHED {
        let owner = format!("{prefix}{}", name_of(SERVICES / 2));
        let ratio = servers.amplification(&owner, kind).await?;
        measured.push(alone(name, "times", &[ratio])?);
    }
    Ok(measured)
}

impl Servers {
    async fn start() -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("names")?;
        let questions = lab.folder().join("questions");
        let new_questions = lab.folder().join("new-questions");
        fs::write(&questions, questions_of_all()).context("write the questions")?;
        fs::write(&new_questions, questions_in_other_letters()).context("write new questions")?;
        let cpus = Cpus::two()?;
        let floor = Floor::start(&host, cpus.server)?;
        let servers = Self { lab, host, cpus, questions, new_questions, floor };
        servers.start_ours()?;
        servers.answers(SERVERS[0].1).await?;
        servers.start_nsd()?;
        servers.answers(SERVERS[1].1).await?;
        Ok(servers)
    }

    /// Our server has its federation from disk: nobody has to write ten thousand services into an API first.
    fn start_ours(&self) -> Result<()> {
        let (name, port) = SERVERS[0];
        let folder = self.lab.folder().join(name);
        Saved::in_folder(&folder, FEDERATION)?.save(&federation()).context("write what is known last")?;
        let kubeconfig = self.lab.folder().join("nobody.kubeconfig");
        fs::write(&kubeconfig, NOBODY).context("write the kubeconfig of an API that is not there")?;
        let mut command = self.on_server(&program(name)?);
        command.args(["dns", "--federation", FEDERATION, "--domain", DOMAIN, "--vip-range", VIP_RANGE]);
        command.args(["--dns-transfer", "127.0.0.0/8", "--listen", &at(port).to_string()]);
        command.arg("--state-dir").arg(folder).arg("--kubeconfig").arg(kubeconfig);
        self.host.spawn(name, command).map(drop)
    }

    fn start_nsd(&self) -> Result<()> {
        let (name, port) = SERVERS[1];
        let folder = self.lab.folder().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let file = folder.join("nsd.conf");
        let (shown, primary) = (folder.display(), SERVERS[0].1);
        let configuration = format!(
            "server:\n ip-address: 127.0.0.1@{port}\n server-count: 1\n username: \"\"\n zonesdir: {shown}\n\
             \u{20}pidfile: {shown}/pid\n xfrdfile: {shown}/xfrd\n xfrdir: {shown}\n zonelistfile: {shown}/zones\n\
             \u{20}database: \"\"\n rrl-ratelimit: 0\nremote-control:\n control-enable: no\n\
             zone:\n name: {FEDERATION}\n request-xfr: AXFR 127.0.0.1@{primary} NOKEY\n"
        );
        fs::write(&file, configuration).with_context(|| format!("write {}", file.display()))?;
        let mut command = self.on_server(Path::new("/usr/sbin/nsd"));
        command.args(["-d", "-c"]).arg(file);
        self.host.spawn(name, command).map(drop)
    }

    fn on_server(&self, program: &Path) -> Command {
        let mut command = self.host.namespace().command("taskset");
        command.args(["--cpu-list", &self.cpus.server.to_string()]).arg(program);
        command
    }

    async fn answers(&self, port: u16) -> Result<()> {
        let last = name_of(SERVICES - 1);
        let answers = async || {
            let found = client::resolve(self.namespace(), at(port), &last, Duration::from_secs(1)).await?;
            ensure!(!found.is_empty(), "{last} has no address yet");
            Ok(())
        };
        self.lab.wait_for(format!("the server at port {port} knows its zone"), PATIENCE, answers).await
    }

    /// Questions that are answered in a second, as many at a time as keep the server busy.
    fn rate(&self, port: u16, questions: &Path) -> Result<f64> {
        let output = self.dnsperf(port, questions, &["-l", SECONDS, "-q", "100"])?;
        let lost = figure(&output, "Queries lost:")?;
        let sent = figure(&output, "Queries sent:")?;
        ensure!(lost * 1000.0 <= sent, "{lost} of {sent} questions were lost:\n{output}");
        figure(&output, "Queries per second:")
    }

    /// The 99th percentile of what an answer takes at the promised rate, in milliseconds.
    fn latency(&self, port: u16, questions: &Path) -> Result<f64> {
        let tap = Tap::new(self.namespace(), port)?;
        let output =
            self.dnsperf(port, questions, &["-l", SECONDS, "-q", "1000", "-Q", &RATE.to_string()])?;
        let asked = figure(&output, "Queries sent:")? / figure(&output, "Run time (s):")?;
        ensure!(asked >= 0.98 * f64::from(RATE), "only {asked:.0} questions a second were asked:\n{output}");
        let latencies = tap.latencies()?;
        let milliseconds: Vec<_> = latencies.iter().map(|latency| latency.as_secs_f64() * 1e3).collect();
        percentile(&milliseconds, 0.99).context("nobody answered")
    }

    fn dnsperf(&self, port: u16, questions: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = self.namespace().command("taskset");
        command.args(["--cpu-list", &self.cpus.client.to_string(), "dnsperf", "-s", "127.0.0.1"]);
        command.args(["-p", &port.to_string(), "-d"]).arg(questions).args(arguments);
        let output = command.output().context("run dnsperf")?;
        let [said, wrong] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        ensure!(output.status.success(), "dnsperf: {said}{wrong}");
        Ok(said)
    }

    /// Bytes of our answer for each byte of the question, of UDP's payload.
    async fn amplification(&self, name: &str, kind: RecordType) -> Result<f64> {
        let answer = client::query(self.namespace(), at(SERVERS[0].1), name, kind, Duration::from_secs(1));
        let answer = answer.await?.to_vec().context("encode the answer")?.len();
        // A header, the name with a length before each label and one after the last, type and class.
        let question = 12 + name.len() + 2 + 4;
        Ok(answer as f64 / question as f64)
    }

    fn namespace(&self) -> &Namespace {
        self.host.namespace()
    }
}

impl Floor {
    /// How long it may take to notice that it is over.
    const PATIENCE: Duration = Duration::from_millis(100);

    fn start(host: &Host, cpu: usize) -> Result<Self> {
        let socket = host.namespace().run(|| UdpSocket::bind(at(FLOOR)))?.context("bind the floor")?;
        socket.set_read_timeout(Some(Self::PATIENCE)).context("prepare the floor")?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            stay_on(cpu)?;
            let mut packet = [0; 512];
            while !over.load(Ordering::Relaxed) {
                match socket.recv_from(&mut packet) {
                    Ok((length, client)) => {
                        // The flag QR: an answer (RFC 1035, section 4.1.1).
                        packet[2] |= 0x80;
                        // Who has gone waits for nothing.
                        let _ = socket.send_to(&packet[..length], client);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("receive questions at the floor"),
                }
            }
            Ok(())
        });
        Ok(Self { is_over, thread: Some(thread) })
    }

    /// # Errors
    /// It has not answered all the time.
    fn end(&mut self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(()),
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What `dnsperf` says after these words.
fn figure(output: &str, words: &str) -> Result<f64> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix(words));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("dnsperf does not say {words:?}:\n{output}"))
}

fn name_of(service: u32) -> String {
    format!("service-{service}.{NAMESPACE}.{FEDERATION}")
}

/// Every service's address, and of each tenth also what it has not and a name that is not there.
fn questions_of_all() -> String {
    let mut questions = String::new();
    for service in 0..SERVICES {
        // In no order that a cache would like.
        let name = name_of(service * 7919 % SERVICES);
        let _ = writeln!(questions, "{name} A");
        if service % 10 == 0 {
            let _ = writeln!(questions, "{name} AAAA\nmissing.{name} A\n_http._tcp.{name} SRV");
        }
    }
    questions
}

/// Every service's address, again and again, and never in the same letters: small ones and capitals mean the same. More
/// than are answered in a turn.
fn questions_in_other_letters() -> String {
    let mut questions = String::new();
    for number in 0..SERVICES * 100 {
        let mut name = name_of(number % SERVICES * 7919 % SERVICES).into_bytes();
        let letters = name.iter_mut().filter(|letter| letter.is_ascii_alphabetic());
        for (place, letter) in letters.take(u32::BITS as usize).enumerate() {
            if number >> place & 1 == 1 {
                letter.make_ascii_uppercase();
            }
        }
        let _ = writeln!(questions, "{} A", String::from_utf8_lossy(&name));
    }
    questions
}

fn federation() -> Federation {
    let cluster = Cluster { provider: "lab".into(), region: "region".into(), zones: vec!["zone".into()] };
    let first = Ipv4Addr::new(198, 18, 0, 1).to_bits();
    let services = (0..SERVICES).map(|number| {
        let vip = IpAddr::from(Ipv4Addr::from_bits(first + number));
        let service = Service {
            ports: vec![Port { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80 }],
            vips: Arc::new([(Scope::Nearest, vec![vip])].into()),
            ..Service::default()
        };
        (ServiceKey::new(NAMESPACE, format!("service-{number}")), Arc::new(service))
    });
    Federation { clusters: [("cluster".into(), cluster)].into(), services: services.collect() }
}

/// Nobody listens at that port.
const NOBODY: &str = "apiVersion: v1
kind: Config
clusters: [{ name: nobody, cluster: { server: \"http://127.0.0.1:1\" } }]
users: [{ name: nobody, user: {} }]
contexts: [{ name: nobody, context: { cluster: nobody, user: nobody } }]
current-context: nobody
";
