//! The commands that show a node's data plane. They read the pinned maps and need no running agent.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use federation_ebpf::{
    maps::{Affinity, BackendPlace, BackendState, Protocol},
    tcp::TcpState,
};

use super::table::Table;
use crate::dataplane::{
    self, LinkPin, Place,
    view::{Backend, Fill, Flow, Frontend, Socket, View},
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Where the node's maps and links are pinned
    #[arg(long, env = "FEDERATION_BPF_DIR", value_name = "DIR", default_value = dataplane::DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,
}

/// What is attached, how full the maps are, what became of packets.
pub(super) fn status(args: &Args) -> Result<()> {
    let view = View::open(&args.bpf_dir)?;
    let mut outcomes = Table::new(["OUTCOME", "PACKETS"]);
    for (outcome, packets) in view.outcomes()? {
        outcomes.row([format!("{outcome:?}"), packets.to_string()]);
    }
    print(&format!("{}\n{}\n{outcomes}", links(&view.links()?), fills(&view.fills()?)))
}

/// Every frontend with its backends.
pub(super) fn services(args: &Args) -> Result<()> {
    let view = View::open(&args.bpf_dir)?;
    print(&frontends(&view.frontends()?, &view.backends()?).to_string())
}

/// Every backend in the kernel.
pub(super) fn backends(args: &Args) -> Result<()> {
    print(&backend_table(&View::open(&args.bpf_dir)?.backends()?).to_string())
}

/// Every connection.
pub(super) fn flows(args: &Args) -> Result<()> {
    let view = View::open(&args.bpf_dir)?;
    print(&flow_table(&view.flows()?, &view.sockets()?).to_string())
}

/// A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => Ok(()),
    }
}

fn links(links: &[LinkPin]) -> Table {
    let mut table = Table::new(["PLACE", "NUMBER", "PROGRAM", "MODE"]);
    for link in links {
        let place = match link.place {
            Place::Interface(index) => dataplane::interface_name(index)
                .unwrap_or_else(|| "(not in this network namespace)".to_owned()),
            Place::Cgroup(_) => "(sockets of this node)".to_owned(),
        };
        table.row([place, link.place.to_string(), link.program.clone(), link.mode.to_string()]);
    }
    table
}

fn fills(fills: &[Fill]) -> Table {
    let mut table = Table::new(["MAP", "USED", "ROOM"]);
    for fill in fills {
        let used = fill.used.map_or_else(|| "-".to_owned(), |used| used.to_string());
        table.row([fill.map.to_owned(), used, fill.room.to_string()]);
    }
    table
}

fn frontends(frontends: &[Frontend], backends: &[Backend]) -> Table {
    let by_id: BTreeMap<_, _> = backends.iter().map(|backend| (backend.id, backend)).collect();
    let mut table = Table::new(["VIP", "PROTOCOL", "AFFINITY", "PACKETS", "BYTES", "FLOWS", "BACKENDS"]);
    for frontend in frontends {
        let slots: u32 = frontend.shares.iter().map(|(_, slots)| slots).sum();
        let shares: Vec<_> = frontend
            .shares
            .iter()
            .map(|(id, held)| {
                let percent = f64::from(*held) * 100.0 / f64::from(slots);
                match by_id.get(id) {
                    Some(backend) => format!("{} {percent:.0}%", backend.address),
                    None => format!("#{id} {percent:.0}%"),
                }
            })
            .collect();
        table.row([
            frontend.vip.to_string(),
            protocol(frontend.protocol).to_owned(),
            match frontend.affinity {
                Affinity::None => "-".to_owned(),
                Affinity::ClientIp => "ClientIP".to_owned(),
            },
            frontend.counter.packets.to_string(),
            frontend.counter.bytes.to_string(),
            frontend.counter.flows.to_string(),
            match frontend.protocol {
                Protocol::Icmp => "-".to_owned(),
                _ if shares.is_empty() => "(none)".to_owned(),
                _ => shares.join(", "),
            },
        ]);
    }
    table
}

