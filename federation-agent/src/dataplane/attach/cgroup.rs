//! Programs onto a cgroup, for sockets of the node's own network.
//!
//! A new link serves before it is pinned, unlike those of interfaces: a socket that was told its backend keeps it,
//! whatever becomes of the link.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use libc::c_int;
use tracing::info;

use super::{Mode, done, keep, loaded, remove};
use crate::dataplane::{
    pins::{LinkPin, Pins, Place},
    syscall::{address, bpf},
};

/// Numbers of `enum bpf_cmd`.
const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_UPDATE: c_int = 29;

/// `bpf_attr` as far as `BPF_OBJ_GET` reads it.
#[repr(C)]
struct Get {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// `bpf_attr` as far as `BPF_LINK_UPDATE` reads it.
#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Answers first: who is told a backend must not be told of it.
const PROGRAMS: [&str; 8] =
    ["getpeername4", "getpeername6", "recvmsg4", "recvmsg6", "connect4", "connect6", "sendmsg4", "sendmsg6"];

/// Serves the processes below `cgroup`, and none below any other.
///
/// # Errors
/// It is no cgroup, or the kernel refuses.
pub(in crate::dataplane) fn attach(ebpf: &mut Ebpf, pins: &Pins, cgroup: Option<&Path>) -> Result<()> {
    let mut here = None;
    if let Some(path) = cgroup {
        let cgroup = File::open(path).with_context(|| format!("open the cgroup {}", path.display()))?;
        // The kernel's number for a cgroup is that of its folder (`cgroup_id`).
        let id = cgroup.metadata().with_context(|| format!("look at {}", path.display()))?.ino();
        for program in PROGRAMS {
            attach_one(ebpf, pins, program, &cgroup, id)
                .with_context(|| format!("attach {program} to the cgroup {}", path.display()))?;
        }
        info!(cgroup = %path.display(), "attached to the sockets of the node's own network");
        here = Some(Place::Cgroup(id));
    }
    for pin in pins.links()? {
        if matches!(pin.place, Place::Cgroup(_)) && Some(pin.place) != here {
            remove(&pins.link(&pin))?;
        }
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, pins: &Pins, name: &str, cgroup: &File, id: u64) -> Result<()> {
    let pin = LinkPin { program: name.to_owned(), mode: Mode::Cgroup, place: Place::Cgroup(id) };
    let path = pins.link(&pin);
    let program: &mut CgroupSockAddr = loaded(ebpf, name)?;
    if path.exists() && done(swap(program, &path), &path)? {
        return Ok(());
    }
    // A link lets others have theirs beside it in any case, and refuses to be told so.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    keep(FdLink::try_from(program.take_link(id)?)?, &path).map(drop)
}

/// Puts the program into the pinned link. aya does not, in links of this kind (kernel 5.7).
fn swap(program: &CgroupSockAddr, path: &Path) -> Result<()> {
    let link = open(path).with_context(|| format!("open the link {}", path.display()))?;
    let number = |descriptor: c_int| u32::try_from(descriptor).context("a descriptor that is none");
    let mut update = Update {
        link: number(link.as_raw_fd())?,
        program: number(program.fd()?.as_fd().as_raw_fd())?,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the command takes no address.
    unsafe { bpf(BPF_LINK_UPDATE, &mut update) }.context("swap the program of the link").map(drop)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get { path: address(path.as_ptr()), descriptor: 0, flags: 0 };
    // SAFETY: the path ends with a zero and lives until the call is over; what comes back is a descriptor of our own.
    unsafe { bpf(BPF_OBJ_GET, &mut get).map(|descriptor| OwnedFd::from_raw_fd(descriptor)) }
}
