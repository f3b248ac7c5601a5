//! Plans carried out on maps made of memory, with a look at them after every single write.

use BackendState::{Active, Dead, Draining};
use proptest::prelude::*;

use super::*;
use crate::{
    model::{Scope, ServiceKey},
    plan::Target,
};

/// What the kernel would hold.
#[derive(Clone, Default)]
struct Memory {
    backends: BTreeMap<u32, BackendValue>,
    frontends: std::collections::HashMap<FrontendName, Frontend>,
    slots: BTreeMap<u32, u32>,
    filter: BTreeMap<u32, u64>,
}

impl Memory {
    fn write(&mut self, write: &Write) {
        match write.clone() {
            Write::Backend { id, value } => drop(self.backends.insert(id, value)),
            Write::Filter { word, bits } => drop(self.filter.insert(word, bits)),
            Write::Slots { offset, ids } => self.slots.extend((offset..).zip(ids)),
            Write::Frontend { key, value } => drop(self.frontends.insert(key, value)),
            Write::RemoveFrontend { key } => drop(self.frontends.remove(&key)),
        }
    }

    fn write_all(&mut self, writes: &[Write]) {
        for write in writes {
            self.write(write);
        }
    }

    /// The backends behind a frontend's slots.
    fn behind(&self, frontend: &Frontend) -> Vec<BackendValue> {
        (frontend.offset..frontend.offset + frontend.size)
            .map(|slot| self.backends[&self.slots[&slot]])
            .collect()
    }

    /// What must hold at every instant: each slot names a backend that was admitted, and replies are recognised.
    fn check(&self) {
        for frontend in self.frontends.values() {
            for backend in self.behind(frontend) {
                assert_ne!(backend.state, BackendState::Unused);
                let Bit { word, mask } = filter::bit(backend.address, backend.port);
                assert_ne!(self.filter[&word] & mask, 0);
            }
        }
    }

    fn states(&self) -> BTreeMap<u8, BackendState> {
        self.backends.values().map(|backend| (backend.address[3], backend.state)).collect()
    }

    fn chosen(&self, vip: u8) -> BTreeSet<u8> {
        let key = FrontendKey::new([198, 18, 0, vip], 80, Protocol::Tcp);
        self.behind(&self.frontends[&key]).iter().map(|backend| backend.address[3]).collect()
    }
}

fn backend(n: u8) -> plan::Backend {
    plan::Backend {
        address: SocketAddr::from(([10, 8, 0, n], 8080)),
        protocol: model::Protocol::Tcp,
        cluster: "here".into(),
        local: n.is_multiple_of(2),
    }
}

/// A plan of frontends 198.18.0.1, .2 and so on, each with its backends.
fn plan(targets: &[&[u8]], dead: &[u8]) -> Plan {
    let target = |backends: &&[u8]| Target {
        service: ServiceKey::new("ns", "s"),
        scope: Scope::Nearest,
        client_ip_affinity: false,
        backends: backends.iter().map(|n| (backend(*n), 100)).collect(),
    };
    let frontend =
        |n: u8| plan::Frontend { vip: [198, 18, 0, n].into(), protocol: model::Protocol::Tcp, port: 80 };
    Plan {
        frontends: (1..).map(frontend).zip(targets.iter().map(target)).collect(),
        dead: dead.iter().map(|n| backend(*n)).collect(),
    }
}

struct Bench {
    tables: Tables,
    memory: Memory,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { tables: Tables::new(7), memory: Memory::default(), now: Duration::ZERO }
    }

    fn follow(&mut self, plan: &Plan) -> usize {
        self.now += Duration::from_secs(2);
        let writes = self.tables.follow(plan, self.now, || Ok(BTreeSet::new())).unwrap();
        for write in &writes {
            self.memory.write(write);
            self.memory.check();
        }
        writes.len()
    }
}

#[test]
fn the_same_plan_writes_nothing_twice() {
    let mut bench = Bench::new();
    assert!(bench.follow(&plan(&[&[1, 2], &[2, 3]], &[])) > 0);
    assert_eq!(bench.follow(&plan(&[&[1, 2], &[2, 3]], &[])), 0);
}

#[test]
fn one_service_changes_alone() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2], &[3, 4]], &[]));
    let before = bench.memory.frontends.clone();
    bench.follow(&plan(&[&[1, 2], &[3, 4, 5]], &[]));
    let changed = before.iter().filter(|(key, value)| bench.memory.frontends[*key] != **value).count();
    assert_eq!(changed, 1);
    assert_eq!(bench.memory.chosen(2), [3, 4, 5].into());
}

