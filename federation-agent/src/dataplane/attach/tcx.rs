//! tc programs through links of tcx (kernel 6.6): after the programs of others, and swapped within their link.

use anyhow::Result;
use aya::programs::{
    LinkOrder, SchedClassifier,
    links::FdLink,
    tc::{SchedClassifierLink, TcAttachOptions},
};

use super::{Hook, TcMode, adopt, done, keep};
use crate::dataplane::pins::Pins;

pub(super) fn attach(
    loaded: &mut SchedClassifier,
    pins: &Pins,
    hook: Hook,
    interface: u32,
    name: &str,
) -> Result<()> {
    let path = pins.link(&hook.pin(TcMode::Tcx, interface));
    if let Some(link) = adopt(&path)? {
        let swapped = SchedClassifierLink::try_from(link).map_err(anyhow::Error::from).and_then(|link| {
            let id = loaded.attach_to_link(link)?;
            Ok(FdLink::try_from(loaded.take_link(id)?)?)
        });
        if done(swapped, &path)? {
            return Ok(());
        }
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = loaded.attach_with_options(name, hook.direction(), order)?;
    keep(FdLink::try_from(loaded.take_link(id)?)?, &path)
}
