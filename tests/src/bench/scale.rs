//! What the number of services costs: per packet nothing, and how long it takes to follow the federation.
//!
//! A packet of one connection is measured, to one service among so many others: what grows with the number of services
//! would be the work, and there is none that does. That many connections at once find less of themselves in the
//! processor's caches is so with any number of services, and not what is asked here.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use federation_agent::{
    model::{Protocol, ServiceKey},
    plan::{Backend, Frontend, Plan, ServicePlan, Target},
};
use federation_ebpf::outcome::Outcome;

use super::{
    Case, Measurement, Promise,
    yardstick::{self, FILL, Probe, Segment, Yardstick, tcp},
};

pub const GROUP: &str = "scale/";

/// Services, and the cases at that number.
const SIZES: [Size; 3] = [
    Size { services: 1, established: "scale/established/1_service", first: "scale/first/1_service" },
    Size {
        services: 1000,
        established: "scale/established/1000_services",
        first: "scale/first/1000_services",
    },
    Size {
        services: 10_000,
        established: "scale/established/10000_services",
        first: "scale/first/10000_services",
    },
];

const ENDPOINTS: u32 = 10;

/// A cost with one service, at most so many times as much with more.
const FLAT: Promise = Promise::RatioAtMost(1.1);
/// Seconds.
const LOAD: Promise = Promise::AtMost(2.0);
/// Milliseconds.
const CHANGE: Promise = Promise::AtMost(10.0);

/// Changes of one endpoint.
const CHANGES: usize = 30;

/// None of the backends' addresses, nor of those that `from_pod_first` makes up.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const VIPS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 16, 0, 1);

struct Size {
    services: u32,
    established: &'static str,
    first: &'static str,
}

/// Measures data planes of all sizes, in turns.
///
/// # Errors
/// The programs cannot be loaded here, or a plan not be applied.
pub fn measure() -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    let mut yardsticks = Vec::new();
    let mut load = None;
    for size in &SIZES {
        let mut yardstick = Yardstick::new(&format!("scale-{}", size.services))?;
        load = Some(yardstick.apply(&plan(size.services))?.as_secs_f64());
        yardsticks.push(yardstick);
    }
    measured.extend(packets(&yardsticks)?);

    let case = |name, unit, promise| Case { name, unit, against: None, promise: Some(promise) };
    let load = load.context("there is a largest size")?;
    measured.push(case("scale/load", "s", LOAD).alone(&[load])?);
    let (Some(largest), [.., size]) = (yardsticks.last_mut(), &SIZES) else { return Ok(measured) };
    measured.push(case("scale/endpoint_change", "ms", CHANGE).alone(&changes(largest, size.services)?)?);
    Ok(measured)
}

/// A packet of one connection to a service in the middle, in all sizes.
fn packets(yardsticks: &[Yardstick]) -> Result<Vec<Measurement>> {
    let client = SocketAddr::from((CLIENT, 40_000));
    let mut established = Vec::new();
    let mut first = Vec::new();
    for (size, yardstick) in SIZES.iter().zip(yardsticks.iter()) {
        let vip = vip(size.services / 2);
        let (syn, ack) = (tcp(client, vip, Segment::Syn)?, tcp(client, vip, Segment::Ack)?);
        for packet in [&syn, &ack] {
            yardstick.run("from_pod", packet, 1)?;
        }
        established.push(probe("from_pod_restored", "empty_restored", ack, Outcome::Forwarded));
        first.push(probe("from_pod_first", "empty_first", syn, Outcome::Opened));
    }
    let mut measured = compared(yardsticks, &established, |size| size.established)?;
    for (yardstick, probe) in yardsticks.iter().zip(&first) {
        yardstick.run(probe.program, &probe.packet, FILL)?;
    }
    measured.extend(compared(yardsticks, &first, |size| size.first)?);
    Ok(measured)
}

fn probe(program: &'static str, empty: &'static str, packet: Vec<u8>, outcome: Outcome) -> Probe {
    Probe { program, empty, packet, outcome: Some(outcome) }
}

/// One probe a yardstick; all but the first against the first.
fn compared(
    yardsticks: &[Yardstick],
    probes: &[Probe],
    name: impl Fn(&Size) -> &'static str,
) -> Result<Vec<Measurement>> {
    let probes: Vec<_> = yardsticks.iter().zip(probes).collect();
    let all = yardstick::in_turns(&probes)?;
    let [least, more @ ..] = &all[..] else { anyhow::bail!("nothing to be measured") };
    let [one, others @ ..] = &SIZES;
    let alone = Case { name: name(one), unit: "ns", against: None, promise: None };
    let mut measured = vec![alone.alone(&least.over)?];
    for (size, samples) in others.iter().zip(more) {
        let case = Case { name: name(size), unit: "ns", against: Some(name(one)), promise: Some(FLAT) };
        measured.push(case.beside(&samples.over, &least.over)?);
    }
    Ok(measured)
}

/// Milliseconds from a plan in which one endpoint has gone, or come back, to the maps that say so.
fn changes(yardstick: &mut Yardstick, services: u32) -> Result<Vec<f64>> {
    let whole = plan(services);
    let mut without = whole.clone();
    let (key, service) = whole.services.iter().nth(services as usize / 2).context("there are services")?;
    let mut service = ServicePlan::clone(service);
    let target = service.frontends.values_mut().next().context("there is a frontend")?;
    Arc::make_mut(target).backends.pop_first();
    without.services.insert(key.clone(), service.into());
    (0..CHANGES)
        .map(|turn| {
            let plan = if turn % 2 == 0 { &without } else { &whole };
            Ok(yardstick.apply(plan)?.as_secs_f64() * 1e3)
        })
        .collect()
}

fn vip(service: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(VIPS.to_bits() + service), 80).into()
}

fn plan(services: u32) -> Plan {
    let services = (0..services).map(|service| {
        let backends = (0..ENDPOINTS).map(|endpoint| {
            let address = Ipv4Addr::from_bits(BACKENDS.to_bits() + service * ENDPOINTS + endpoint);
            let backend = Backend {
                address: (address, 8080).into(),
                protocol: Protocol::Tcp,
                cluster: "europe-west1-d".into(),
                local: false,
            };
            (backend, 100)
        });
        let target = Target::of(backends);
        let vip = vip(service);
        let frontend = Frontend { vip: vip.ip(), protocol: Protocol::Tcp, port: vip.port() };
        let plan = ServicePlan { frontends: [(frontend, Arc::new(target))].into(), dead: [].into() };
        (ServiceKey::new("my-namespace", format!("service-{service}")), plan)
    });
    services.collect()
}
