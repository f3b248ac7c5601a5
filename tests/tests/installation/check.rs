//! `federation-agent check` on a node that has everything, and on one that lacks a thing at a time.

use std::{fs, io, net::UdpSocket, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use federation_tests::lab::program;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::world::{CLUSTER, World, ZONE, said};

impl World {
    /// The findings by what was looked at, and whether the check passed. `setpriv` takes rights from it first.
    fn check(&self, more: &[&str], without: &[&str]) -> Result<(bool, Vec<Value>)> {
        findings(self.check_command(more, without)?)
    }

    fn check_command(&self, more: &[&str], without: &[&str]) -> Result<Command> {
        let mut command = self.node.namespace().command("setpriv");
        if !without.is_empty() {
            let names: Vec<_> = without.iter().map(|name| format!("-{name}")).collect();
            command.arg("--bounding-set").arg(names.join(","));
        }
        command.arg(program("federation-agent")?).arg("check");
        self.settle(&mut command)?;
        command.args(more);
        Ok(command)
    }
}

fn findings(mut command: Command) -> Result<(bool, Vec<Value>)> {
    let output = command.arg("--json").output()?;
    let rows = serde_json::from_slice(&output.stdout);
    let rows = rows.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.success(), rows))
}

/// As where a container's root file system is, and nothing is mounted for the agent.
fn make_var_read_only(command: &mut Command) {
    let remount = || -> io::Result<()> {
        let nothing = None::<&str>;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        Ok(mount(nothing, "/var", nothing, flags, nothing)?)
    };
    // SAFETY: between fork and exec only async-signal-safe calls may happen; this is a plain system call, whose short path
    // is copied to the stack.
    unsafe { command.pre_exec(remount) };
}

fn of<'a>(rows: &'a [Value], check: &str) -> Result<(&'a str, &'a str)> {
    let row = rows.iter().find(|row| row["check"] == check);
    let row = row.with_context(|| format!("no row {check} in {rows:?}"))?;
    Ok((row["result"].as_str().unwrap_or_default(), row["found"].as_str().unwrap_or_default()))
}

fn failed(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter(|row| row["result"] == "FAIL").filter_map(|row| row["check"].as_str()).collect()
}

#[tokio::test]
async fn a_node_that_has_everything_passes_before_and_beside_its_agent() -> Result<()> {
    let world = World::new().await?;
    world.give_kubeconfig()?;
    world.register_node(json!({ "topology.kubernetes.io/zone": ZONE })).await?;
    world.member.register(world.federation.api()).await?;
    let state = || -> Result<_> {
        Ok((
            world.loopback()?,
            world.node.namespace().execute("ip", &["-s", "link", "show", "dev", "eth0"]).map(drop)?,
        ))
    };
    let before = state()?;
    let (passed, rows) = world.check(&[], &[])?;
    assert!(passed, "{rows:#?}");
    assert!(rows.iter().all(|row| row["result"] == "pass"), "{rows:#?}");
    assert_eq!(
        of(&rows, "cluster")?.1,
        format!("{CLUSTER} is registered, of region europe-west1 and zones {ZONE}")
    );
    assert!(of(&rows, "DNS at 169.254.20.11:53")?.1.contains("adds it to lo"));
    assert_eq!(state()?, before);
    assert!(!world.pins.exists() && !world.state.exists(), "nothing was made");

    let agent = world.start_agent()?;
    world.probed("ready", None).await?;
    let (passed, rows) = world.check(&[], &[])?;
    assert!(passed, "{rows:#?}");
    assert!(of(&rows, "uplink")?.1.contains("an agent's program is there"), "{rows:#?}");
    assert_eq!(of(&rows, "DNS at 169.254.20.11:53")?.0, "skip");
    assert!(agent.ended()?.is_none());
    world.probed("live", None).await
}

