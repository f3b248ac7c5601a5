//! The node's own network: which sockets are in it, and the cgroup that all processes are below.

use std::{
    hash::Hasher as _,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use federation_ebpf::maps::HostNetwork;
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, socket},
    statfs::{CGROUP2_SUPER_MAGIC, statfs},
};
use siphasher::sip::SipHasher24;

use super::prerequisites::Lack;

/// Where systems have cgroup v2: alone, or beside v1.
const CGROUP_DIRS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// No network at all.
pub(super) const NOBODY: HostNetwork = HostNetwork { cookie: 0, client: 0, reserved: 0 };

/// The network of this thread, as that of the node with this name.
///
/// # Errors
/// The kernel does not tell its number.
pub(super) fn network(node: &str) -> Result<HostNetwork> {
    let mut hasher = SipHasher24::new();
    hasher.write(node.as_bytes());
    let hash = hasher.finish();
    Ok(HostNetwork { cookie: netns_cookie()?, client: (hash >> 32) as u32, ..NOBODY })
}

/// The kernel's number for the network namespace of this thread.
fn netns_cookie() -> Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("open a socket to ask for its network namespace")?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the value is as large as is said, and lives until the call is over.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("ask a socket for its network namespace");
    }
    Ok(cookie)
}

/// The cgroup that all processes of the node are below: `wanted`, or where systems have it.
///
/// # Errors
/// It is not there.
pub fn cgroup2(wanted: Option<&Path>) -> Result<PathBuf, Lack> {
    let is_cgroup2 =
        |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    match wanted {
        Some(wanted) if is_cgroup2(wanted) => Ok(wanted.to_owned()),
        Some(wanted) => Err(Lack::new(
            format!("{} is no cgroup of version 2", wanted.display()),
            "give --cgroup the folder where the root of cgroup v2 is mounted",
        )),
        None => {
            let found = CGROUP_DIRS.map(Path::new).into_iter().find(|path| is_cgroup2(path));
            found.map(Path::to_owned).ok_or_else(|| {
                Lack::new(
                    format!("cgroup v2 is at none of {}", CGROUP_DIRS.join(", ")),
                    "mount it (`mount -t cgroup2 none DIR`) and give --cgroup that folder",
                )
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_a_number_and_nodes_are_different_clients() {
        let [one, other] = ["node-1", "node-2"].map(|node| network(node).unwrap());
        assert_ne!(one.cookie, NOBODY.cookie);
        assert_eq!(one.cookie, other.cookie);
        assert_ne!(one.client, other.client);
    }

    #[test]
    fn a_folder_elsewhere_is_no_cgroup() {
        let refusal = cgroup2(Some(Path::new("/tmp"))).unwrap_err().to_string();
        assert!(refusal.contains("/tmp") && refusal.contains("--cgroup"), "{refusal}");
    }
}