#[test]
fn the_dead_are_marked_before_any_table_and_the_removed_drain() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2, 3]], &[]));
    let writes = bench.tables.follow(&plan(&[&[3]], &[1]), bench.now, || Ok(BTreeSet::new())).unwrap();
    assert!(matches!(&writes[0], Write::Backend { value, .. } if value.state == BackendState::Dead));
    bench.memory.write_all(&writes);
    assert_eq!(bench.memory.states(), [(1, Dead), (2, Draining), (3, Active)].into());
    bench.follow(&plan(&[&[1, 2, 3]], &[]));
    assert_eq!(bench.memory.states(), [(1, Active), (2, Active), (3, Active)].into());
}

#[test]
fn nobody_left_is_an_empty_table_not_a_missing_frontend() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1]], &[]));
    bench.follow(&plan(&[&[]], &[1]));
    let frontend = bench.memory.frontends[&FrontendKey::new([198, 18, 0, 1], 80, Protocol::Tcp)];
    assert_eq!(frontend.size, 0);
}

#[test]
fn a_removed_service_leaves_no_frontend_and_its_id_is_used_again() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1], &[2]], &[]));
    bench.follow(&plan(&[&[1]], &[]));
    assert_eq!(bench.memory.frontends.len(), 1);
    bench.follow(&plan(&[&[1], &[2]], &[]));
    let ids: BTreeSet<_> = bench.memory.frontends.values().map(|frontend| frontend.id).collect();
    assert_eq!(ids, [0, 1].into());
}

#[test]
fn a_slice_rests_before_it_is_used_again() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1]], &[]));
    let key = FrontendKey::new([198, 18, 0, 1], 80, Protocol::Tcp);
    let first = bench.memory.frontends[&key];
    let at_once = bench.tables.follow(&plan(&[&[2]], &[]), bench.now, || Ok(BTreeSet::new())).unwrap();
    bench.memory.write_all(&at_once);
    let second = bench.memory.frontends[&key];
    assert_ne!(first.offset, second.offset);
    bench.follow(&plan(&[&[3]], &[]));
    assert_eq!(bench.memory.frontends[&key].offset, first.offset);
}

#[test]
fn a_new_agent_goes_on_with_the_ids_of_the_one_before() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2], &[3]], &[]));
    let before = bench.memory.clone();
    let mut tables = Tables::new(7);
    let Memory { backends, frontends, filter, .. } = before.clone();
    tables.adopt(backends, frontends, filter, Duration::ZERO).unwrap();
    bench.tables = tables;
    bench.follow(&plan(&[&[1, 2]], &[]));
    let ids = |memory: &Memory| -> BTreeMap<[u8; 4], u32> {
        memory.backends.iter().map(|(id, backend)| (backend.address, *id)).collect()
    };
    assert_eq!(ids(&before), ids(&bench.memory));
    assert_eq!(bench.memory.chosen(1), [1, 2].into());
    assert_eq!(bench.memory.frontends.len(), 1);
    assert_eq!(bench.memory.states()[&3], BackendState::Draining);
}

#[test]
fn ids_are_used_again_only_after_a_rest_and_without_flows_with_a_new_generation() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2]], &[]));
    bench.follow(&plan(&[&[]], &[]));
    // As if all other ids were taken.
    bench.tables.next_backend = u32::try_from(maps::BACKENDS).unwrap();
    let in_use = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<u32>>();
    assert!(bench.tables.follow(&plan(&[&[3]], &[]), bench.now, || Ok(in_use(&[]))).is_err(), "too early");
    bench.now += BACKEND_REST;
    assert!(
        bench.tables.follow(&plan(&[&[3]], &[]), bench.now, || Ok(in_use(&[1, 2]))).is_err(),
        "flows live"
    );
    let writes = bench.tables.follow(&plan(&[&[3]], &[]), bench.now, || Ok(in_use(&[2]))).unwrap();
    bench.memory.write_all(&writes);
    let tenant = bench.memory.backends[&1];
    assert_eq!((tenant.address, tenant.generation), ([10, 8, 0, 3], 2));
}

proptest! {
    #[test]
    fn every_write_leaves_the_maps_fit_and_the_last_makes_them_true(
        plans in prop::collection::vec(
            (prop::collection::vec(prop::collection::btree_set(1_u8..9, 0..5), 0..4), prop::collection::btree_set(1_u8..9, 0..3)),
            1..8,
        ),
    ) {
        let mut bench = Bench::new();
        for (targets, dead) in plans {
            let targets: Vec<Vec<u8>> =
                targets.iter().map(|target| target.difference(&dead).copied().collect()).collect();
            let slices: Vec<&[u8]> = targets.iter().map(Vec::as_slice).collect();
            let dead: Vec<u8> = dead.into_iter().collect();
            bench.follow(&plan(&slices, &dead));
            prop_assert_eq!(bench.memory.frontends.len(), targets.len());
            for (vip, target) in (1..).zip(&targets) {
                prop_assert_eq!(bench.memory.chosen(vip), target.iter().copied().collect());
            }
            for (n, state) in bench.memory.states() {
                let active = targets.iter().any(|target| target.contains(&n));
                prop_assert_eq!(state == BackendState::Active, active);
            }
        }
    }
}
