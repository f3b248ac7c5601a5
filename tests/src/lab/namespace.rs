//! A network namespace: a place to make sockets in and to start programs in.
//!
//! A socket belongs to the namespace in which it was *made*, whatever thread uses it later. So nothing but the making
//! has to happen inside, and one ordinary runtime can hold sockets of a dozen namespaces.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::SocketAddr,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Where `ip netns` keeps named namespaces.
pub const FOLDER: &str = "/run/netns";

/// A handle on a namespace; the lab removes the namespace itself.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

/// This thread is in another namespace until the value is dropped.
struct Visit {
    home: File,
}

impl Namespace {
    /// Makes a namespace with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        let namespace = Self::create_all(&[name.to_owned()])?.remove(0);
        namespace.ip(["link set lo up"])?;
        Ok(namespace)
    }

    /// Makes namespaces in one go, with nothing up in them yet.
    pub(super) fn create_all(names: &[String]) -> Result<Vec<Self>> {
        batch(Command::new("ip"), names.iter().map(|name| format!("netns add {name}")))
            .context("make network namespaces")?;
        let open = |name: &String| {
            let path = Path::new(FOLDER).join(name);
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            Ok(Self { name: name.as_str().into(), file: Arc::new(file) })
        };
        names.iter().map(open).collect()
    }

    /// Takes the names from namespaces in one go; each ends with the last process and socket in it.
    pub(super) fn delete_all<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        batch(Command::new("ip"), names.into_iter().map(|name| format!("netns delete {name}")))
            .context("remove network namespaces")
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` on this thread, inside.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let _visit = self.enter()?;
        Ok(work())
    }

    /// A command that will start inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        let enter = move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // SAFETY: between fork and exec only async-signal-safe calls may happen; setns is a plain system call.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs lines of `ip` commands in one go.
    pub fn ip<Line: AsRef<str>>(&self, lines: impl IntoIterator<Item = Line>) -> Result<()> {
        batch(self.command("ip"), lines).with_context(|| format!("set up network namespace {}", self.name))
    }

    /// Runs a program that reads what to do from its input, to its end.
    pub(super) fn feed(&self, program: &str, arguments: &[&str], script: &str) -> Result<()> {
        feed(self.command(program).args(arguments), script)
            .with_context(|| format!("run {program} in {}", self.name))
    }

    /// Runs a short program to its end.
    pub fn execute(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output =
            self.command(program).args(arguments).output().with_context(|| format!("run {program}"))?;
        ensure!(
            output.status.success(),
            "`{program} {}` in {}: {}{}",
            arguments.join(" "),
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).with_context(|| format!("read what {program} said"))
    }

    /// Sets a `net.*` setting, written with slashes: `ipv4/ip_forward`.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("set {} in {}", path.display(), self.name))
    }

    /// Makes it a router, for both families.
    pub(super) fn forward(&self) -> Result<()> {
        self.set("ipv4/ip_forward", "1")?;
        self.set("ipv6/conf/all/forwarding", "1")
    }

    /// Connects over TCP from inside.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let make = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = self.run(make).map_err(io::Error::other)??;
        socket.connect(address).await
    }

    /// A UDP socket inside, bound to `address`.
    pub fn udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.run(|| std::net::UdpSocket::bind(address)).map_err(io::Error::other)??;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    fn enter(&self) -> Result<Visit> {
        let home = File::open("/proc/thread-self/ns/net").context("open this thread's namespace")?;
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter network namespace {}", self.name))?;
        Ok(Visit { home })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // A thread that stayed would make the next sockets in the wrong network: nothing after that could be trusted.
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET).expect("a thread can return to its own namespace");
    }
}

/// Runs lines of `ip` commands, up to the first that fails.
fn batch<Line: AsRef<str>>(mut ip: Command, lines: impl IntoIterator<Item = Line>) -> Result<()> {
    let lines: Vec<_> = lines.into_iter().collect();
    let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
    feed(ip.args(["-batch", "-"]), &lines.join("\n"))
}

/// Runs a command whose input is `script`.
fn feed(command: &mut Command, script: &str) -> Result<()> {
    let program = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let mut input = child.stdin.take().with_context(|| format!("{program} has no standard input"))?;
    input.write_all(script.as_bytes()).with_context(|| format!("write to {program}"))?;
    drop(input);
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed: {}its input was:\n{script}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
