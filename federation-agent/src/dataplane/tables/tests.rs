//! Plans carried out on maps made of memory, with a look at them after every single write. Every service has a VIP of
//! each family with the same backends, so that whatever a test says holds for both.

use BackendState::{Active, Dead, Draining};
use federation_ebpf::{
    filter::Bit,
    maps::{BackendPlace, BackendState},
};
use proptest::prelude::*;

use super::*;
use crate::model::ServiceKey;

/// As small as the map can be.
const SLOTS: u32 = 1 << 21;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}
use Family::{V4, V6};

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { V4 } else { V6 }
    }

    fn vip(self, n: u8) -> IpAddr {
        match self {
            V4 => [198, 18, 0, n].into(),
            V6 => [0xfd98, 0, 0, 0, 0, 0, 0, n.into()].into(),
        }
    }

    fn backend(self, n: u8) -> plan::Backend {
        let address: IpAddr = match self {
            V4 => [10, 8, 0, n].into(),
            V6 => [0xfd00, 8, 0, 0, 0, 0, 0, n.into()].into(),
        };
        plan::Backend {
            address: SocketAddr::new(address, 8080),
            protocol: model::Protocol::Tcp,
            cluster: "here".into(),
            local: n.is_multiple_of(2),
        }
    }
}

/// What an address was made of.
fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

fn http(vip: IpAddr) -> FrontendName {
    FrontendKey::new(vip, 80, Protocol::Tcp)
}

/// What the kernel would hold.
#[derive(Clone, Default)]
struct Memory {
    /// Ids count for both families, each of which has an array of its own.
    backends: BTreeMap<(Family, u32), BackendValue>,
    frontends: std::collections::HashMap<FrontendName, Frontend>,
    /// Words by their place.
    slots: BTreeMap<u32, u64>,
    filter: BTreeMap<u32, u64>,
}

impl Memory {
    fn write(&mut self, write: &Write) {
        match write.clone() {
            Write::Backend { id, value } => {
                self.backends.insert((Family::of(value.address), id), value);
            }
            Write::Filter { word, bits } => drop(self.filter.insert(word, bits)),
            Write::Slots { offset, words } => self.slots.extend((offset..).zip(words)),
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
    fn behind(&self, key: &FrontendName) -> Vec<BackendValue> {
        let [table, _] = tables(&self.frontends[key]);
        self.table(table).ids().map(|id| self.backends[&(Family::of(key.address), id)]).collect()
    }

    fn table(&self, table: Table) -> Packed {
        Packed::read(table, |words| Ok(words.map(|word| self.slots[&word]).collect())).unwrap()
    }

    fn ports(&self) -> impl Iterator<Item = &FrontendName> {
        self.frontends.keys().filter(|key| key.protocol != Protocol::Icmp)
    }

    /// Whether a VIP answers pings.
    fn answers(&self, vip: IpAddr) -> Option<bool> {
        self.frontends.get(&icmp_key(vip)).map(|frontend| frontend.size == 1)
    }

    /// What must hold at every instant: each slot names a backend that was admitted, replies are recognised, and no VIP
    /// answers pings that has no backend.
    fn check(&self) {
        for key in self.ports() {
            for backend in self.behind(key) {
                assert_ne!(backend.state, BackendState::Unused);
                let Bit { word, mask } = backends::bit(&backend);
                assert_ne!(self.filter[&word] & mask, 0);
            }
        }
        for (key, frontend) in &self.frontends {
            if key.protocol == Protocol::Icmp && frontend.size > 0 {
                let mut ports = self.ports().filter(|port| port.address == key.address);
                assert!(ports.any(|port| self.frontends[port].size > 0), "{}", key.address);
            }
        }
    }

    /// By number of the backend.
    fn states(&self) -> BTreeMap<u8, BackendState> {
        let of = |wanted| {
            let values = self.backends.iter().filter(move |((family, _), _)| *family == wanted);
            values.map(|(_, value)| (number(value.address), value.state)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(of(V4), of(V6));
        of(V4)
    }

    /// The numbers of the backends that a service's VIPs choose from.
    fn chosen(&self, service: u8) -> BTreeSet<u8> {
        let of = |family: Family| {
            let behind = self.behind(&http(family.vip(service)));
            behind.iter().map(|backend| number(backend.address)).collect::<BTreeSet<_>>()
        };
        assert_eq!(of(V4), of(V6));
        of(V4)
    }
}

/// A plan of services 1, 2 and so on, each with its backends. The dead are the first one's, or nobody's.
fn plan(targets: &[&[u8]], dead: &[u8]) -> Plan {
    let mut services: Vec<ServicePlan> = targets
        .iter()
        .zip(1..)
        .map(|(backends, n)| {
            let frontends = [V4, V6].map(|family| {
                let target = Target::of(backends.iter().map(|n| (family.backend(*n), 100)));
                let vip = family.vip(n);
                (plan::Frontend { vip, protocol: model::Protocol::Tcp, port: 80 }, Arc::new(target))
            });
            ServicePlan { frontends: frontends.into(), dead: BTreeSet::new() }
        })
        .collect();
    let dead = [V4, V6].iter().flat_map(|family| dead.iter().map(|n| Arc::new(family.backend(*n)))).collect();
    services.insert(0, ServicePlan { frontends: BTreeMap::new(), dead });
    let key = |n| ServiceKey::new("ns", format!("s{n}"));
    services.into_iter().zip(0..).map(|(plan, n)| (key(n), plan)).collect()
}

struct Bench {
    tables: Tables,
    memory: Memory,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { tables: Tables::new(7, SLOTS), memory: Memory::default(), now: Duration::ZERO }
    }

    fn follow(&mut self, plan: &Plan) -> usize {
        self.now += Duration::from_secs(2);
        let writes = self.at_once(plan, &[]).unwrap();
        for write in &writes {
            self.memory.write(write);
            self.memory.check();
        }
        writes.len()
    }

    /// What is to be written, while these ids are in use.
    fn at_once(&mut self, plan: &Plan, in_use: &[u32]) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        let in_use = || Ok(in_use.iter().copied().collect());
        self.tables.follow(plan, self.now, in_use, &mut |write| writes.push(write))?;
        Ok(writes)
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
    assert_eq!(changed, 2, "a VIP of each family");
    assert_eq!(bench.memory.chosen(2), [3, 4, 5].into());
}

#[test]
fn the_dead_are_marked_before_any_table_and_the_removed_drain() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2, 3]], &[]));
    let writes = bench.at_once(&plan(&[&[3]], &[1]), &[]).unwrap();
    for first in &writes[..2] {
        assert!(matches!(first, Write::Backend { value, .. } if value.state == BackendState::Dead));
    }
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
    for family in [V4, V6] {
        assert_eq!(bench.memory.frontends[&http(family.vip(1))].size, 0);
    }
}

