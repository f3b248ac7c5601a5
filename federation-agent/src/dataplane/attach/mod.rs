//! Programs onto interfaces, so that they outlive the agent and the next one swaps them without a packet in between.
//!
//! A link goes with the process that holds it until it is pinned. Whoever had been served meanwhile would be lost if the
//! agent were killed in that moment (making a link takes a tenth of a second on a busy machine, most of it after packets
//! see its program): so a new link holds an idle program until it is pinned, and only then the one that serves.

mod cgroup;
mod clsact;
mod tcx;
mod xdp;

use std::{fmt, fs, io, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        Program, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use clap::ValueEnum;
use nix::net::if_::if_indextoname;
use tracing::warn;

use super::pins::{LinkPin, Pins, Place};

pub(super) use cgroup::attach as cgroup;
pub(super) use xdp::attach as xdp;

/// How a program sits where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tcx,
    Clsact,
    NativeXdp,
    GenericXdp,
    Cgroup,
}

impl Mode {
    const ALL: [Self; 5] = [Self::Tcx, Self::Clsact, Self::NativeXdp, Self::GenericXdp, Self::Cgroup];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.to_string() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::NativeXdp => "native_xdp",
            Self::GenericXdp => "generic_xdp",
            Self::Cgroup => "cgroup",
        })
    }
}

/// Which of the kernel's two ways to use for tc programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TcAttach {
    /// tcx where the kernel has it, which it has from 6.6 on, else clsact
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// The way that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcMode {
    Tcx,
    Clsact,
}

impl TcAttach {
    pub(super) fn choose(self) -> TcMode {
        match self {
            Self::Tcx => TcMode::Tcx,
            Self::Clsact => TcMode::Clsact,
            // Asked instead of guessed by the kernel's release: distributions bring features back. Every network namespace
            // has the interface lo.
            Self::Auto => match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
                Ok(_) => TcMode::Tcx,
                Err(_) => TcMode::Clsact,
            },
        }
    }
}

impl TcMode {
    fn pinned_as(self) -> Mode {
        match self {
            Self::Tcx => Mode::Tcx,
            Self::Clsact => Mode::Clsact,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Tcx => Self::Clsact,
            Self::Clsact => Self::Tcx,
        }
    }
}

/// A tc program with the place that it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    FromPod,
    ToPod,
    ToWire,
}

impl Hook {
    const ALL: [Self; 3] = [Self::FromPod, Self::ToPod, Self::ToWire];

    fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::ToWire => "to_wire",
        }
    }

    fn direction(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod | Self::ToWire => TcAttachType::Egress,
        }
    }

    fn pin(self, mode: TcMode, interface: u32) -> LinkPin {
        LinkPin {
            program: self.program().to_owned(),
            mode: mode.pinned_as(),
            place: Place::Interface(interface),
        }
    }
}

/// Attaches a tc program to an interface, or takes the place of the agent's before.
///
/// # Errors
/// The interface does not exist, or the kernel refuses.
pub(super) fn tc(ebpf: &mut Ebpf, pins: &Pins, hook: Hook, mode: TcMode, interface: u32) -> Result<()> {
    let name = known_interface(interface)?;
    match mode {
        TcMode::Tcx => tcx::attach(ebpf, pins, hook, interface, &name),
        TcMode::Clsact => clsact::attach(ebpf, pins, hook, interface, &name),
    }
    .with_context(|| format!("attach {} to {name} by {}", hook.program(), mode.pinned_as()))?;
    // An agent before this one may have used the other way. Both at once did no harm: the second finds nothing to do.
    detach(pins, hook, mode.other(), interface)
}

/// Detaches one program, if it is attached.
fn detach(pins: &Pins, hook: Hook, mode: TcMode, interface: u32) -> Result<()> {
    let path = pins.link(&hook.pin(mode, interface));
    if !path.exists() {
        return Ok(());
    }
    // With its interface a filter is gone too.
    if mode == TcMode::Clsact
        && let Some(name) = interface_name(interface)
    {
        clsact::detach(hook, &name).with_context(|| format!("detach {} from {name}", hook.program()))?;
    }
    remove(&path)
}

