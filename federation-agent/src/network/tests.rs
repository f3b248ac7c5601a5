//! Against the kernel, in network namespaces that end with the threads that made them.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, unshare};

use super::{addresses, give_addresses, own_addresses, runs_xdp, take_addresses, uplink};

#[test]
fn an_uplink_that_does_not_exist_is_refused_with_those_that_do() {
    in_namespace(async || {
        ip("link add eth0 type veth peer name eth1");
        assert_eq!(uplink(Some("eth0")).await.unwrap().name, "eth0");
        assert_eq!(
            uplink(Some("eth9")).await.unwrap_err().to_string(),
            "there is no interface eth9 here: give --uplink one of lo, eth1, eth0"
        );
    });
}

#[test]
fn the_uplink_is_where_the_default_route_leads() {
    in_namespace(async || {
        ip("link add eth0 type veth peer name eth1");
        ip("link set eth0 up");
        ip("link set eth1 up");
        let none = uplink(None).await.unwrap_err().to_string();
        assert!(
            none.contains("no default route") && none.contains("give --uplink one of lo, eth1, eth0"),
            "{none}"
        );

        ip("address add fd00::1/64 dev eth1 nodad");
        ip("-6 route add default via fd00::2 dev eth1");
        // As the variable of an empty setting has it.
        let found = uplink(Some("")).await.unwrap();
        assert!(found.name == "eth1" && found.up && found.xdp.is_empty(), "{found:?}");

        ip("address add 10.0.0.1/24 dev eth0");
        ip("route add unreachable default metric 10");
        ip("route add default metric 50 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.0.3 dev eth0");
        assert_eq!(uplink(None).await.unwrap().name, "eth0");
    });
}

#[test]
fn a_driver_tells_whether_it_runs_xdp() {
    in_namespace(async || {
        ip("link add eth0 type veth peer name eth1");
        ip("link add bridge type bridge");
        let interfaces = super::interfaces().await.unwrap();
        for (name, expected) in [("eth0", true), ("bridge", false)] {
            let interface = interfaces.iter().find(|it| it.name == name).unwrap();
            assert_eq!(runs_xdp(interface.index).unwrap(), expected, "{name}");
        }
        assert_eq!(runs_xdp(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    });
}

#[test]
fn a_link_local_address_that_nobody_has_is_added_to_lo_and_taken_from_it_alone() {
    in_namespace(async || {
        ip("link set lo up");
        ip("link add eth0 type veth peer name eth1");
        ip("address add 169.254.20.10/32 dev eth0");
        let wanted = ["169.254.20.10", "169.254.20.11", "10.0.0.1", "fe80::7", "0.0.0.0"];
        let wanted = || wanted.map(|ip| ip.parse::<IpAddr>().unwrap());
        let given = give_addresses(wanted()).await.unwrap();
        assert_eq!(given.into_iter().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["169.254.20.11"]);
        let shown = shown();
        assert!(shown.contains("inet 169.254.20.11/32 scope host lo:federation"), "{shown}");
        assert!(give_addresses(wanted()).await.unwrap().is_empty(), "it is there already");

        // Another agent answers elsewhere.
        let other: Ipv4Addr = "169.254.20.12".parse().unwrap();
        assert_eq!(give_addresses([other.into()]).await.unwrap().len(), 1);
        assert_eq!(own_addresses(&addresses().await.unwrap()).collect::<Vec<_>>(), [other]);

        // What a person has added there stays.
        ip("address add 169.254.20.13/32 dev lo");
        assert_eq!(take_addresses().await.unwrap(), [other]);
        assert!(take_addresses().await.unwrap().is_empty());
        let left = addresses().await.unwrap();
        for (address, is_left) in [("169.254.20.10", true), ("169.254.20.12", false), ("169.254.20.13", true)]
        {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(left.iter().any(|it| it.address == address), is_left, "{address}");
        }
    });
}

/// The addresses of `lo`, as a person sees them.
fn shown() -> String {
    let output = Command::new("ip").args(["address", "show", "dev", "lo"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a test on a thread in a new network namespace.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let node = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs to be root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` starts in the network namespace of the thread that calls it.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}
