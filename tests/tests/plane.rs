//! The data plane on a node of network namespaces: how programs are attached and outlive their agent, and what the agent
//! does beside filling maps. Needs root and a kernel.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use federation_agent::{
    dataplane::{self, Config, DataPlane, Mode, Reached, TcAttach, view::View},
    model::{Protocol, ServiceKey},
    plan::{Backend, Frontend, Plan, ServicePlan, Target},
};
use federation_ebpf::{maps::EventKind, outcome::Outcome};
use federation_tests::lab::Namespace;
use nix::net::if_::if_nametoindex;

const V4: Family = Family { vip: "198.18.0.7:80", server: "10.99.2.2:8080" };
const V6: Family = Family { vip: "[fd98::7]:80", server: "[fd99:2::2]:8080" };
const PATIENCE: Duration = Duration::from_secs(10);

/// A service of one family, and who serves it.
#[derive(Clone, Copy)]
struct Family {
    vip: &'static str,
    server: &'static str,
}

impl Family {
    fn vip(self) -> SocketAddr {
        self.vip.parse().unwrap()
    }

    fn backend(self) -> Backend {
        Backend {
            address: self.server.parse().unwrap(),
            protocol: Protocol::Tcp,
            cluster: "here".into(),
            local: true,
        }
    }
}

/// A node with a client pod and a server pod, and its pins.
struct World {
    node: Namespace,
    client: Namespace,
    server: Namespace,
    pins: PathBuf,
}

impl World {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fed-plane-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let create = |role: &str| Namespace::create(&format!("{name}-{role}")).unwrap();
        let (node, client, server) = (create("node"), create("client"), create("server"));
        let world = Self { node, client, server, pins: Path::new("/sys/fs/bpf").join(&name) };
        for (number, pod) in [(1, &world.client), (2, &world.server)] {
            let (end, pod_name) = (format!("pod{number}"), pod.name());
            world
                .node
                .ip([
                    format!("link add {end} type veth peer name eth0 netns {pod_name}"),
                    format!("address add 10.99.{number}.1/24 dev {end}"),
                    format!("address add fd99:{number}::1/64 dev {end} nodad"),
                    format!("link set {end} up"),
                ])
                .unwrap();
            pod.ip([
                format!("address add 10.99.{number}.2/24 dev eth0"),
                format!("address add fd99:{number}::2/64 dev eth0 nodad"),
                "link set eth0 up".to_owned(),
                format!("route add default via 10.99.{number}.1"),
                format!("route add default via fd99:{number}::1"),
            ])
            .unwrap();
        }
        world.node.set("ipv4/ip_forward", "1").unwrap();
        world.node.set("ipv6/conf/all/forwarding", "1").unwrap();
        for family in [V4, V6] {
            let address: SocketAddr = family.server.parse().unwrap();
            let listener = world.server.run(|| TcpListener::bind(address)).unwrap().unwrap();
            thread::spawn(move || serve(&listener));
        }
        world
    }

    /// An agent's data plane with both services, attached to both pods.
    fn agent(&self, tc_attach: TcAttach) -> DataPlane {
        let config = Config {
            bpf_dir: self.pins.clone(),
            vip_ranges: vec!["198.18.0.0/16".parse().unwrap(), "fd98::/112".parse().unwrap()],
            tc_attach,
            seed: 7,
            cgroup: None,
            node: "node".to_owned(),
        };
        let mut data_plane = self.node.run(|| DataPlane::open(&config)).unwrap().unwrap();
        self.node.run(|| data_plane.replace_others()).unwrap().unwrap();
        assert!(data_plane.apply(&plan(true)).unwrap().is_none());
        for pod in ["pod1", "pod2"] {
            let reached = self.node.run(|| data_plane.attach_pod(index(pod))).unwrap().unwrap();
            assert_eq!(reached, Reached::Attached);
        }
        data_plane
    }

    fn connect(&self, family: Family) -> io::Result<TcpStream> {
        let stream = self.client.run(|| TcpStream::connect_timeout(&family.vip(), PATIENCE)).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn modes(&self) -> Vec<Mode> {
        dataplane::links(&self.pins).unwrap().iter().map(|link| link.mode).collect()
    }

    /// What `tc` says of the programs on the client's interface.
    fn filters(&self) -> String {
        let filters = |side| self.node.execute("tc", &["filter", "show", "dev", "pod1", side]);
        filters("ingress").unwrap() + &filters("egress").unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nothing to tell a test that has failed already; what stays behind is seen by its name.
        let _ = self.node.run(|| dataplane::detach_all(&self.pins));
        let _ = fs::remove_dir(&self.pins);
        for namespace in [&self.node, &self.client, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", namespace.name()]).status();
        }
    }
}

