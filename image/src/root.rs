//! The file system of the image: the program, its bill of materials, and folders to mount on. A root that is read-only
//! has nobody who could make those later.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::Origin;

/// The program, where every command of a container begins.
pub const PROGRAM: &str = "federation-agent";

/// The bill of materials, below a name by which scanners of images find it.
pub const BILL: &str = "usr/share/doc/federation-agent/federation-agent.spdx.json";

/// Folders, with their modes. What they are for, where it is not said by their name:
/// `etc/federation` has the kubeconfig, `var/lib/federation` what an agent remembers.
pub const FOLDERS: [(&str, u32); 14] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/federation", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/share", 0o755),
    ("usr/share/doc", 0o755),
    ("usr/share/doc/federation-agent", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/lib/federation", 0o755),
];

/// What is in the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    pub program: Vec<u8>,
    pub bill: Vec<u8>,
}

/// The one layer of the image, an archive of the POSIX format: entries in the order of their names, all of root, all of
/// one time.
pub fn layer(contents: &Contents, origin: &Origin) -> Result<Vec<u8>> {
    let folders = FOLDERS.map(|(path, mode)| (path, mode, None));
    let files =
        [(PROGRAM, 0o755, Some(contents.program.as_slice())), (BILL, 0o644, Some(contents.bill.as_slice()))];
    let mut entries: Vec<_> = folders.into_iter().chain(files).collect();
    entries.sort_unstable_by_key(|(path, ..)| *path);
    let mut archive = Builder::new(Vec::new());
    for (path, mode, content) in entries {
        append(&mut archive, path, mode, content, origin.epoch).with_context(|| format!("pack /{path}"))?;
    }
    archive.into_inner().context("end the layer")
}

/// Adds a file, or without content a folder, to an archive.
pub fn append(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    content: Option<&[u8]>,
    time: u64,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(if content.is_some() { EntryType::Regular } else { EntryType::Directory });
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    let content = content.unwrap_or_default();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

/// Compresses without the name and the time that gzip would note.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(bytes).and_then(|()| gzip.finish()).context("compress the layer")
}
