//! The number of a lab and the lock that says whether its owner still lives.
//!
//! The kernel releases the lock when its owner ends, however it ends: no process id to compare, no stale file.

use std::{
    fmt,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Where labs have their folders.
const ROOT: &str = "/run/federation-lab";
const LOCK: &str = "owner";
const KEPT: &str = "kept";

/// Labs at a time: more would be a leak, not a wish.
const MOST: u16 = 1000;

/// The number of a lab on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId(u16);

/// The right to build or to remove what belongs to one lab.
pub struct Lease {
    id: LabId,
    folder: PathBuf,
    _lock: Flock<File>,
}

/// The folders of all labs, whoever owns them.
pub fn folders() -> Result<Vec<(LabId, PathBuf)>> {
    let entries = match fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(ROOT),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.context(ROOT)?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        folders.extend(id.map(|id| (id, path)));
    }
    folders.sort();
    Ok(folders)
}

pub fn mark_kept(folder: &Path) -> Result<()> {
    fs::write(folder.join(KEPT), "").with_context(|| format!("mark {} as kept", folder.display()))
}

pub fn is_kept(folder: &Path) -> bool {
    folder.join(KEPT).exists()
}

/// Who wrote their process id into the lock, for a person to read.
pub fn owner_of(folder: &Path) -> String {
    fs::read_to_string(folder.join(LOCK)).unwrap_or_default()
}

// === impl LabId ===

impl LabId {
    /// What the names of this lab's namespaces begin with.
    pub fn prefix(self) -> String {
        format!("fed-{self}-")
    }

    /// Where this lab's agents pin their programs and maps.
    pub fn bpf_folder(self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/fed-{self}"))
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LabId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

// === impl Lease ===

impl Lease {
    /// Claims the lowest number that no lab on this machine has.
    pub fn claim() -> Result<Self> {
        fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT}: labs need root"))?;
        // The folder appears under its number with the lock already held, so nobody can take it for an orphan.
        let nursery = Path::new(ROOT).join(format!("new-{}-{}", std::process::id(), nix::unistd::gettid()));
        fs::create_dir(&nursery).with_context(|| format!("create {}", nursery.display()))?;
        let mut file = File::create(nursery.join(LOCK)).context("create the lab's lock")?;
        write!(file, "{}", std::process::id()).context("write the lab's lock")?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .context("lock a new lab")?;

        for id in (1..MOST).map(LabId) {
            let folder = Path::new(ROOT).join(id.to_string());
            match fs::rename(&nursery, &folder) {
                Ok(()) => return Ok(Self { id, folder, _lock: lock }),
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                Err(error) => return Err(error).with_context(|| format!("claim {}", folder.display())),
            }
        }
        fs::remove_dir_all(&nursery).context("give the lab's folder back")?;
        bail!("all {MOST} lab numbers are taken: `cargo xtask down` removes the labs that nobody owns")
    }

    /// Takes over a lab whose owner has ended; `None` while the owner lives, or when the lab is gone.
    pub fn take_over(id: LabId) -> Result<Option<Self>> {
        let folder = Path::new(ROOT).join(id.to_string());
        let path = folder.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno).with_context(|| format!("lock {}", path.display())),
        };
        // Between opening and locking another process may have removed the lab and a third claimed the number.
        let ours = lock.metadata().context("look at the lock")?.ino();
        let current = fs::metadata(&path).map(|metadata| metadata.ino()).ok();
        Ok((current == Some(ours)).then_some(Self { id, folder, _lock: lock }))
    }

    pub fn id(&self) -> LabId {
        self.id
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends the lab's existence by removing its folder; everything else must be gone.
    pub fn release(self) -> Result<()> {
        // Away from its number first: a folder with half of its files would look like a lab.
        let grave = Path::new(ROOT).join(format!("old-{}-{}", self.id, std::process::id()));
        fs::rename(&self.folder, &grave).with_context(|| format!("retire {}", self.folder.display()))?;
        fs::remove_dir_all(&grave).with_context(|| format!("remove {}", grave.display()))
    }
}
