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
        let output = Command::new("ip").args(["netns", "add", name]).output().context("run ip")?;
        ensure!(
            output.status.success(),
            "make network namespace {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = Path::new(FOLDER).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let namespace = Self { name: name.into(), file: Arc::new(file) };
        namespace.ip(["link set lo up"])?;
        Ok(namespace)
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
        let lines: Vec<_> = lines.into_iter().collect();
        let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
        let script = lines.join("\n");
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run ip in {}", self.name))?;
        let mut input = child.stdin.take().context("ip has no standard input")?;
        input.write_all(script.as_bytes()).context("write to ip")?;
        drop(input);
        let output = child.wait_with_output().context("wait for ip")?;
        ensure!(
            output.status.success(),
            "ip failed in {}: {}commands were:\n{script}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
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
