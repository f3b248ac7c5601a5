//! tc programs as filters of the clsact qdisc, for kernels before tcx (6.6).
//!
//! The kernel finds a filter by its interface, direction, priority and handle. Ours are always the same, so that an agent
//! replaces the filter of the one before in place (`cls_bpf_change` swaps it under RCU: no packet passes between the
//! two) and never touches another's. There is no link to pin: the program is pinned in the link's place, before there
//! is a filter and until there is none, so that whoever finds the pin knows what to remove.
//!
//! The qdisc stays when the last filter goes: it costs nothing, and others may have come to use it.

use std::{fs, mem};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        Link as _, ProgramError, SchedClassifier,
        tc::{
            NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
            qdisc_add_clsact,
        },
    },
};

use super::{Hook, TcMode, loaded, remove};
use crate::dataplane::pins::Pins;

/// Ahead of what has no priority of its own (49152 and less, as the kernel gives them out), behind who wants to be first.
const PRIORITY: u16 = 4077;
const HANDLE: TcHandle = TcHandle::new(0, 1);

pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, hook: Hook, interface: u32, name: &str) -> Result<()> {
    let program: &mut SchedClassifier = loaded(ebpf, hook.program())?;
    let path = pins.link(&hook.pin(TcMode::Clsact, interface));
    let is_new = !path.exists();
    let staged = pins.staging();
    remove(&staged)?;
    program.pin(&staged).with_context(|| format!("pin {}", staged.display()))?;
    fs::rename(&staged, &path).with_context(|| format!("pin {}", path.display()))?;
    let attached = add_qdisc(name).and_then(|()| replace_or_add(program, hook, name));
    if attached.is_err() && is_new {
        remove(&path)?;
    }
    attached
}

/// Removes our filter, if it is there.
pub(super) fn detach(hook: Hook, name: &str) -> Result<()> {
    match filter(hook, name)?.detach() {
        Err(error) if is(&error, libc::ENOENT) || is(&error, libc::EINVAL) => {
            // ENOENT: there is no such filter. EINVAL: there is not even a qdisc.
            Ok(())
        }
        result => Ok(result?),
    }
}

fn add_qdisc(name: &str) -> Result<()> {
    match qdisc_add_clsact(name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.context("add the clsact qdisc"),
    }
}

fn replace_or_add(program: &mut SchedClassifier, hook: Hook, name: &str) -> Result<()> {
    let replaced = match program.attach_to_link(filter(hook, name)?) {
        Err(error) if is(&error, libc::ENOENT) => None,
        result => Some(result?),
    };
    let id = match replaced {
        Some(id) => id,
        None => add(program, hook, name)?,
    };
    // Dropped, it would detach; it holds nothing else.
    mem::forget(program.take_link(id)?);
    Ok(())
}

fn add(program: &mut SchedClassifier, hook: Hook, name: &str) -> Result<SchedClassifierLinkId> {
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    Ok(program.attach_with_options(name, hook.direction(), TcAttachOptions::Netlink(options))?)
}

/// Our filter, whether it is there or not.
fn filter(hook: Hook, name: &str) -> Result<SchedClassifierLink> {
    SchedClassifierLink::attached(name, hook.direction(), PRIORITY, HANDLE, None)
        .with_context(|| format!("look for the interface {name}"))
}

fn is(error: &ProgramError, number: i32) -> bool {
    match error {
        ProgramError::TcError(TcError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            error.raw_os_error() == Some(number)
        }
        _ => false,
    }
}