#[tokio::test]
async fn each_thing_that_a_node_lacks_fails_in_a_row_of_its_own() -> Result<()> {
    let world = World::new().await?;
    world.give_kubeconfig()?;
    world.register_node(json!({ "topology.kubernetes.io/zone": ZONE })).await?;
    world.member.register(world.federation.api()).await?;
    let namespace = world.node.namespace();
    let fails = |more: &[&str], without: &[&str], expected: &[&str]| -> Result<()> {
        let (passed, rows) = world.check(more, without)?;
        assert_eq!(failed(&rows), expected, "{rows:#?}");
        assert!(!passed);
        Ok(())
    };

    namespace.set("ipv4/ip_forward", "0")?;
    namespace.set("ipv6/conf/all/forwarding", "0")?;
    fails(&[], &[], &["IPv4 forwarding", "IPv6 forwarding"])?;
    namespace.set("ipv4/ip_forward", "1")?;
    namespace.set("ipv6/conf/all/forwarding", "1")?;

    namespace.ip(["route add 198.18.4.0/24 dev eth0"])?;
    fails(&[], &[], &["VIP range 198.18.0.0/16"])?;
    namespace.ip(["route del 198.18.4.0/24 dev eth0", "address add fd98:18::7/128 dev lo nodad"])?;
    fails(&[], &[], &["VIP range fd98:18::/112"])?;
    namespace.ip(["address del fd98:18::7/128 dev lo"])?;
    fails(&["--vip-range", "10.8.0.0/16"], &[], &["VIP range 10.8.0.0/16"])?;

    fails(&["--uplink", "eth7"], &[], &["uplink"])?;
    fails(&["--bpf-dir", "/tmp/federation"], &[], &["BPF file system"])?;
    fails(&["--cgroup", "/tmp"], &[], &["cgroup v2"])?;
    let mut command = world.check_command(&["--state-dir", "/var/lib/federation"], &[])?;
    make_var_read_only(&mut command);
    let (passed, rows) = findings(command)?;
    assert_eq!((passed, failed(&rows)), (false, vec!["state folder"]), "{rows:#?}");
    fails(&["--zone", "mars-1"], &[], &["cluster"])?;
    fails(&["--node-name", "mars"], &[], &["node"])?;
    fails(&["--federation", "a..b"], &[], &["settings"])?;

    let taken = namespace.run(|| UdpSocket::bind("0.0.0.0:53"))??;
    fails(&[], &[], &["DNS at 169.254.20.11:53"])?;
    drop(taken);

    // As root in a pod that does not ask for them.
    fails(&[], &["net_raw"], &["capabilities"])?;
    fails(&[], &["sys_admin", "bpf"], &["capabilities", "programs"])?;
    fails(&[], &["sys_admin", "perfmon"], &["capabilities", "programs"])?;
    fails(&[], &["sys_admin", "net_admin"], &["capabilities", "programs", "attaching"])?;
    fails(&[], &["net_bind_service"], &["capabilities", "DNS at 169.254.20.11:53"])?;

    // What an agent waits for is warned of.
    fs::remove_file(&world.kubeconfig)?;
    let (passed, rows) = world.check(&[], &[])?;
    assert!(passed, "{rows:#?}");
    assert_eq!(of(&rows, "Federation API")?.0, "warn");
    assert_eq!(of(&rows, "cluster")?.0, "skip");
    Ok(())
}

#[tokio::test]
async fn a_person_who_tells_nothing_is_told_what_was_left_out() -> Result<()> {
    let world = World::new().await?;
    let output = world.command("check")?.arg("--state-dir").arg(&world.state).output()?;
    let table = said(&output)?;
    assert!(output.status.success(), "{table}");
    assert!(table.starts_with("CHECK"), "{table}");
    for (check, result) in [
        ("settings", "skip"),
        ("kernel", "pass"),
        ("programs", "pass"),
        ("uplink", "pass"),
        ("VIP range", "skip"),
        ("Federation API", "skip"),
        ("cluster", "skip"),
        ("node", "skip"),
        ("DNS", "skip"),
    ] {
        let is_row =
            |line: &&str| line.strip_prefix(check).is_some_and(|rest| rest.trim_start().starts_with(result));
        assert_eq!(table.lines().filter(is_row).count(), 1, "{check} {result}: {table}");
    }
    Ok(())
}
