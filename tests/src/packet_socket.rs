//! Sockets that see the packets of an interface, whoever they are for (packet(7)).

use std::{
    mem::size_of_val,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::errno::Errno;

/// Lets a packet socket see what passes at an interface, of one protocol (an `ETH_P_` of `linux/if_ether.h`).
///
/// # Errors
/// There is no such interface, or the socket is no packet socket.
pub fn bind(end: &OwnedFd, interface: &str, protocol: libc::c_int) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(interface).context("find the interface")?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::try_from(protocol)?.to_be(),
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address))?;
    // SAFETY: the pointer and the length are those of a whole link-layer address that outlives the call.
    let bound = unsafe { libc::bind(end.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(bound).context("bind to it")?;
    Ok(())
}
