//! tc programs through links of tcx (kernel 6.6): after the programs of others, and swapped within their link.

use anyhow::Result;
use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier,
        links::FdLink,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use super::{Hook, TcMode, adopt, done, keep, loaded, serving};
use crate::dataplane::pins::Pins;

const IDLE: &str = "idle_tc";

pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, hook: Hook, interface: u32, name: &str) -> Result<()> {
    let path = pins.link(&hook.pin(TcMode::Tcx, interface));
    if let Some(link) = adopt(&path)? {
        let swapped = swap(ebpf, hook, link);
        if done(swapped, &path)? {
            return Ok(());
        }
    }
    let idle: &mut SchedClassifier = loaded(ebpf, IDLE)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = idle.attach_with_options(name, hook.direction(), order)?;
    let link = keep(FdLink::try_from(idle.take_link(id)?)?, &path)?;
    serving(swap(ebpf, hook, link), &path)
}

/// Puts the program into the link.
fn swap(ebpf: &mut Ebpf, hook: Hook, link: FdLink) -> Result<FdLink> {
    let program: &mut SchedClassifier = loaded(ebpf, hook.program())?;
    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}