#[test]
fn a_removed_service_leaves_no_frontend_and_its_id_is_used_again() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1], &[2]], &[]));
    bench.follow(&plan(&[&[1]], &[]));
    assert_eq!(bench.memory.ports().count(), 2);
    assert_eq!(bench.memory.frontends.len(), 4, "of each family a port and the VIP");
    bench.follow(&plan(&[&[1], &[2]], &[]));
    let ids: BTreeSet<_> = bench.memory.frontends.values().map(|frontend| frontend.id).collect();
    assert_eq!(ids, (0..8).collect());
}

#[test]
fn a_slice_rests_before_it_is_used_again() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1]], &[]));
    let key = http(V4.vip(1));
    let first = bench.memory.frontends[&key];
    let at_once = bench.at_once(&plan(&[&[2]], &[]), &[]).unwrap();
    bench.memory.write_all(&at_once);
    let second = bench.memory.frontends[&key];
    assert_ne!(first.offset, second.offset);
    bench.follow(&plan(&[&[3]], &[]));
    assert_eq!(bench.memory.frontends[&key].offset, first.offset);
}

/// What an agent that is started anew makes of `memory`.
fn adopted(memory: &Memory, slots: u32) -> Tables {
    let mut tables = Tables::new(7, slots);
    let Memory { backends, frontends, filter, .. } = memory.clone();
    let backends = backends.into_iter().map(|((_, id), value)| (id, value));
    tables.adopt(backends, frontends, filter, |table| Ok(memory.table(table)), Duration::ZERO).unwrap();
    tables
}

#[test]
fn a_new_agent_keeps_the_tables_of_the_one_before_and_needs_no_room_for_others() {
    let mut bench = Bench::new();
    let same = plan(&[&[1, 2], &[3]], &[]);
    bench.follow(&same);
    let end = bench.memory.slots.keys().max().unwrap() + 1;
    bench.tables = adopted(&bench.memory, end);
    assert_eq!(bench.follow(&same), 0);
    assert!(bench.at_once(&plan(&[&[1, 4]], &[]), &[]).is_err());

    // The dead are marked all the same.
    let mut writes = Vec::new();
    let dying = plan(&[&[3, 5], &[4]], &[1]);
    assert!(
        bench
            .tables
            .follow(&dying, bench.now, || Ok(BTreeSet::new()), &mut |write| writes.push(write))
            .is_err()
    );
    assert!(matches!(&writes[..], [Write::Backend { value, .. }, ..] if value.state == BackendState::Dead));
}

