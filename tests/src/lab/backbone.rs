//! The backbone: one router that every host is linked to, and the links' far ends, where power is cut.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;

use super::{
    Core, LabId, Namespace,
    addresses::{self, Addresses, LEAF, ROUTER},
    program, xdp,
};

/// The metric of routes that swallow packets for hosts without power: worse than any other.
const SILENCE: u32 = 4000;

/// Below this the kernel takes IPv6 away from an interface (RFC 8200 section 5).
const SMALLEST_MTU: u32 = 1280;

pub(super) struct Backbone {
    namespace: Namespace,
    next_link: AtomicU16,
}

/// What joins a host's `eth0` to the backbone.
pub(super) struct Link {
    backbone: Namespace,
    /// The interface on the backbone's side.
    far_end: String,
    host: Namespace,
    /// Where a link with a delay is interrupted.
    middle: Option<Namespace>,
    addresses: Addresses,
    routes: Mutex<Vec<IpNet>>,
}

// === impl Backbone ===

impl Backbone {
    pub fn new(lab: LabId) -> Result<Self> {
        let namespace = Namespace::create(&format!("{}backbone", lab.prefix()))?;
        namespace.forward()?;
        // A link that goes down would lose its IPv6 addresses, and only those.
        namespace.set("ipv6/conf/all/keep_addr_on_down", "1")?;
        Ok(Self { namespace, next_link: AtomicU16::new(0) })
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

// === impl Link ===

impl Link {
    /// Joins `host` to the backbone; each direction takes `delay` longer than the machine needs.
    pub fn new(core: &Core, name: &str, host: &Namespace, delay: Option<Duration>) -> Result<Self> {
        let backbone = core.backbone.namespace.clone();
        let number = core.backbone.next_link.fetch_add(1, Ordering::Relaxed);
        let [gateway, addresses] = addresses::link(number)?;
        let far_end = format!("link{number}");

        let middle = match delay {
            None => {
                let host = host.name();
                backbone.ip([format!("link add {far_end} type veth peer name eth0 netns {host}")])?;
                None
            }
            Some(delay) => Some(lay_wire(core, name, host, &far_end, delay)?),
        };
        backbone.ip([
            format!("address add {}/31 dev {far_end}", gateway.v4),
            format!("address add {}/127 dev {far_end} nodad", gateway.v6),
            format!("address add {ROUTER}/64 dev {far_end} nodad"),
            format!("link set {far_end} up"),
            format!("route add blackhole {}/31 metric {SILENCE}", gateway.v4),
            format!("route add blackhole {}/127 metric {SILENCE}", gateway.v6),
        ])?;
        host.ip([
            format!("address add {}/31 dev eth0", addresses.v4),
            format!("address add {}/127 dev eth0 nodad", addresses.v6),
            format!("address add {LEAF}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", gateway.v4),
            format!("route add default via {}", gateway.v6),
        ])?;
        backbone.notice_carrier([far_end.as_str()])?;
        backbone.settle([far_end.as_str()])?;
        host.settle(["eth0"])?;
        Ok(Self { backbone, far_end, host: host.clone(), middle, addresses, routes: Mutex::default() })
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The backbone sends packets for `range` over this link from now on.
    pub fn announce(&self, range: IpNet) -> Result<()> {
        self.backbone.ip([self.route(range), format!("route replace blackhole {range} metric {SILENCE}")])?;
        self.routes.lock().expect("no holder of the routes panics").push(range);
        Ok(())
    }

    /// Takes the far end down: no FIN, no RST, no ICMP, just silence.
    pub fn cut(&self) -> Result<()> {
        self.backbone.ip([self.line_for_cut()])
    }

    /// What `ip` is told for a cut.
    pub fn line_for_cut(&self) -> String {
        // The kernel drops the routes over the link with it; what remains is the blackhole under each.
        format!("link set {} down", self.far_end)
    }

    /// The interface on the backbone's side.
    pub fn far_end(&self) -> &str {
        &self.far_end
    }

    pub fn restore(&self) -> Result<()> {
        let mut lines = vec![format!("link set {} up", self.far_end)];
        // Link-local addresses are not kept.
        lines.push(format!("address replace {ROUTER}/64 dev {} nodad", self.far_end));
        let routes = self.routes.lock().expect("no holder of the routes panics");
        lines.extend(routes.iter().map(|range| self.route(*range)));
        self.backbone.ip(lines)?;
        self.backbone.settle([self.far_end.as_str()])?;
        self.host.notice_carrier(["eth0"])
    }

    /// Sets what the link carries at most, at all of its ends: a veth that is sent more than it may send itself drops it
    /// without a word.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        check_mtu(mtu)?;
        if let Some(middle) = &self.middle {
            middle.ip(["near", "far"].map(|end| format!("link set {end} mtu {mtu}")))?;
        }
        self.backbone.ip([format!("link set {} mtu {mtu}", self.far_end)])?;
        self.host.ip([format!("link set eth0 mtu {mtu}")])
    }

    /// Takes the frames that the host's XDP programs send back (`XDP_TX`). A veth wakes its peer for them only if that runs a
    /// program too (`veth_xdp_flush` in drivers/net/veth.c): GRO there makes the ring that they wait in, but nobody
    /// looks into it.
    ///
    /// Not for every link, since segmentation offload towards such an end is off.
    pub fn accept_reflected(&self, pins: &Path) -> Result<()> {
        let (namespace, peer) =
            self.middle.as_ref().map_or((&self.backbone, self.far_end.as_str()), |middle| (middle, "near"));
        xdp::attach(namespace, peer, &xdp::PASS, pins)
    }

    fn route(&self, range: IpNet) -> String {
        let gateway: IpAddr = match range {
            IpNet::V4(_) => self.addresses.v4.into(),
            IpNet::V6(_) => self.addresses.v6.into(),
        };
        format!("route replace {range} via {gateway} dev {}", self.far_end)
    }
}

/// Whether both families fit through a link of this size.
pub(super) fn check_mtu(mtu: u32) -> Result<()> {
    ensure!(mtu >= SMALLEST_MTU, "an MTU of {mtu} carries no IPv6: {SMALLEST_MTU} is the smallest that does");
    Ok(())
}

/// A delay line between `eth0` of the host and the backbone, in a namespace of its own.
fn lay_wire(core: &Core, name: &str, host: &Namespace, far_end: &str, delay: Duration) -> Result<Namespace> {
    let middle = Namespace::create(&format!("{}{name}-wire", core.id.prefix()))?;
    middle.ip([
        format!("link add near type veth peer name eth0 netns {}", host.name()),
        format!("link add far type veth peer name {far_end} netns {}", core.backbone.namespace.name()),
        "link set near up".to_owned(),
        "link set far up".to_owned(),
    ])?;
    let mut command = middle.command(program("wire")?);
    command.args(["near", "far", &delay.as_micros().to_string()]);
    core.spawn(&format!("{name}-wire"), command).context("start the delay line")?;
    Ok(middle)
}
