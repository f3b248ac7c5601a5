//! The XDP program onto the uplink: native where the driver can, else generic.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    programs::{ProgramError, Xdp, XdpMode, links::FdLink, xdp::XdpLink},
};
use tracing::warn;

use super::{Mode, adopt, done, keep, known_interface, missing, remove};
use crate::dataplane::pins::{LinkPin, Pins};

const PROGRAM: &str = "edge";

/// In the order of preference.
const MODES: [(Mode, XdpMode); 2] = [(Mode::NativeXdp, XdpMode::Driver), (Mode::GenericXdp, XdpMode::Skb)];

/// # Errors
/// The interface does not exist, or the kernel refuses either mode.
pub(in crate::dataplane) fn attach(ebpf: &mut Ebpf, pins: &Pins, interface: u32) -> Result<Mode> {
    let name = known_interface(interface)?;
    let loaded: &mut Xdp = ebpf.program_mut(PROGRAM).with_context(|| missing(PROGRAM))?.try_into()?;
    for (mode, _) in MODES {
        let path = pins.link(&pin(mode, interface));
        if let Some(link) = adopt(&path)? {
            let swapped = XdpLink::try_from(link).map_err(anyhow::Error::from).and_then(|link| {
                let id = loaded.attach_to_link(link)?;
                Ok(FdLink::try_from(loaded.take_link(id)?)?)
            });
            if done(swapped, &path)? {
                return Ok(mode);
            }
        }
    }
    let mut refusal: Option<ProgramError> = None;
    for (mode, flags) in MODES {
        match loaded.attach_to_if_index(interface, flags) {
            Ok(id) => {
                let link = FdLink::try_from(loaded.take_link(id)?)
                    .with_context(|| format!("link of {PROGRAM} on {name}"))?;
                keep(link, &pins.link(&pin(mode, interface)))?;
                if let Some(refusal) = refusal {
                    warn!(
                        interface = name,
                        "native XDP is refused, so generic it is, which is slower: {refusal}"
                    );
                }
                return Ok(mode);
            }
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.map_or_else(|| anyhow!("no mode was tried"), anyhow::Error::from);
    Err(refusal).with_context(|| format!("attach {PROGRAM} to {name}"))
}

/// Removes the pins of an interface; what was attached detaches.
pub(super) fn forget(pins: &Pins, interface: u32) -> Result<()> {
    MODES.into_iter().try_for_each(|(mode, _)| remove(&pins.link(&pin(mode, interface))))
}

fn pin(mode: Mode, interface: u32) -> LinkPin {
    LinkPin { program: PROGRAM.to_owned(), mode, interface }
}
