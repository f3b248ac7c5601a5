//! Where maps and links live on the BPF file system, and whether what is found there may be used.
//!
//! `<bpf_dir>/v<schema>/maps/<NAME>`, `<bpf_dir>/v<schema>/links/<program>-<mode>-<index of the interface, or number of the cgroup>` and
//! `<bpf_dir>/v<schema>/netns/<inode>`: the layout's number is in the path, so that an agent never meets another
//! layout's maps.
//!
//! What is attached by clsact has no link that could be pinned: the program itself is, in the link's place. It marks
//! that there is a filter, which only the interface's own network namespace can remove: hence the last folder, whose one
//! (empty) folder has that namespace's number. A BPF file system holds no files to write it into.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapInfo, MapType};
use federation_ebpf::{
    bucket::Bucket,
    filter,
    maps::{
        self, Backend, Counter, Flow, FlowKey, FragmentKey, Frontend, FrontendKey, Ports, SCHEMA, SocketKey,
        SocketPeer, Use,
    },
    slots::Word,
};

use super::{
    attach::Mode,
    family::{Family, V4, V6},
};

/// `BPF_F_NO_PREALLOC` of `linux/bpf.h`.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`, likewise.
const MMAPABLE: u32 = 1 << 10;

/// The folders below one `--bpf-dir`.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

/// A link's pin, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPin {
    pub program: String,
    pub mode: Mode,
    pub place: Place,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// By its index.
    Interface(u32),
    /// By the kernel's number.
    Cgroup(u64),
}

/// What a map must be like to be adopted.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
    /// There may be more of them: the map is as large as the machine allowed when it was made.
    grows: bool,
    flags: u32,
}

/// Every map of the data plane.
const SHAPES: [Shape; 18] = [
    frontends::<V4>(),
    frontends::<V6>(),
    Shape { grows: true, flags: MMAPABLE, ..shape::<u32, Word>("SLOTS", MapType::Array, maps::SLOTS) },
    backends::<V4>(),
    backends::<V6>(),
    flows::<V4>(),
    flows::<V6>(),
    fragments::<V4>(),
    fragments::<V6>(),
    shape::<SocketKey, SocketPeer>("SOCKETS", MapType::LruHash, maps::SOCKETS),
    Shape { flags: MMAPABLE, ..shape::<u32, u64>("RETURN_FILTER", MapType::Array, filter::WORDS as usize) },
    shape::<u32, Counter>("FRONTEND_COUNTERS", MapType::PerCpuArray, maps::FRONTENDS),
    shape::<u32, Counter>("BACKEND_COUNTERS", MapType::PerCpuArray, maps::BACKENDS),
    Shape { flags: MMAPABLE, ..shape::<u32, Use>("BACKEND_USE", MapType::Array, maps::BACKENDS) },
    shape::<u32, u32>("CLUSTER_ANSWERS", MapType::Array, maps::CLUSTERS),
    shape::<u32, u64>("OUTCOMES", MapType::PerCpuArray, maps::OUTCOMES),
    shape::<u32, Bucket>("ALLOWANCE", MapType::PerCpuArray, 1),
    // A ring has neither keys nor values; its entries are bytes.
    shape::<(), ()>("EVENTS", MapType::RingBuf, maps::EVENTS),
];

const fn shape<K, V>(name: &'static str, kind: MapType, entries: usize) -> Shape {
    Shape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries, grows: false, flags: 0 }
}

const fn frontends<A: Family>() -> Shape {
    let shape = shape::<FrontendKey<A>, Frontend>(A::FRONTENDS, MapType::Hash, maps::FRONTENDS);
    Shape { flags: NO_PREALLOC, ..shape }
}

const fn backends<A: Family>() -> Shape {
    shape::<u32, Backend<A>>(A::BACKENDS, MapType::Array, maps::BACKENDS)
}

const fn flows<A: Family>() -> Shape {
    shape::<FlowKey<A>, Flow<A>>(A::FLOWS, MapType::LruHash, maps::FLOWS)
}

const fn fragments<A: Family>() -> Shape {
    shape::<FragmentKey<A>, Ports>(A::FRAGMENTS, MapType::LruHash, maps::FRAGMENTS)
}

impl Pins {
    pub(super) fn new(bpf_dir: &Path) -> Self {
        Self { root: bpf_dir.join(format!("v{SCHEMA}")) }
    }

    /// Those of agents whose maps are laid out otherwise.
    pub(super) fn of_others(bpf_dir: &Path) -> Result<Vec<Self>> {
        let mut others = Vec::new();
        for entry in fs::read_dir(bpf_dir).with_context(|| format!("list {}", bpf_dir.display()))? {
            let entry = entry.with_context(|| format!("list {}", bpf_dir.display()))?;
            let name = entry.file_name();
            let schema = name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
            if schema.is_some_and(|schema| schema != SCHEMA) {
                others.push(Self { root: entry.path() });
            }
        }
        Ok(others)
    }

