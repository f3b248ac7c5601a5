//! The backbone: one router that every host is linked to, and the links' far ends, where power is cut.

use std::{
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use super::{Core, LabId, Namespace, program};

/// The links' own addresses: 172.31.0.0/16, two a link.
const LINKS: [u8; 2] = [172, 31];

/// The metric of routes that swallow packets for hosts without power: worse than any other.
const SILENCE: u32 = 4000;

pub(super) struct Backbone {
    namespace: Namespace,
    next_link: AtomicU16,
}

/// What joins a host's `eth0` to the backbone.
pub(super) struct Link {
    backbone: Namespace,
    /// The interface on the backbone's side.
    far_end: String,
    address: Ipv4Addr,
    routes: Mutex<Vec<Ipv4Net>>,
}

// === impl Backbone ===

impl Backbone {
    pub fn new(lab: LabId) -> Result<Self> {
        let namespace = Namespace::create(&format!("{}backbone", lab.prefix()))?;
        namespace.set("ipv4/ip_forward", "1")?;
        Ok(Self { namespace, next_link: AtomicU16::new(0) })
    }
}

// === impl Link ===

impl Link {
    /// Joins `host` to the backbone; each direction takes `delay` longer than the machine needs.
    pub fn new(core: &Core, name: &str, host: &Namespace, delay: Option<Duration>) -> Result<Self> {
        let backbone = core.backbone.namespace.clone();
        let number = core.backbone.next_link.fetch_add(1, Ordering::Relaxed);
        let [high, low] = (number * 2).to_be_bytes();
        let gateway = Ipv4Addr::new(LINKS[0], LINKS[1], high, low);
        let address = Ipv4Addr::new(LINKS[0], LINKS[1], high, low + 1);
        let far_end = format!("link{number}");

        match delay {
            None => {
                let host = host.name();
                backbone.ip([format!("link add {far_end} type veth peer name eth0 netns {host}")])?;
            }
            Some(delay) => lay_wire(core, name, host, &far_end, delay)?,
        }
        backbone.ip([
            format!("address add {gateway}/31 dev {far_end}"),
            format!("link set {far_end} up"),
            format!("route add blackhole {gateway}/31 metric {SILENCE}"),
        ])?;
        host.ip([
            format!("address add {address}/31 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {gateway}"),
        ])?;
        Ok(Self { backbone, far_end, address, routes: Mutex::default() })
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The backbone sends packets for `range` over this link from now on.
    pub fn announce(&self, range: Ipv4Net) -> Result<()> {
        self.backbone.ip([self.route(range), format!("route replace blackhole {range} metric {SILENCE}")])?;
        self.routes.lock().expect("no holder of the routes panics").push(range);
        Ok(())
    }

    /// Takes the far end down: no FIN, no RST, no ICMP, just silence.
    pub fn cut(&self) -> Result<()> {
        // The kernel drops the routes over the link with it; what remains is the blackhole under each.
        self.backbone.ip([format!("link set {} down", self.far_end)])
    }

    pub fn restore(&self) -> Result<()> {
        let mut lines = vec![format!("link set {} up", self.far_end)];
        let routes = self.routes.lock().expect("no holder of the routes panics");
        lines.extend(routes.iter().map(|range| self.route(*range)));
        self.backbone.ip(lines)
    }

    fn route(&self, range: Ipv4Net) -> String {
        format!("route replace {range} via {} dev {}", self.address, self.far_end)
    }
}

/// A delay line between `eth0` of the host and the backbone, in a namespace of its own.
fn lay_wire(core: &Core, name: &str, host: &Namespace, far_end: &str, delay: Duration) -> Result<()> {
    let middle = Namespace::create(&format!("{}{name}-wire", core.id.prefix()))?;
    middle.ip([
        format!("link add near type veth peer name eth0 netns {}", host.name()),
        format!("link add far type veth peer name {far_end} netns {}", core.backbone.namespace.name()),
        "link set near up".to_owned(),
        "link set far up".to_owned(),
    ])?;
    let mut command = middle.command(program("wire")?);
    command.args(["near", "far", &delay.as_micros().to_string()]);
    core.spawn(&format!("{name}-wire"), command).map(drop).context("start the delay line")
}
