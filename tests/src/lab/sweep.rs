//! Removing labs, and finding what is left of them.
//!
//! There is one way to remove a lab, whoever does it: its owner at the end, or `cargo xtask down` for a lab whose owner
//! was killed. It goes by names alone, so it needs no record of what was made.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroup,
    lease::{self, LabId, Lease},
    namespace::{self, Namespace},
    process::MARK,
};

const BPF: &str = "/sys/fs/bpf";

/// How long killed processes may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// A lab on this machine.
pub struct Found {
    pub id: LabId,
    pub folder: PathBuf,
    pub owner: Owner,
}

/// Who answers for a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A living process, by the id that it wrote down.
    Process(String),
    /// Nobody, on purpose: `--keep`.
    Kept,
    /// Nobody: its owner was killed.
    Nobody,
}

/// What names say belongs to labs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remains {
    pub processes: Vec<Pid>,
    pub namespaces: Vec<String>,
    pub pins: Vec<PathBuf>,
    pub cgroups: Vec<PathBuf>,
}

/// All labs on this machine.
pub fn labs() -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (id, folder) in lease::folders()? {
        let owner = match Lease::take_over(id)? {
            None => Owner::Process(lease::owner_of(&folder)),
            Some(_) if lease::is_kept(&folder) => Owner::Kept,
            Some(_) => Owner::Nobody,
        };
        found.push(Found { id, folder, owner });
    }
    Ok(found)
}

/// Removes a lab that nobody owns any more; `false` when it has an owner.
pub fn remove(id: LabId) -> Result<bool> {
    let Some(lease) = Lease::take_over(id)? else { return Ok(false) };
    clear(lease).with_context(|| format!("remove lab {id}"))?;
    Ok(true)
}

/// What is named like a lab's, but belongs to no lab that is owned or kept.
pub fn remains() -> Result<Remains> {
    let alive: Vec<_> =
        labs()?.into_iter().filter(|lab| lab.owner != Owner::Nobody).map(|lab| lab.id.to_string()).collect();
    Remains::find(|number| !alive.iter().any(|alive| alive == number))
}

/// Removes everything that carries the lab's number, and gives the number back.
pub fn clear(lease: Lease) -> Result<()> {
    let id = lease.id().to_string();
    let end = Instant::now() + GONE;
    loop {
        let processes = marked_processes(|number| number == id)?;
        if processes.is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "processes {processes:?} were killed, but do not end");
        for process in processes {
            match kill(process, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno).with_context(|| format!("kill process {process}")),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Pins first: a program that is still attached goes with its namespace, a pinned link would stay.
    let remains = Remains::find(|number| number == id)?;
    for folder in &remains.pins {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    remains.cgroups.iter().try_for_each(|path| cgroup::remove(path))?;
    Namespace::delete_all(remains.namespaces.iter().map(String::as_str))?;
    lease.release()
}

// === impl Remains ===

impl Remains {
    fn find(wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let processes = marked_processes(&wanted)?;
        let named = |folder: &Path| -> Result<Vec<String>> {
            let names = names_in(folder)?.into_iter();
            let mut named: Vec<_> = names.filter(|name| number_in(name).is_some_and(&wanted)).collect();
            named.sort();
            Ok(named)
        };
        let in_folder = |folder: &Path| -> Result<Vec<PathBuf>> {
            Ok(named(folder)?.into_iter().map(|name| folder.join(name)).collect())
        };
        let namespaces = named(Path::new(namespace::FOLDER))?;
        let pins = in_folder(Path::new(BPF))?;
        // A machine without cgroups of this kind has none of ours.
        let cgroups = cgroup::root().map_or_else(|_| Ok(Vec::new()), |root| in_folder(&root))?;
        Ok(Self { processes, namespaces, pins, cgroups })
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for process in &self.processes {
            let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            writeln!(f, "process {process}: {command}")?;
        }
        for name in &self.namespaces {
            writeln!(f, "network namespace {name}")?;
        }
        for folder in &self.pins {
            writeln!(f, "pins in {}", folder.display())?;
        }
        for folder in &self.cgroups {
            writeln!(f, "cgroup {}", folder.display())?;
        }
        Ok(())
    }
}

/// Where the number of a lab stands in a name of ours, whether it is one or not.
fn number_in(name: &str) -> Option<&str> {
    name.strip_prefix("fed-").and_then(|rest| rest.split('-').next())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| folder.display().to_string()),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.with_context(|| folder.display().to_string())?.file_name().into_string().ok());
    }
    Ok(names)
}

/// The living processes whose environment names a lab.
fn marked_processes(wanted: impl Fn(&str) -> bool) -> Result<Vec<Pid>> {
    let mut processes = Vec::new();
    for name in names_in(Path::new("/proc"))? {
        let Ok(id) = name.parse::<i32>() else { continue };
        // A process may end while we look, and one that has ended has no environment.
        let Ok(environment) = fs::read(format!("/proc/{id}/environ")) else { continue };
        let marks = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
        for mark in marks {
            if std::str::from_utf8(mark).is_ok_and(&wanted) {
                processes.push(Pid::from_raw(id));
            }
        }
    }
    Ok(processes)
}