/// Answers each byte with the same.
fn serve(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
    }
}

fn plan(alive: bool) -> Plan {
    let mut plan = ServicePlan::default();
    for family in [V4, V6] {
        let target = Target::of(alive.then(|| (family.backend(), 100)));
        let vip = family.vip();
        plan.frontends
            .insert(Frontend { vip: vip.ip(), protocol: Protocol::Tcp, port: vip.port() }, Arc::new(target));
        if !alive {
            plan.dead.insert(family.backend().into());
        }
    }
    [(ServiceKey::new("my-namespace", "my-service"), plan)].into_iter().collect()
}

fn index(interface: &str) -> u32 {
    if_nametoindex(interface).unwrap()
}

#[track_caller]
fn echoes(stream: &mut TcpStream) {
    let mut byte = [0];
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

#[test]
fn connections_go_on_without_an_agent_and_through_the_next_one() {
    for (way, mode) in [(TcAttach::Tcx, Mode::Tcx), (TcAttach::Clsact, Mode::Clsact)] {
        let world = World::new();
        let first = world.agent(way);
        let mut streams: Vec<_> = [V4, V6].map(|family| world.connect(family).unwrap()).into();
        drop(first);
        streams.iter_mut().for_each(echoes);
        streams.extend([V4, V6].map(|family| world.connect(family).unwrap()));
        let _second = world.agent(way);
        streams.iter_mut().for_each(echoes);
        assert_eq!(world.modes(), [mode; 4]);
        let flows = View::open(&world.pins).unwrap().flows().unwrap();
        assert_eq!(flows.len(), 4, "{flows:?}");
        assert!(flows.iter().all(|flow| flow.answerable && !flow.hairpin), "{flows:?}");
    }
}

#[test]
fn clsact_keeps_one_filter_a_place_and_leaves_others() {
    let world = World::new();
    for arguments in [
        "qdisc add dev pod1 clsact",
        "filter add dev pod1 ingress prio 50000 protocol ip u32 match u32 0 0 flowid 1:1",
    ] {
        world.node.execute("tc", &arguments.split(' ').collect::<Vec<_>>()).unwrap();
    }
    for _ in 0..3 {
        drop(world.agent(TcAttach::Clsact));
        let filters = world.filters();
        for program in ["from_pod", "to_pod"] {
            assert_eq!(filters.matches(&format!("{program} direct-action")).count(), 1, "{filters}");
        }
    }
    let elsewhere = world.client.run(|| dataplane::detach_all(&world.pins)).unwrap().unwrap_err();
    assert!(format!("{elsewhere:#}").contains("another network namespace"), "{elsewhere:#}");
    echoes(&mut world.connect(V4).unwrap());
    world.node.run(|| dataplane::detach_all(&world.pins)).unwrap().unwrap();
    let filters = world.filters();
    assert!(!filters.contains("_pod") && filters.contains("u32"), "{filters}");
    assert_eq!(world.modes(), []);
}

#[test]
fn the_next_agent_may_attach_the_other_way() {
    let world = World::new();
    drop(world.agent(TcAttach::Clsact));
    let mut stream = world.connect(V6).unwrap();
    drop(world.agent(TcAttach::Tcx));
    echoes(&mut stream);
    assert_eq!(world.modes(), [Mode::Tcx; 4]);
    assert!(!world.filters().contains("_pod"), "{}", world.filters());
    drop(world.agent(TcAttach::Clsact));
    echoes(&mut stream);
    assert_eq!(world.modes(), [Mode::Clsact; 4]);
}

#[test]
fn an_agent_of_another_version_makes_room() {
    for way in [TcAttach::Tcx, TcAttach::Clsact] {
        let world = World::new();
        drop(world.agent(way));
        let mut stream = world.connect(V4).unwrap();
        echoes(&mut stream);
        let own = world.pins.join(format!("v{}", federation_ebpf::maps::SCHEMA));
        let other = world.pins.join("v1");
        fs::rename(&own, &other).unwrap();
        let _next = world.agent(way);
        assert!(own.exists() && !other.exists());
        assert_eq!(world.modes().len(), 4);
        for program in ["from_pod", "to_pod"] {
            let filters = world.filters();
            let count = filters.matches(&format!("{program} direct-action")).count();
            assert_eq!(count, usize::from(way == TcAttach::Clsact), "{filters}");
        }
        // The flow is gone with the maps, and is made anew in the middle of the connection.
        echoes(&mut stream);
        echoes(&mut world.connect(V6).unwrap());
        fs::rename(&own, &other).unwrap();
        world.node.run(|| dataplane::detach_all(&world.pins)).unwrap().unwrap();
        assert!(!other.exists());
        assert!(!world.filters().contains("_pod"), "{}", world.filters());
    }
}

#[test]
fn an_interface_that_goes_leaves_nothing() {
    for way in [TcAttach::Tcx, TcAttach::Clsact] {
        let world = World::new();
        let mut data_plane = world.agent(way);
        let gone = world.node.run(|| index("pod1")).unwrap();
        world.node.ip(["link del pod1"]).unwrap();
        world.node.run(|| data_plane.forget_interface(gone)).unwrap().unwrap();
        assert!(dataplane::links(&world.pins).unwrap().iter().all(|link| link.interface() != Some(gone)));
        let reached = world.node.run(|| data_plane.attach_pod(gone)).unwrap().unwrap();
        assert_eq!(reached, Reached::Gone);
    }
}

#[test]
fn a_client_that_only_waits_is_told_that_its_backend_has_died() {
    let world = World::new();
    let mut data_plane = world.agent(TcAttach::Auto);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut events = runtime.block_on(async { data_plane.events() }).unwrap();
    let waiting = [V4, V6].map(|family| {
        let mut stream = world.connect(family).unwrap();
        echoes(&mut stream);
        thread::spawn(move || stream.read(&mut [0]).map_err(|error| error.kind()))
    });
    let sweep = data_plane.apply(&plan(false)).unwrap().expect("backends have died");
    world.node.run(|| sweep.run()).unwrap().unwrap();
    for client in waiting {
        assert_eq!(client.join().unwrap(), Err(io::ErrorKind::ConnectionReset));
    }
    let told = runtime.block_on(async {
        let mut told = Vec::new();
        while told.len() < 2 {
            let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("events in time").unwrap();
            told.extend(next.into_iter().filter(|event| event.kind == EventKind::Reset));
        }
        told
    });
    let vips: Vec<IpAddr> = told.iter().map(|event| event.vip.ip()).collect();
    assert_eq!(vips, [V4.vip().ip(), V6.vip().ip()]);
    for event in told {
        assert_eq!(
            (event.protocol, event.outcome),
            (federation_ebpf::maps::Protocol::Tcp, Outcome::BackendGone)
        );
        let backend = event.backend.and_then(|backend| backend.address).map(|address| address.port());
        assert_eq!(backend, Some(8080), "{event}");
    }
    let refused = world.connect(V4).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn maps_have_the_room_that_they_say_and_a_stranger_among_them_is_refused() {
    let world = World::new();
    drop(world.agent(TcAttach::Auto));
    let fills = View::open(&world.pins).unwrap().fills().unwrap();
    let of = |map| fills.iter().find(|fill| fill.map == map).unwrap();
    // One word for each family's one backend.
    assert!(of("SLOTS").used == Some(2) && of("SLOTS").room >= federation_ebpf::maps::SLOTS);
    assert_eq!((of("FRONTENDS_V4").used, of("FRONTENDS_V6").used), (Some(2), Some(2)));
    assert_eq!((of("BACKENDS_V4").used, of("BACKENDS_V6").used), (Some(1), Some(1)));
    assert_eq!(of("EVENTS").room, federation_ebpf::maps::EVENTS);
    let maps = world.pins.join(format!("v{}/maps", federation_ebpf::maps::SCHEMA));
    fs::rename(maps.join("FLOWS_V6"), maps.join("FLOWS_V4")).unwrap();
    let refusal = View::open(&world.pins).err().expect("a map in another's place").to_string();
    assert!(refusal.contains("FLOWS_V4 is not the map"), "{refusal}");
}
