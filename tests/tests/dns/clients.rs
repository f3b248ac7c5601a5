//! Real resolvers: the C libraries, and servers that forward to us.

use anyhow::{Context as _, Result, ensure};

use crate::world::{NAME, PATIENCE, in_world};

/// What a pod of `my-namespace` has, with the address of the cluster's DNS.
const RESOLV_CONF_OF_A_POD: &str = "nameserver 127.0.0.2\n\
    search my-namespace.svc.cluster.local svc.cluster.local cluster.local\n\
    options ndots:5\n";

/// Stands where a cluster has its DNS: `cluster.local` is its own, and the federation's names are asked of us. Letters of
/// questions have mixed cases, and answers must have the same.
const UNBOUND: &str = "
server:
    interface: 127.0.0.2
    access-control: 127.0.0.0/8 allow
    username: \"\"
    chroot: \"\"
    directory: \"/\"
    pidfile: \"\"
    use-syslog: no
    do-daemonize: no
    do-not-query-localhost: no
    module-config: iterator
    use-caps-for-id: yes
    local-zone: cluster.local. static
    local-data: \"kubernetes.default.svc.cluster.local. A 10.96.0.1\"
    local-zone: my-federation.svc.cluster.local. transparent
remote-control:
    control-enable: no
stub-zone:
    name: my-federation.svc.cluster.local.
    stub-addr: 127.0.0.1@53
stub-zone:
    name: my-federation.
    stub-addr: 127.0.0.1@53
stub-zone:
    name: clusterset.local.
    stub-addr: 127.0.0.1@53
forward-zone:
    name: example.com.
    forward-addr: 127.0.0.1@53
";

#[test]
fn programs_resolve_names_through_the_c_library() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;
        let name = NAME;

        for (resolver, database, expected) in [
            ("nameserver 127.0.0.1\n", "ahostsv4", "198.18.0.1"),
            ("nameserver 127.0.0.1\n", "hosts", "fd00:fed::1"),
            ("nameserver 127.0.0.1\noptions use-vc\n", "ahostsv4", "198.18.0.1"),
            // As in a pod: the name has few dots, so the search path comes first.
            ("nameserver 127.0.0.1\nsearch svc.cluster.local\noptions ndots:5\n", "ahostsv4", "198.18.0.1"),
        ] {
            let output = world.getent(resolver, database, name)?;
            let text = String::from_utf8_lossy(&output.stdout);
            let addresses: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
            assert!(!addresses.is_empty(), "{resolver}{database}: {output:?}");
            assert!(addresses.iter().all(|address| *address == expected), "{resolver}{database}: {text}");
        }
        Ok(())
    })
}

#[test]
fn a_pod_with_the_stock_resolv_conf_resolves_the_short_name() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;
        world.start_with_file("unbound", &["-d", "-c"], UNBOUND)?;
        let of_cluster = ["@127.0.0.2", "kubernetes.default.svc.cluster.local"];
        world
            .eventually_is(
                &of_cluster,
                "NOERROR",
                &["kubernetes.default.svc.cluster.local. 3600 IN A 10.96.0.1"],
            )
            .await?;

        let musl = world.lab.folder().join("look-up");
        let musl = musl.to_str().context("a path of ASCII")?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns/look_up.c");
        world.host.namespace().execute("musl-gcc", &["-static", "-o", musl, source])?;
        for program in [&["getent", "ahosts"][..], &[musl]] {
            for name in [
                NAME,
                // As pods of the same cluster write it, and absolute names.
                "my-service.my-namespace.my-federation.svc.cluster.local",
                "my-service.my-namespace.my-federation.",
                "my-service.my-namespace.svc.clusterset.local",
                "my-service.my-namespace.my-federation.svc.example.com",
                "my-service.my-namespace.my-federation.svc.europe-west1-d.europe-west1.example.com",
            ] {
                let output = world.look_up(RESOLV_CONF_OF_A_POD, &[program, &[name]].concat())?;
                let text = String::from_utf8_lossy(&output.stdout);
                ensure!(output.status.success(), "{program:?} {name}: {output:?}");
                assert!(text.contains("198.18.0."), "{program:?} {name}: {text}");
            }
            let missing = [program, &["other.my-namespace.my-federation"]].concat();
            assert!(!world.look_up(RESOLV_CONF_OF_A_POD, &missing)?.status.success(), "{missing:?}");
        }
        Ok(())
    })
}

#[test]
fn a_pod_asks_twice_for_the_short_name_and_once_for_long_ones() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;
        // Tells each question that it is asked.
        let unbound = UNBOUND.replace("server:\n", "server:\n    log-queries: yes\n    logfile: \"\"\n");
        let process = world.start_with_file("unbound", &["-d", "-c"], &unbound)?;
        world.eventually("missing.my-namespace.my-federation", "NXDOMAIN").await?;
        let answers = async || world.dig(&["@127.0.0.2", "my-federation", "SOA"]);
        world.lab.wait_for("unbound answers", PATIENCE, answers).await?;

        for (name, expected) in [
            // Two dots are fewer than five: the search path comes first, and its second suffix makes a name of ours.
            (
                NAME,
                &[
                    "my-service.my-namespace.my-federation.my-namespace.svc.cluster.local.",
                    "my-service.my-namespace.my-federation.svc.cluster.local.",
                ][..],
            ),
            (
                "my-service.my-namespace.my-federation.svc.example.com",
                &["my-service.my-namespace.my-federation.svc.example.com."],
            ),
        ] {
            let before = std::fs::read_to_string(process.log())?.len();
            ensure!(world.getent(RESOLV_CONF_OF_A_POD, "ahostsv4", name)?.status.success(), "{name}");
            let log = std::fs::read_to_string(process.log())?;
            let asked: Vec<_> = log[before..]
                .lines()
                .filter_map(|line| line.strip_suffix(" A IN")?.rsplit(' ').next())
                .map(str::to_ascii_lowercase)
                .collect();
            assert_eq!(asked, expected, "{name}");
        }
        Ok(())
    })
}

#[test]
fn dnsmasq_forwards_to_us() -> Result<()> {
    in_world(async |world| {
        world.serve().await?;
        let configuration = "
port=5302
listen-address=127.0.0.1
bind-interfaces
user=root
no-resolv
no-hosts
cache-size=1000
server=/my-federation/127.0.0.1#53
server=/example.com/127.0.0.1#53
server=/18.198.in-addr.arpa/127.0.0.1#53
";
        world.start_with_file("dnsmasq", &["--no-daemon", "--pid-file=", "-C"], configuration)?;
        for (name, record, expected) in [
            (NAME, "A", format!("{NAME}. 300 IN A 198.18.0.1")),
            (NAME, "AAAA", format!("{NAME}. 300 IN AAAA fd00:fed::1")),
            ("1.0.18.198.in-addr.arpa", "PTR", format!("1.0.18.198.in-addr.arpa. 300 IN PTR {NAME}.")),
        ] {
            world.eventually_is(&["-p", "5302", name, record], "NOERROR", &[&expected]).await?;
        }
        world.eventually_is(&["-p", "5302", "other.my-namespace.my-federation"], "NXDOMAIN", &[]).await
    })
}
