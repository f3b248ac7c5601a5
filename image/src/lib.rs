//! The container image of the agent, made without a container engine: one static program, its bill of materials, and
//! the OCI image layout around both. Nothing of the time and the folder of a build is in it.
//!
//! [`origin`] says what the image is made from, [`program`] builds, [`bill`] lists what went in. [`root`] lays out the
//! image's files, where `trial` starts the program; [`layout`] wraps them up as tools expect, and [`verify`] does all of
//! it twice.

pub mod bill;
pub mod layout;
pub mod origin;
pub mod program;
pub mod root;
mod tree;
mod trial;
pub mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

pub use self::{layout::Image, origin::Origin, program::Sources, root::Contents};

/// What everyone calls the image; its tag is the version.
pub const NAME: &str = "federation-agent";

/// The folder of the image layout, in the folder that everything is written to.
pub const LAYOUT: &str = "oci";

/// Builds the program from these sources, and the image from that. Slow: nothing of a development build serves.
pub fn build(sources: &Sources) -> Result<(Image, Contents)> {
    let origin = Origin::of(&sources.root)?;
    let program = program::build(sources)?;
    let bill = bill::draw_up(sources, &origin, &program)?;
    let contents = Contents { program, bill };
    let folder = tempfile::tempdir().context("make a folder")?;
    trial::start(&contents, &origin, folder.path())?;
    let image = Image::pack(&contents, &origin)?;
    Ok((image, contents))
}

/// The files that were written.
pub struct Written {
    pub layout: PathBuf,
    pub archive: PathBuf,
    pub bill: PathBuf,
}

/// Writes an image into a folder: the layout, the same as one archive, and the bill of materials.
pub fn write(image: &Image, contents: &Contents, folder: &Path) -> Result<Written> {
    let stem = format!("{NAME}-{}", image.version());
    let written = Written {
        layout: folder.join(LAYOUT),
        archive: folder.join(format!("{stem}.tar")),
        bill: folder.join(format!("{stem}.spdx.json")),
    };
    image.write_layout(&written.layout)?;
    image.write_archive(&written.archive)?;
    fs::write(&written.bill, &contents.bill).with_context(|| format!("write {}", written.bill.display()))?;
    Ok(written)
}
