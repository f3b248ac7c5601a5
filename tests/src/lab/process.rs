//! Processes of a lab: started in a namespace, their output kept in the lab's folder, ended with the lab.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{Core, wait::eventually};

/// Names the lab in the environment of all its processes, and of theirs.
pub const MARK: &str = "FEDERATION_LAB";

/// How long a process that was told to end may take.
const END: Duration = Duration::from_secs(10);

/// A process of the lab. It runs until it ends, is told to, or the lab is removed.
pub struct Process {
    name: String,
    log: PathBuf,
    id: Pid,
    child: Mutex<Child>,
}

/// The path of one of our own programs, beside the one that is running.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    // A test runs in `deps`, one folder below the programs.
    let path = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    path.with_context(|| {
        format!("no program {name} near {}: `cargo xtask build` builds all of them", own.display())
    })
}

impl Core {
    pub(super) fn spawn(&self, name: &str, mut command: Command) -> Result<Arc<Process>> {
        let log = self.folder.join("logs").join(format!("{name}.log"));
        // Appended to: a process that is started again continues its log.
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().context("share the log")?;
        // A group of its own, so that a Ctrl-C on the terminal reaches the lab's owner only.
        command.env(MARK, self.id.to_string()).process_group(0);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        let process = Arc::new(Process {
            name: name.to_owned(),
            log,
            id: Pid::from_raw(i32::try_from(child.id())?),
            child: Mutex::new(child),
        });
        let mut processes = self.processes();
        // One that is started again takes the place of the one that ended.
        processes.retain(|other| other.name != name || matches!(other.ended(), Ok(None)));
        processes.push(Arc::clone(&process));
        drop(processes);
        Ok(process)
    }
}

// === impl Process ===

impl Process {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> i32 {
        self.id.as_raw()
    }

    /// The file with everything that it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().expect("no holder of the child panics");
        child.try_wait().with_context(|| format!("look after {}", self.name))
    }

    /// Tells it to end and waits until it has.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.end(END).await
    }

    /// Waits until it ends by itself.
    pub async fn end(&self, deadline: Duration) -> Result<ExitStatus> {
        let ended = async || self.ended()?.context("it still runs");
        eventually(format!("{} ends", self.name), deadline, ended).await
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        // While it has not been waited for, its number cannot be given to another process.
        if let Some(status) = self.ended()? {
            bail!("{} has ended already, with {status}", self.name);
        }
        killpg(self.id, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Stops it where it is: what it holds open stays open, and nothing is done about it until it is thawed.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it as a power cut would: no chance to say good-bye.
    pub fn kill(&self) {
        // Fails only for a process that has ended, which is what is wanted.
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.child.lock().expect("no holder of the child panics").wait();
    }

    /// The last `lines` lines of its output.
    pub fn tail(&self, lines: usize) -> Result<Vec<String>> {
        let file = File::open(&self.log).with_context(|| format!("open {}", self.log.display()))?;
        let all: Vec<_> = BufReader::new(file).lines().collect::<Result<_, _>>().context("read the log")?;
        Ok(all[all.len().saturating_sub(lines)..].to_vec())
    }

    /// Whether it runs, and what it said last.
    pub(super) fn describe(&self, lines: usize) -> String {
        let state = match self.ended() {
            Ok(None) => format!("runs as {}", self.id),
            Ok(Some(status)) => format!("ended with {status}"),
            Err(error) => format!("{error:#}"),
        };
        let tail = self.tail(lines).unwrap_or_else(|error| vec![format!("{error:#}")]);
        format!("\n--- {} ({state})\n    {}\n", self.name, tail.join("\n    "))
    }
}
