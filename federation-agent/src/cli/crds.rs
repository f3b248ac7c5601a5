//! `federation-agent crds`: the definitions of our kinds, printed or written a file each.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;

use super::show;
use crate::api;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Write a file for each kind into this directory, instead of printing them all
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let definitions = api::definitions().context("make the definitions")?;
    let Some(dir) = &args.dir else {
        let documents: Vec<_> = definitions.into_iter().map(|definition| definition.yaml).collect();
        return show::print(&documents.join("---\n"));
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for definition in definitions {
        let path = dir.join(&definition.file_name);
        fs::write(&path, definition.yaml).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