#[test]
fn a_new_agent_goes_on_with_the_ids_of_the_one_before() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2], &[3]], &[]));
    let before = bench.memory.clone();
    bench.tables = adopted(&before, SLOTS);
    bench.follow(&plan(&[&[1, 2]], &[]));
    let ids = |memory: &Memory| -> BTreeMap<IpAddr, u32> {
        memory.backends.iter().map(|((_, id), backend)| (backend.address, *id)).collect()
    };
    assert_eq!(ids(&before), ids(&bench.memory));
    assert_eq!(bench.memory.chosen(1), [1, 2].into());
    assert_eq!(bench.memory.frontends.len(), 4);
    assert_eq!(bench.memory.states()[&3], BackendState::Draining);
    let ids: BTreeSet<_> = bench.memory.frontends.values().map(|frontend| frontend.id).collect();
    assert_eq!(ids.len(), 4, "no frontend has another's id");
}

#[test]
fn ids_are_used_again_only_after_a_rest_and_without_flows_with_a_new_generation() {
    let mut bench = Bench::new();
    bench.follow(&plan(&[&[1, 2]], &[]));
    bench.follow(&plan(&[&[]], &[]));
    // As if all other ids were taken.
    bench.tables.backends.exhaust();
    assert!(bench.at_once(&plan(&[&[3]], &[]), &[]).is_err(), "too early");
    bench.now += backends::REST;
    assert!(bench.at_once(&plan(&[&[3]], &[]), &[1, 2, 3, 4]).is_err(), "flows live");
    // One of each family is free, and both may go to the other one.
    let writes = bench.at_once(&plan(&[&[3]], &[]), &[2, 3]).unwrap();
    bench.memory.write_all(&writes);
    let tenants: BTreeSet<_> = [(V4, 1), (V4, 4), (V6, 1), (V6, 4)]
        .into_iter()
        .filter_map(|place| bench.memory.backends.get(&place))
        .filter(|value| value.state == Active)
        .map(|value| (value.address, value.generation))
        .collect();
    let expected = [V4, V6].map(|family| (family.backend(3).address.ip(), 2));
    assert_eq!(tenants, expected.into());
}

#[test]
fn an_id_that_changed_its_family_is_adopted_once() {
    let value = |family: Family, generation, state| BackendValue {
        address: family.backend(1).address.ip(),
        generation,
        protocol: Protocol::Tcp,
        port: 8080,
        cluster: 1,
        state,
        place: BackendPlace::Remote,
        reserved: 0,
    };
    let unused = BackendState::Unused;
    for (v4, v6, expected) in [
        (value(V4, 1, unused), value(V6, 1, Active), value(V6, 1, Active)),
        (value(V4, 3, Active), value(V6, 3, unused), value(V4, 3, Active)),
        (value(V4, 2, unused), value(V6, 3, unused), value(V6, 3, unused)),
        (value(V4, 3, unused), value(V6, 2, unused), value(V4, 3, unused)),
    ] {
        for both in [[v4, v6], [v6, v4]] {
            let tenants = backends::tenants(both.map(|value| (5, value))).unwrap();
            assert_eq!(tenants, [(5, expected)].into());
        }
    }
    assert!(backends::tenants([value(V4, 1, Active), value(V6, 1, Active)].map(|value| (5, value))).is_err());
}

#[test]
fn a_vip_answers_pings_while_any_of_its_ports_has_a_backend() {
    let mut bench = Bench::new();
    let one = plan(&[&[1]], &[]);
    let mut service = ServicePlan::clone(&one.services[&ServiceKey::new("ns", "s1")]);
    for family in [V4, V6] {
        let port = plan::Frontend { vip: family.vip(1), protocol: model::Protocol::Udp, port: 53 };
        service.frontends.insert(port, Arc::new(Target::of([])));
    }
    let both = [(ServiceKey::new("ns", "s1"), service)].into_iter().collect();
    let mut answers = |plan: &Plan| {
        bench.follow(plan);
        [V4, V6].map(|family| bench.memory.answers(family.vip(1)))
    };
    assert_eq!(answers(&both), [Some(true); 2]);
    assert_eq!(answers(&plan(&[&[]], &[])), [Some(false); 2]);
    assert_eq!(answers(&plan(&[&[1]], &[])), [Some(true); 2]);
    assert_eq!(answers(&plan(&[], &[])), [None; 2]);
}

