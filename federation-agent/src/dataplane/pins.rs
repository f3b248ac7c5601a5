//! Where maps and links live on the BPF file system, and whether what is found there may be used.
//!
//! `<bpf_dir>/v<schema>/maps/<NAME>` and `<bpf_dir>/v<schema>/links/<program>-<mode>-<interface index>`: the layout's
//! number is in the path, so that an agent never meets another layout's maps.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapInfo, MapType};
use federation_ebpf::{
    filter,
    maps::{self, Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, SCHEMA},
};

use super::attach::Mode;

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
    pub interface: u32,
}

/// What a map must be like to be adopted.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
}

type V4 = [u8; 4];

/// Every map of the data plane.
const SHAPES: [Shape; 8] = [
    shape::<FrontendKey<V4>, Frontend>("FRONTENDS_V4", MapType::Hash, maps::FRONTENDS),
    shape::<u32, u32>("SLOTS", MapType::Array, maps::SLOTS),
    shape::<u32, Backend<V4>>("BACKENDS_V4", MapType::Array, maps::BACKENDS),
    shape::<FlowKey<V4>, Flow<V4>>("FLOWS_V4", MapType::LruHash, maps::FLOWS),
    shape::<u32, u64>("RETURN_FILTER", MapType::Array, filter::WORDS as usize),
    shape::<u32, Counter>("FRONTEND_COUNTERS", MapType::PerCpuArray, maps::FRONTENDS),
    shape::<u32, Counter>("BACKEND_COUNTERS", MapType::PerCpuArray, maps::BACKENDS),
    shape::<u32, u64>("OUTCOMES", MapType::PerCpuArray, maps::OUTCOMES),
];

const fn shape<K, V>(name: &'static str, kind: MapType, entries: usize) -> Shape {
    Shape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
}

impl Pins {
    pub(super) fn new(bpf_dir: &Path) -> Self {
        Self { root: bpf_dir.join(format!("v{SCHEMA}")) }
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
        self.links_dir().join(format!("{}-{}-{}", pin.program, pin.mode, pin.interface))
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
        links.sort_by(|a, b| (a.interface, &a.program).cmp(&(b.interface, &b.program)));
        Ok(links)
    }

    /// Maps that are pinned already are used as they are: they must be what the programs expect.
    ///
    /// # Errors
    /// Names the map that differs and how.
    pub(super) fn verify_maps(&self) -> Result<()> {
        for Shape { name, kind, key, value, entries } in &SHAPES {
            let path = self.map(name);
            if !path.exists() {
                continue;
            }
            let info = MapInfo::from_pin(&path).with_context(|| format!("look at {}", path.display()))?;
            let found = (
                info.map_type()?,
                info.key_size() as usize,
                info.value_size() as usize,
                info.max_entries() as usize,
            );
            let expected = (*kind, *key, *value, *entries);
            ensure!(
                found == expected,
                "{} is not the map that this agent expects (found {found:?}, expected {expected:?} as type, key size, \
                 value size, entries): remove it with `federation-agent detach`",
                path.display()
            );
        }
        Ok(())
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

impl LinkPin {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.rsplitn(3, '-');
        let interface = parts.next()?.parse().ok()?;
        let mode = Mode::parse(parts.next()?)?;
        Some(Self { program: parts.next()?.to_owned(), mode, interface })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_pins_are_read_as_they_are_written() {
        let pin = LinkPin { program: "from_pod".to_owned(), mode: Mode::Tcx, interface: 17 };
        let path = Pins::new(Path::new("/sys/fs/bpf/federation")).link(&pin);
        assert_eq!(path, Path::new("/sys/fs/bpf/federation/v1/links/from_pod-tcx-17"));
        assert_eq!(LinkPin::parse("from_pod-tcx-17"), Some(pin));
        for stranger in ["", "from_pod", "from_pod-tcx-x", "from_pod-other-1"] {
            assert_eq!(LinkPin::parse(stranger), None, "{stranger}");
        }
    }
}
