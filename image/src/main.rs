//! `image`: builds the agent's image and writes it; see the library's rooms. `cargo xtask image` starts it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

use federation_image::{Sources, build, verify, write};

#[derive(Parser)]
#[command(name = "image", about = "Build the container image of the agent")]
struct Arguments {
    /// The clone of the repository to build from
    #[arg(long, value_name = "DIR")]
    sources: PathBuf,
    /// The folder that cargo builds in
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Write the image into this folder
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Build the commit a second time, from nothing and in another folder, and see that it gives the same
    #[arg(long)]
    verify: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { sources, target, output, verify } = arguments;
    std::fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
    // Compilers are told these, and speak of nothing but canonical paths themselves.
    let canonical = |path: PathBuf| path.canonicalize().with_context(|| format!("find {}", path.display()));
    let sources = Sources { root: canonical(sources)?, target: canonical(target)? };
    let (image, contents) = build(&sources)?;
    let written = write(&image, &contents, &output)?;
    println!("image layout       {}", written.layout.display());
    println!("archive            {}", written.archive.display());
    println!("bill of materials  {}", written.bill.display());
    println!("digest             {}", image.digest());
    println!("size               {:.1} MB", image.size() as f64 / 1e6);
    if verify {
        verify::again(&sources, (&image, &contents), &sources.target.join("image-again"))?;
        println!("a second build, of the same commit in another folder, gives the same digest");
    }
    Ok(())
}