    /// Where those of all versions are.
    pub(super) fn folder(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn create(&self) -> Result<()> {
        for dir in [self.root.join("maps"), self.links_dir()] {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(())
    }

    pub(super) fn exist(&self) -> bool {
        self.map(SHAPES[0].name).exists()
    }

    pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|shape| shape.name)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    fn links_dir(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(super) fn link(&self, pin: &LinkPin) -> PathBuf {
        self.links_dir().join(format!("{}-{}-{}", pin.program, pin.mode, pin.place))
    }

    /// Every pinned link.
    pub(super) fn links(&self) -> Result<Vec<LinkPin>> {
        let dir = self.links_dir();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", dir.display()))?,
        };
        let mut links = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            links.extend(LinkPin::parse(&entry.file_name().to_string_lossy()));
        }
        links.sort_by(|a, b| (a.place, &a.program).cmp(&(b.place, &b.program)));
        Ok(links)
    }

    /// Maps that are pinned already are used as they are: they must be what the programs expect.
    ///
    /// # Errors
    /// Names the map that differs and how.
    pub(super) fn verify_maps(&self) -> Result<()> {
        for Shape { name, kind, key, value, entries, grows, flags } in &SHAPES {
            let Some(info) = self.map_info(name)? else { continue };
            let size = info.max_entries() as usize;
            let found = (
                info.map_type()?,
                info.key_size() as usize,
                info.value_size() as usize,
                if *grows { size.min(*entries) } else { size },
                info.map_flags(),
            );
            let expected = (*kind, *key, *value, *entries, *flags);
            ensure!(
                found == expected,
                "{} is not the map that this agent expects (found {found:?}, expected {expected:?} as type, key size, \
                 value size, entries, flags): remove it with `federation-agent detach`",
                self.map(name).display()
            );
        }
        Ok(())
    }

    /// How many entries the pinned map has room for; `None` where none is pinned.
    pub(super) fn room(&self, map: &str) -> Result<Option<u32>> {
        Ok(self.map_info(map)?.map(|info| info.max_entries()))
    }

    fn map_info(&self, name: &str) -> Result<Option<MapInfo>> {
        let path = self.map(name);
        if !path.exists() {
            return Ok(None);
        }
        MapInfo::from_pin(&path).with_context(|| format!("look at {}", path.display())).map(Some)
    }

    /// Remembers that programs are attached in the network namespace of this thread.
    pub(super) fn claim_netns(&self) -> Result<()> {
        let dir = self.netns_dir().join(own_netns()?.to_string());
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))
    }

    /// Filters can be removed in their own network namespace alone.
    ///
    /// # Errors
    /// This thread is in another.
    pub(super) fn ensure_same_netns(&self) -> Result<()> {
        let own = own_netns()?;
        ensure!(
            self.netns_dir().join(own.to_string()).exists(),
            "programs are attached by clsact in another network namespace than this one ({own}): run this command \
             where the agent ran, as with `nsenter --net`; if that namespace is gone, remove {} by hand",
            self.root.display()
        );
        Ok(())
    }

    fn netns_dir(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Where a pin is made before it takes another's place.
    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staged")
    }

    /// Removes every pin: programs detach and maps vanish with the last process that holds them.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.root.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The number that the kernel gave to the network namespace of this thread.
fn own_netns() -> Result<u64> {
    const OWN: &str = "/proc/thread-self/ns/net";
    fs::metadata(OWN).map(|own| own.ino()).with_context(|| format!("look at {OWN}"))
}

impl LinkPin {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.rsplitn(3, '-');
        let place = parts.next()?;
        let mode = Mode::parse(parts.next()?)?;
        let place = match mode {
            Mode::Cgroup => Place::Cgroup(place.parse().ok()?),
            _ => Place::Interface(place.parse().ok()?),
        };
        Some(Self { program: parts.next()?.to_owned(), mode, place })
    }

    /// The index of the interface that it is at, if it is at one.
    pub fn interface(&self) -> Option<u32> {
        match self.place {
            Place::Interface(index) => Some(index),
            Place::Cgroup(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(index) => index.fmt(f),
            Self::Cgroup(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_pins_are_read_as_they_are_written() {
        for (name, program, mode, place) in [
            ("from_pod-tcx-17", "from_pod", Mode::Tcx, Place::Interface(17)),
            ("connect4-cgroup-5000000000", "connect4", Mode::Cgroup, Place::Cgroup(5_000_000_000)),
        ] {
            let pin = LinkPin { program: program.to_owned(), mode, place };
            let path = Pins::new(Path::new("/sys/fs/bpf/federation")).link(&pin);
            assert!(path.ends_with(Path::new("links").join(name)), "{}", path.display());
            assert_eq!(LinkPin::parse(name), Some(pin));
        }
        for stranger in ["", "from_pod", "from_pod-tcx-x", "from_pod-other-1"] {
            assert_eq!(LinkPin::parse(stranger), None, "{stranger}");
        }
    }
}
