//! Labs on this machine: list them, remove those that nobody owns, or hold an empty one.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use federation_tests::lab::{Lab, Owner, labs, remains, remove};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show every lab and who owns it
    List,
    /// Remove every lab whose owner has ended, kept ones too
    Down,
    /// Print everything that is named like a lab's but belongs to none that is owned or kept
    Remains,
    /// Start an empty lab, print its number and keep it until this process ends
    Hold,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::List => list(),
        Command::Down => down(),
        Command::Remains => {
            print!("{}", remains()?);
            Ok(())
        }
        Command::Hold => hold(),
    }
}

fn list() -> Result<()> {
    for lab in labs()? {
        let owner = match lab.owner {
            Owner::Process(id) => format!("owned by process {id}"),
            Owner::Kept => "kept".to_owned(),
            Owner::Nobody => "without an owner".to_owned(),
        };
        println!("lab {}: {owner}, files in {}", lab.id, lab.folder.display());
    }
    Ok(())
}

fn down() -> Result<()> {
    for lab in labs()? {
        match lab.owner {
            Owner::Process(id) => println!("lab {} is in use by process {id}: left alone", lab.id),
            Owner::Kept | Owner::Nobody if remove(lab.id)? => println!("removed lab {}", lab.id),
            Owner::Kept | Owner::Nobody => println!("lab {} has been removed by someone else", lab.id),
        }
    }
    Ok(())
}

fn hold() -> Result<()> {
    let lab = Lab::new()?;
    println!("{}", lab.id());
    // Whoever started this says when it is enough: by closing our input, or by ending us.
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of the input")?;
    Ok(())
}
