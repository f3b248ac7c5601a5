//! The XDP program onto the uplink: native where the driver can, else generic.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    programs::{ProgramError, Xdp, XdpMode, links::FdLink, xdp::XdpLink},
};
use tracing::warn;

use super::{Mode, adopt, done, keep, known_interface, loaded, remove, serving};
use crate::dataplane::pins::{LinkPin, Pins, Place};

const PROGRAM: &str = "edge";
const IDLE: &str = "idle_xdp";

/// In the order of preference.
const MODES: [(Mode, XdpMode); 2] = [(Mode::NativeXdp, XdpMode::Driver), (Mode::GenericXdp, XdpMode::Skb)];

/// # Errors
/// The interface does not exist, or the kernel refuses either mode.
pub(in crate::dataplane) fn attach(ebpf: &mut Ebpf, pins: &Pins, interface: u32) -> Result<Mode> {
    let name = known_interface(interface)?;
    for (mode, _) in MODES {
        let path = pins.link(&pin(mode, interface));
        if let Some(link) = adopt(&path)? {
            let swapped = swap(ebpf, link);
            if done(swapped, &path)? {
                return Ok(mode);
            }
        }
    }
    let (mode, link) = hold(ebpf, interface, &name)?;
    let path = pins.link(&pin(mode, interface));
    let link = keep(link, &path)?;
    serving(swap(ebpf, link), &path).with_context(|| format!("put {PROGRAM} on {name}"))?;
    Ok(mode)
}

/// A link that does nothing yet, in the best mode that the kernel does not refuse.
fn hold(ebpf: &mut Ebpf, interface: u32, name: &str) -> Result<(Mode, FdLink)> {
    let idle: &mut Xdp = loaded(ebpf, IDLE)?;
    let mut refusal: Option<ProgramError> = None;
    for (mode, flags) in MODES {
        match idle.attach_to_if_index(interface, flags) {
            Ok(id) => {
                if let Some(refusal) = refusal {
                    warn!(
                        interface = name,
                        "native XDP is refused, so generic it is, which is slower: {refusal}"
                    );
                }
                let link = FdLink::try_from(idle.take_link(id)?);
                return Ok((mode, link.with_context(|| format!("link on {name}"))?));
            }
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.map_or_else(|| anyhow!("no mode was tried"), anyhow::Error::from);
    Err(refusal).with_context(|| format!("attach {PROGRAM} to {name}"))
}

/// Puts the program into the link.
fn swap(ebpf: &mut Ebpf, link: FdLink) -> Result<FdLink> {
    let program: &mut Xdp = loaded(ebpf, PROGRAM)?;
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

/// Removes the pins of an interface; what was attached detaches.
pub(super) fn forget(pins: &Pins, interface: u32) -> Result<()> {
    MODES.into_iter().try_for_each(|(mode, _)| remove(&pins.link(&pin(mode, interface))))
}

fn pin(mode: Mode, interface: u32) -> LinkPin {
    LinkPin { program: PROGRAM.to_owned(), mode, place: Place::Interface(interface) }
}
