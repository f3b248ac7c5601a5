//! Whether an interface's driver runs XDP programs itself, as the kernel tells from 6.3 on (`netdev` of generic netlink,
//! Documentation/netlink/specs/netdev.yaml).

use std::io::{self, ErrorKind};

use rtnetlink::sys::{Socket, SocketAddr, constants::NETLINK_GENERIC};

/// Of `linux/genetlink.h`: the family that knows the others, its question, and the attributes of that.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Of `linux/netdev.h`, likewise.
const GET_DEVICE: u8 = 1;
const INTERFACE: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: programs and the verdicts that all of them may give.
const BASIC: u64 = 1;

/// Lengths of a message's and an attribute's header, and what attributes are aligned to.
const MESSAGE: usize = 20;
const ATTRIBUTE: usize = 4;

/// `NLM_F_REQUEST` and `NLMSG_ERROR` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;

/// # Errors
/// The kernel does not tell, or there is no such interface.
pub fn runs_xdp(interface: u32) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let answer = ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let family = find(&answer, FAMILY_ID).and_then(|value| Some(u16::from_ne_bytes(value.try_into().ok()?)));
    let family = family.ok_or(ErrorKind::InvalidData)?;
    let answer = ask(&socket, family, GET_DEVICE, INTERFACE, &interface.to_ne_bytes())?;
    let features =
        find(&answer, XDP_FEATURES).and_then(|value| Some(u64::from_ne_bytes(value.try_into().ok()?)));
    Ok(features.ok_or(ErrorKind::InvalidData)? & BASIC != 0)
}

/// Asks with one attribute, and takes the one message of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attribute: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let message = question(family, command, attribute, value)?;
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(ERROR) {
        let errno = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(errno.unwrap_or_default().saturating_neg()));
    }
    Ok(answer)
}

fn question(family: u16, command: u8, attribute: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let length = |bytes: usize| u16::try_from(bytes).map_err(|_| io::Error::from(ErrorKind::InvalidInput));
    let whole = MESSAGE + ATTRIBUTE + value.len().next_multiple_of(ATTRIBUTE);
    let mut message = Vec::with_capacity(whole);
    message.extend(u32::from(length(whole)?).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Neither number nor sender: there is one question at a time, and the kernel knows the socket.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(length(ATTRIBUTE + value.len())?.to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(whole, 0);
    Ok(message)
}

/// The value of the first attribute of this kind.
fn find(answer: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = answer.get(MESSAGE..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(rest.get(2..ATTRIBUTE)?.try_into().ok()?);
        if found == kind {
            return rest.get(ATTRIBUTE..length);
        }
        // An attribute is never shorter than its header.
        rest = rest.get(length.max(ATTRIBUTE).next_multiple_of(ATTRIBUTE)..)?;
    }
}
