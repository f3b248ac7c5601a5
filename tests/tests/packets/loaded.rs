//! Programs loaded onto maps of their own. That takes the kernel half a second, most of it for the verifier, so that they
//! go from test to test, with nothing in their maps but what the agent keeps for itself.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
};
use federation_agent::{
    dataplane::{self, Config, DataPlane, TcAttach},
    plan::Plan,
};
use federation_ebpf::{
    filter,
    maps::{self, Backend, Flow, FlowKey, FragmentKey, Ports, SCHEMA, Use},
};

use crate::families::VIP_RANGES;

pub struct Loaded {
    pub data_plane: DataPlane,
    pub bpf_dir: PathBuf,
    /// Holds them while they are pinned nowhere.
    maps: Vec<(String, MapData)>,
    /// No other test has used them.
    pub is_fresh: bool,
}

/// Those that no test uses. Nothing is pinned of them, so that nothing is left when the process ends.
static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

impl Loaded {
    /// On new maps.
    pub fn fresh() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fed-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bpf_dir = Path::new("/sys/fs/bpf").join(name);
        let data_plane = open(&bpf_dir);
        let maps = fs::read_dir(maps_dir(&bpf_dir)).expect("pinned maps").map(|entry| {
            let path = entry.expect("a pin").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, MapData::from_pin(path).expect("a map"))
        });
        let maps = maps.collect();
        Self { data_plane, bpf_dir, maps, is_fresh: true }
    }

    /// Those that another test has left, if there are any.
    pub fn idle() -> Self {
        let idle = IDLE.lock().expect("no test panics here").pop();
        let Some(loaded) = idle else { return Self::fresh() };
        let dir = maps_dir(&loaded.bpf_dir);
        fs::create_dir_all(&dir).expect("a folder for pins");
        for (name, map) in &loaded.maps {
            map.pin(dir.join(name)).expect("a pin");
        }
        loaded
    }

    /// What an agent that is started anew makes of the same maps.
    pub fn restart(self) -> Self {
        let Self { data_plane, bpf_dir, maps, .. } = self;
        drop(data_plane);
        Self { data_plane: open(&bpf_dir), bpf_dir, maps, is_fresh: true }
    }

    /// Empties the maps and leaves them to other tests.
    pub fn give_back(mut self) {
        self.data_plane.apply(&Plan::default()).expect("an empty plan fits");
        self.clear::<[u8; 4]>("V4");
        self.clear::<[u8; 16]>("V6");
        let mut filter = Array::<_, u64>::try_from(Map::Array(self.map("RETURN_FILTER"))).expect("an array");
        for word in 0..filter::WORDS {
            filter.set(word, 0, 0).expect("a word");
        }
        self.forget_health();
        self.zero("OUTCOMES", maps::OUTCOMES);
        self.zero("ALLOWANCE", 1);
        unpin(&self.bpf_dir);
        self.is_fresh = false;
        IDLE.lock().expect("no test panics here").push(self);
    }

    /// Of the backends that tests have had, whose ids follow each other, and of all clusters.
    fn forget_health(&self) {
        let array = |name| Map::Array(self.map(name));
        let v4 = Array::<_, Backend<[u8; 4]>>::try_from(array("BACKENDS_V4")).expect("an array");
        let v6 = Array::<_, Backend<[u8; 16]>>::try_from(array("BACKENDS_V6")).expect("an array");
        let generation = |id| {
            v4.get(&id, 0).expect("a backend").generation | v6.get(&id, 0).expect("a backend").generation
        };
        let mut uses = Array::<_, Use>::try_from(array("BACKEND_USE")).expect("an array");
        for id in (1..).take_while(|id| generation(*id) != 0) {
            uses.set(id, Use::default(), 0).expect("an element");
        }
        let mut answers = Array::<_, u32>::try_from(array("CLUSTER_ANSWERS")).expect("an array");
        for cluster in 0..answers.len() {
            answers.set(cluster, 0, 0).expect("an element");
        }
    }

    fn clear<A: federation_ebpf::address::Address + Pod>(&self, family: &str) {
        empty::<FlowKey<A>, Flow<A>>(self.map(&format!("FLOWS_{family}")));
        empty::<FragmentKey<A>, Ports>(self.map(&format!("FRAGMENTS_{family}")));
    }

    /// Of one number an element.
    fn zero(&self, name: &str, size: usize) {
        let map = Map::PerCpuArray(self.map(name));
        let mut counters = PerCpuArray::<_, u64>::try_from(map).expect("an array a CPU");
        for index in 0..u32::try_from(size).expect("a small map") {
            let cpus = counters.get(&index, 0).expect("an element").len();
            let zero = PerCpuValues::try_from(vec![0; cpus]).expect("one a CPU");
            counters.set(index, zero, 0).expect("an element");
        }
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(maps_dir(&self.bpf_dir).join(name)).expect("a pinned map")
    }
}

/// With the same seed everywhere: tables do not depend on who makes them.
pub fn config(bpf_dir: &Path) -> Config {
    let vip_ranges = VIP_RANGES.iter().map(|range| range.parse().expect("a range")).collect();
    Config {
        bpf_dir: bpf_dir.to_owned(),
        vip_ranges,
        tc_attach: TcAttach::Auto,
        seed: 7,
        cgroup: None,
        node: "node".to_owned(),
    }
}

fn open(bpf_dir: &Path) -> DataPlane {
    DataPlane::open(&config(bpf_dir)).expect("the programs load")
}

fn empty<K: Pod, V: Pod>(map: MapData) {
    let mut map = HashMap::<_, K, V>::try_from(Map::LruHashMap(map)).expect("a hash map");
    let keys: Vec<K> = map.keys().map(|key| key.expect("a key")).collect();
    for key in keys {
        map.remove(&key).expect("a key that is there");
    }
}

pub fn maps_dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("v{SCHEMA}/maps"))
}

/// Removes what is pinned and the folder.
pub fn unpin(bpf_dir: &Path) {
    // Nothing to tell a test that has failed already; what stays behind is seen by its name.
    let _ = dataplane::detach_all(bpf_dir);
    let _ = fs::remove_dir(bpf_dir);
}