/// Detaches everything from an interface that is gone, or not to be served any more.
pub(super) fn forget(pins: &Pins, interface: u32) -> Result<()> {
    for hook in Hook::ALL {
        detach(pins, hook, TcMode::Tcx, interface)?;
        detach(pins, hook, TcMode::Clsact, interface)?;
    }
    xdp::forget(pins, interface)
}

/// Removes the pins of interfaces that went while no agent looked.
pub(super) fn forget_departed(pins: &Pins) -> Result<()> {
    let links = pins.links()?;
    let departed = links.iter().filter_map(LinkPin::interface).filter(|interface| !exists(*interface));
    departed.into_iter().try_for_each(|interface| forget(pins, interface))
}

/// Detaches what no vanishing pin detaches.
///
/// # Errors
/// It is attached in another network namespace.
pub(super) fn detach_filters(pins: &Pins) -> Result<()> {
    let links = pins.links()?;
    let filters: Vec<&LinkPin> = links.iter().filter(|pin| pin.mode == Mode::Clsact).collect();
    if !filters.is_empty() {
        pins.ensure_same_netns()?;
    }
    filters.into_iter().filter_map(LinkPin::interface).try_for_each(|interface| forget(pins, interface))
}

/// Whether the interface is (still) in this network namespace.
pub(super) fn exists(interface: u32) -> bool {
    interface_name(interface).is_some()
}

/// The pinned link, if there is one.
fn adopt(path: &Path) -> Result<Option<FdLink>> {
    if !path.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(path).with_context(|| format!("open the link {}", path.display()))?;
    Ok(Some(FdLink::from(link)))
}

/// Whether the program is in the pinned link now. A link whose interface or cgroup is gone takes none: its pin goes too.
fn done<T>(swapped: Result<T>, path: &Path) -> Result<bool> {
    match swapped {
        // The pin holds the link; this handle may close.
        Ok(_handle) => Ok(true),
        Err(error) => {
            warn!("the link {} is dead and is made anew: {error:#}", path.display());
            remove(path)?;
            Ok(false)
        }
    }
}

/// Pins a link, which goes on in the caller's hands.
fn keep(link: FdLink, path: &Path) -> Result<FdLink> {
    Ok(link.pin(path).with_context(|| format!("pin the link {}", path.display()))?.into())
}

/// The program is in a link that was just pinned, or the pin goes: a link that does nothing is not left behind.
fn serving(swapped: Result<FdLink>, path: &Path) -> Result<()> {
    swapped.map(drop).inspect_err(|_| {
        if let Err(error) = remove(path) {
            warn!("a link that does nothing stays pinned: {error:#}");
        }
    })
}

/// Removes a pin, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The name of an interface in this thread's network namespace, if it is there.
pub fn interface_name(interface: u32) -> Option<String> {
    // nix takes the null pointer of the C function for a success, with an empty name.
    let name = if_indextoname(interface).ok().filter(|name| !name.is_empty())?;
    Some(name.to_string_lossy().into_owned())
}

fn known_interface(interface: u32) -> Result<String> {
    interface_name(interface).with_context(|| format!("there is no interface with the index {interface}"))
}

/// A program of the object.
fn loaded<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let missing =
        || format!("the eBPF object has no program {name}; was the agent built with AYA_BUILD_SKIP?");
    Ok(ebpf.program_mut(name).with_context(missing)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_has_no_name() {
        assert_eq!(interface_name(1).as_deref(), Some("lo"));
        assert_eq!(interface_name(u32::MAX), None);
        assert!(!exists(u32::MAX));
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(&mode.to_string()), Some(mode));
        }
    }

    #[test]
    fn a_kernel_is_asked_only_when_nobody_has_chosen() {
        assert_eq!(TcAttach::Tcx.choose(), TcMode::Tcx);
        assert_eq!(TcAttach::Clsact.choose(), TcMode::Clsact);
    }
}
