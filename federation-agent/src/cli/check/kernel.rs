//! The kernel's part: what programs take to be loaded, and whether they really load.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::{Args, capabilities, report::Row};
use crate::dataplane::{self, Lack};

pub(super) fn rows(args: &Args) -> Vec<Row> {
    vec![
        row("kernel", dataplane::kernel_release()),
        row("BTF", dataplane::btf()),
        row("BPF file system", dataplane::bpffs(&args.node.bpf_dir)),
        capabilities::row(&args.node.dns_listen),
        row("programs", dataplane::trial(&args.vip_ranges)),
        row("attaching", dataplane::tc_way(args.node.tc_attach)),
        cgroup(args.node.cgroup.as_deref()),
        state_folder(&args.node.state_dir),
    ]
}

fn row(what: &str, found: Result<String, Lack>) -> Row {
    match found {
        Ok(found) => Row::pass(what, found),
        Err(Lack { found, remedy }) => Row::fail(what, found, remedy),
    }
}

/// What only clients in the node's own network need.
fn cgroup(wanted: Option<&Path>) -> Row {
    const WHAT: &str = "cgroup v2";
    match dataplane::cgroup2(wanted) {
        Ok(found) => Row::pass(WHAT, format!("{}, for clients in this node's own network", found.display())),
        Err(Lack { found, remedy }) if wanted.is_some() => Row::fail(WHAT, found, remedy),
        Err(Lack { found, remedy }) => {
            Row::warn(WHAT, format!("{found}, so clients in this node's own network are not served"), remedy)
        }
    }
}

/// The folder, or the nearest parent that it would be made in, can be written.
fn state_folder(folder: &Path) -> Row {
    const WHAT: &str = "state folder";
    let Some(existing) = folder.ancestors().find(|dir| dir.exists()) else {
        return Row::fail(
            WHAT,
            format!("{} is not an absolute path", folder.display()),
            "give --state-dir one",
        );
    };
    let found = if existing == folder {
        format!("{} can be written", folder.display())
    } else {
        format!("{} is not there yet and can be made", folder.display())
    };
    if !existing.is_dir() {
        return Row::fail(
            WHAT,
            format!("{} is not a folder", existing.display()),
            "give another --state-dir",
        );
    }
    match access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Row::pass(WHAT, found),
        Err(error) => Row::fail(
            WHAT,
            format!("{} cannot be written ({})", existing.display(), error.desc()),
            format!("mount a folder of the node at {}, or give another --state-dir", folder.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::check::report::Verdict;

    #[test]
    fn a_state_folder_is_there_or_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for (folder, verdict) in [
            (dir.path().to_owned(), Verdict::Pass),
            (dir.path().join("a/b"), Verdict::Pass),
            (file.join("a"), Verdict::Fail),
            ("relative".into(), Verdict::Fail),
        ] {
            let row = state_folder(&folder);
            assert_eq!(row.result, verdict, "{row:?}");
        }
        assert!(!dir.path().join("a").exists(), "nothing was made");
    }
}