#[test]
fn tables_by_the_hundred_are_made_ahead_and_adopted_with_all_their_backends() {
    let mut bench = Bench::new();
    let everybody: Vec<u8> = (1..=250).collect();
    let few = [&everybody[..2], &everybody[1..3], &everybody[2..9]];
    let mut targets: Vec<&[u8]> = few.into_iter().cycle().take(200).collect();
    targets.push(&everybody);
    let all = plan(&targets, &[]);
    let writes = bench.at_once(&all, &[]).unwrap();
    bench.memory.write_all(&writes);
    for (vip, target) in (1..).zip(&targets) {
        assert_eq!(bench.memory.chosen(vip), target.iter().copied().collect(), "{vip}");
    }
    bench.tables = adopted(&bench.memory, SLOTS);
    assert_eq!(bench.at_once(&all, &[]).unwrap(), []);
}

#[test]
fn tables_become_coarse_before_slots_run_out_and_fine_again() {
    let mut bench = Bench::new();
    // Four fine tables of a thousand words fit beside the part that is for coarse ones.
    bench.tables = Tables::new(7, 6000);
    let targets: [&[u8]; 6] = [&[1, 2], &[2, 3], &[3, 4], &[4, 5], &[5, 6], &[7]];
    bench.follow(&plan(&targets, &[]));
    for (vip, target) in (1..).zip(targets) {
        assert_eq!(bench.memory.chosen(vip), target.iter().copied().collect(), "{vip}");
    }
    let sizes = |bench: &Bench| -> BTreeMap<u32, usize> {
        let mut sizes = BTreeMap::new();
        for key in bench.memory.ports() {
            *sizes.entry(bench.memory.frontends[key].size).or_default() += 1;
        }
        sizes
    };
    assert_eq!(sizes(&bench), [(8, 2), (256, 6), (8192, 4)].into());
    assert_eq!(bench.tables.makeshift(), 6, "one backend needs no more");

    bench.tables = adopted(&bench.memory, 6000);
    assert_eq!(bench.follow(&plan(&targets, &[])), 0, "a new agent makes the same of it");
    assert_eq!(bench.tables.makeshift(), 6);

    // The first three become one: what rests is no room yet, and what is coarse stays so until the change after it.
    let fewer: [&[u8]; 6] = [&[7], &[7], &[7], &[4, 5], &[5, 6], &[7]];
    bench.follow(&plan(&fewer, &[]));
    assert_eq!(sizes(&bench), [(8, 8), (256, 3), (8192, 1)].into());
    bench.follow(&plan(&fewer, &[]));
    assert_eq!(sizes(&bench), [(8, 8), (8192, 4)].into());
    assert_eq!(bench.tables.makeshift(), 0);
    for (vip, target) in (1..).zip(fewer) {
        assert_eq!(bench.memory.chosen(vip), target.iter().copied().collect(), "{vip}");
    }
}

#[test]
fn a_coarse_table_stays_as_it_is_while_a_fine_one_does_not_fit() {
    let mut bench = Bench::new();
    // Three fine tables fit, and leave more than three eighths, but not a quarter and a table.
    bench.tables = Tables::new(7, 5000);
    let same = plan(&[&[1, 2], &[3, 4]], &[]);
    bench.follow(&same);
    assert_eq!(bench.tables.makeshift(), 1);
    assert_eq!(bench.follow(&same), 0);
    assert_eq!(bench.tables.makeshift(), 1);
}

#[test]
fn a_change_of_all_tables_at_once_leaves_fine_ones_fine() {
    let mut bench = Bench::new();
    bench.tables = Tables::new(7, 10_000);
    bench.follow(&plan(&[&[1, 2], &[3, 4]], &[]));
    bench.follow(&plan(&[&[1, 3], &[2, 4]], &[]));
    assert_eq!(bench.tables.makeshift(), 0, "what rests counts as free");
}

#[test]
fn a_table_is_refused_when_slots_run_out() {
    let mut tables = Tables::new(7, 1);
    let plan = plan(&[&[1]], &[]);
    let refusal = tables.follow(&plan, Duration::ZERO, || Ok(BTreeSet::new()), &mut |_| {}).unwrap_err();
    assert!(refusal.to_string().contains("no room for a table"), "{refusal}");
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
            prop_assert_eq!(bench.memory.frontends.len(), 4 * targets.len());
            for (vip, target) in (1..).zip(&targets) {
                prop_assert_eq!(bench.memory.chosen(vip), target.iter().copied().collect());
                for family in [V4, V6] {
                    prop_assert_eq!(bench.memory.answers(family.vip(vip)), Some(!target.is_empty()));
                }
            }
            for (n, state) in bench.memory.states() {
                let active = targets.iter().any(|target| target.contains(&n));
                prop_assert_eq!(state == BackendState::Active, active);
            }
        }
    }
}
