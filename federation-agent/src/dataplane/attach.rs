//! Programs onto interfaces: through pinned links, which outlive the agent and let the next one swap the program.

use std::{fmt, fs, io, path::Path};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use nix::net::if_::if_indextoname;
use tracing::warn;

use super::pins::{LinkPin, Pins};

/// How a program sits on its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tcx,
    NativeXdp,
    GenericXdp,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Tcx, Self::NativeXdp, Self::GenericXdp];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.to_string() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::NativeXdp => "native_xdp",
            Self::GenericXdp => "generic_xdp",
        })
    }
}

/// Attaches the tc program `program` to an interface, or puts it into the link of the agent before.
///
/// # Errors
/// The interface does not exist, or the kernel refuses.
pub(super) fn tc(
    ebpf: &mut Ebpf,
    pins: &Pins,
    program: &str,
    direction: TcAttachType,
    interface: u32,
) -> Result<()> {
    let pin = LinkPin { program: program.to_owned(), mode: Mode::Tcx, interface };
    let path = pins.link(&pin);
    let loaded: &mut SchedClassifier =
        ebpf.program_mut(program).with_context(|| missing(program))?.try_into()?;
    if let Some(link) = adopt(&path)? {
        let swapped = SchedClassifierLink::try_from(link).map_err(anyhow::Error::from).and_then(|link| {
            let id = loaded.attach_to_link(link)?;
            Ok(FdLink::try_from(loaded.take_link(id)?)?)
        });
        if done(swapped, &path)? {
            return Ok(());
        }
    }
    let name = interface_name(interface)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = loaded
        .attach_with_options(&name, direction, order)
        .with_context(|| format!("attach {program} to {name}"))?;
    let link =
        FdLink::try_from(loaded.take_link(id)?).with_context(|| format!("link of {program} on {name}"))?;
    keep(link, &path)
}

/// Attaches the XDP program `program`: native where the driver can, else generic.
///
/// # Errors
/// The interface does not exist, or the kernel refuses either mode.
pub(super) fn xdp(ebpf: &mut Ebpf, pins: &Pins, program: &str, interface: u32) -> Result<Mode> {
    let name = interface_name(interface)?;
    let loaded: &mut Xdp = ebpf.program_mut(program).with_context(|| missing(program))?.try_into()?;
    let modes = [(Mode::NativeXdp, XdpMode::Driver), (Mode::GenericXdp, XdpMode::Skb)];
    for (mode, _) in modes {
        let path = pins.link(&LinkPin { program: program.to_owned(), mode, interface });
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
    for (mode, flags) in modes {
        match loaded.attach_to_if_index(interface, flags) {
            Ok(id) => {
                let link = FdLink::try_from(loaded.take_link(id)?)
                    .with_context(|| format!("link of {program} on {name}"))?;
                keep(link, &pins.link(&LinkPin { program: program.to_owned(), mode, interface }))?;
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
    Err(refusal).with_context(|| format!("attach {program} to {name}"))
}

/// The pinned link, if there is one.
fn adopt(path: &Path) -> Result<Option<FdLink>> {
    if !path.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(path).with_context(|| format!("open the link {}", path.display()))?;
    Ok(Some(FdLink::from(link)))
}

/// Whether the program is in the pinned link now. A link whose interface is gone takes none: its pin goes too.
fn done(swapped: Result<FdLink>, path: &Path) -> Result<bool> {
    match swapped {
        // The pin holds the link; this handle may close.
        Ok(_handle) => Ok(true),
        Err(error) => {
            warn!("the link {} is dead and is made anew: {error:#}", path.display());
            fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
            Ok(false)
        }
    }
}

fn keep(link: FdLink, path: &Path) -> Result<()> {
    link.pin(path).with_context(|| format!("pin the link {}", path.display()))?;
    Ok(())
}

/// Removes the pins of an interface; what was attached detaches.
pub(super) fn forget(pins: &Pins, interface: u32) -> Result<()> {
    for pin in pins.links()?.iter().filter(|pin| pin.interface == interface) {
        let path = pins.link(pin);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the pins of interfaces that went while no agent looked.
pub(super) fn forget_departed(pins: &Pins) -> Result<()> {
    for pin in pins.links()? {
        if if_indextoname(pin.interface).is_err() {
            forget(pins, pin.interface)?;
        }
    }
    Ok(())
}

fn interface_name(interface: u32) -> Result<String> {
    let name = if_indextoname(interface)
        .with_context(|| format!("there is no interface with the index {interface}"))?;
    name.into_string().with_context(|| format!("the name of the interface {interface} is not UTF-8"))
}

fn missing(program: &str) -> String {
    format!("the eBPF object has no program {program}; was the agent built with AYA_BUILD_SKIP?")
}