fn backend_table(backends: &[Backend]) -> Table {
    let mut table = Table::new([
        "ID",
        "ADDRESS",
        "PROTOCOL",
        "STATE",
        "PLACE",
        "GENERATION",
        "PACKETS",
        "BYTES",
        "FLOWS",
    ]);
    for backend in backends {
        table.row([
            backend.id.to_string(),
            backend.address.to_string(),
            protocol(backend.protocol).to_owned(),
            match backend.state {
                BackendState::Unused => "Unused",
                BackendState::Active => "Active",
                BackendState::Draining => "Draining",
                BackendState::Dead => "Dead",
            }
            .to_owned(),
            match backend.place {
                BackendPlace::Remote => "remote",
                BackendPlace::Local => "local",
            }
            .to_owned(),
            backend.generation.to_string(),
            backend.counter.packets.to_string(),
            backend.counter.bytes.to_string(),
            backend.counter.flows.to_string(),
        ]);
    }
    table
}

fn flow_table(flows: &[Flow], sockets: &[Socket]) -> Table {
    let mut table = Table::new(["PROTOCOL", "CLIENT", "VIP", "BACKEND", "STATE", "IDLE", "NOTES"]);
    for flow in flows {
        table.row([
            protocol(flow.protocol).to_owned(),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.backend.to_string(),
            match flow.state {
                TcpState::None => "-",
                TcpState::Opening => "Opening",
                TcpState::Established => "Established",
                TcpState::Closing => "Closing",
            }
            .to_owned(),
            idle(flow.idle),
            notes(flow),
        ]);
    }
    for Socket { client, vip, backend, protocol: of } in sockets {
        let [client, vip, backend] = [client, vip, backend].map(SocketAddr::to_string);
        let unseen = || "-".to_owned();
        let note = "a socket of this node, whose packets are not seen".to_owned();
        table.row([protocol(*of).to_owned(), client, vip, backend, unseen(), unseen(), note]);
    }
    table
}

/// What is not so with most connections.
fn notes(flow: &Flow) -> String {
    let mut notes = Vec::new();
    if flow.hairpin {
        notes.push("to itself".to_owned());
    }
    if flow.client_port != flow.client.port() {
        notes.push(format!("client's port becomes {}", flow.client_port));
    }
    if !flow.answerable {
        notes.push("no entry for answers".to_owned());
    }
    notes.join(", ")
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
        Protocol::None => "none",
    }
}

fn idle(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use federation_ebpf::maps::Counter;

    use super::*;

    fn backend(id: u32, address: &str) -> Backend {
        Backend {
            id,
            generation: 1,
            address: address.parse().unwrap(),
            protocol: Protocol::Tcp,
            state: BackendState::Active,
            place: BackendPlace::Remote,
            counter: Counter::default(),
        }
    }

    #[test]
    fn a_service_shows_each_backend_with_its_share() {
        let frontend = Frontend {
            vip: "198.18.0.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            affinity: Affinity::None,
            shares: vec![(1, 150), (2, 50), (9, 50)],
            counter: Counter { packets: 3, bytes: 180, flows: 1 },
        };
        let empty =
            Frontend { vip: "198.18.0.2:80".parse().unwrap(), shares: Vec::new(), ..frontend.clone() };
        let table =
            frontends(&[frontend, empty], &[backend(1, "10.8.2.2:8080"), backend(2, "10.8.3.2:8080")])
                .to_string();
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[1].starts_with("198.18.0.1:80  TCP"), "{table}");
        assert!(lines[1].ends_with("10.8.2.2:8080 60%, 10.8.3.2:8080 20%, #9 20%"), "{table}");
        assert!(lines[2].ends_with("(none)"), "{table}");
    }

    #[test]
    fn a_connection_notes_what_is_unusual() {
        let usual = Flow {
            client: "[fd00:8::2]:40000".parse().unwrap(),
            vip: "[fd98::7]:80".parse().unwrap(),
            backend: "[fd00:9::2]:8080".parse().unwrap(),
            client_port: 40000,
            hairpin: false,
            protocol: Protocol::Tcp,
            state: TcpState::Established,
            idle: Duration::ZERO,
            answerable: true,
        };
        assert_eq!(notes(&usual), "");
        let unusual = Flow { client_port: 50000, hairpin: true, answerable: false, ..usual };
        assert_eq!(notes(&unusual), "to itself, client's port becomes 50000, no entry for answers");
    }

    #[test]
    fn idle_times_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m1s"), (7325, "2h2m")] {
            assert_eq!(idle(Duration::from_secs(seconds)), text);
        }
    }
}
