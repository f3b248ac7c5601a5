//! A first start of the program with nothing around it but the image's own files.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{Contents, Origin, origin::ask, root};

/// Unpacks the layer into an empty folder, and starts the program there. Takes root.
///
/// # Errors
/// It does not start, or is of another version than the image.
pub fn start(contents: &Contents, origin: &Origin, folder: &Path) -> Result<()> {
    tar::Archive::new(root::layer(contents, origin)?.as_slice())
        .unpack(folder)
        .with_context(|| format!("unpack the layer into {}", folder.display()))?;
    let program = format!("/{}", root::PROGRAM);
    let said = ask(Command::new("chroot").arg(folder).args([&program, "--version"]))
        .context("the program does not start where nothing but the image is")?;
    let expected = format!("{} {}", root::PROGRAM, origin.version);
    ensure!(said == expected, "the program calls itself {said:?}, and the image {expected:?}");
    Ok(())
}
