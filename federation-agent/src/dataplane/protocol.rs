//! Transport protocols in the words of the maps and of the model.

use anyhow::{Context as _, Result};
use federation_ebpf::maps::Protocol;

use crate::model;

pub(super) fn kernel_protocol(protocol: model::Protocol) -> Protocol {
    match protocol {
        model::Protocol::Tcp => Protocol::Tcp,
        model::Protocol::Udp => Protocol::Udp,
        model::Protocol::Sctp => Protocol::Sctp,
    }
}

/// Nothing of what has no ports.
pub(super) fn transport(protocol: Protocol) -> Option<model::Protocol> {
    match protocol {
        Protocol::Tcp => Some(model::Protocol::Tcp),
        Protocol::Udp => Some(model::Protocol::Udp),
        Protocol::Sctp => Some(model::Protocol::Sctp),
        Protocol::None | Protocol::Icmp => None,
    }
}

/// # Errors
/// It has no ports, where a map holds what must have some.
pub(super) fn model_protocol(protocol: Protocol) -> Result<model::Protocol> {
    transport(protocol).with_context(|| {
        format!(
            "a pinned map holds the protocol {protocol:?} where none can be: it is damaged, remove it with \
             `federation-agent detach`"
        )
    })
}
