//! One step of work that takes a while: say what it is, show that it goes on, and keep its output for when it fails.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, IsTerminal as _, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::machine;

/// Lines of the output that are shown when the step fails.
const TAIL: usize = 15;

/// How often a step that is not watched on a terminal says that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// How much of a line fits beside the step's name.
const WIDTH: usize = 70;

/// Runs `command`; on failure the error begins with `failure`, which should say what to do.
pub fn run(name: &str, command: &mut Command, failure: &str) -> Result<()> {
    let log = machine::target().join("setup.log");
    fs::create_dir_all(machine::target()).context("create the target folder")?;
    let mut file = File::options().create(true).append(true).open(&log).context("open the log")?;
    let start = Instant::now();
    let terminal = std::io::stdout().is_terminal();
    if !terminal {
        println!("  {name} ...");
    }

    let (output, input) = std::io::pipe().context("make a pipe")?;
    let errors = input.try_clone().context("share the pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(input)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("{failure}: {} cannot be started", command.get_program().display()))?;
    // Our ends of the pipe: reading would never come to an end while they are open.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut last = Vec::new();
    let mut said = Instant::now();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("read its output")?).trim().to_owned();
        writeln!(file, "{line}").context("write the log")?;
        let seconds = start.elapsed().as_secs();
        let short: String = line.chars().take(WIDTH).collect();
        if terminal {
            print!("\r\x1b[K  {name} ({seconds} s)  {short}");
            std::io::stdout().flush().context("write to the terminal")?;
        } else if said.elapsed() > SIGN_OF_LIFE {
            println!("  {name} goes on ({seconds} s): {short}");
            said = Instant::now();
        }
        if last.len() == TAIL {
            last.remove(0);
        }
        last.push(line);
    }
    let status = child.wait().context("wait for it")?;
    if terminal {
        print!("\r\x1b[K");
    }
    if !status.success() {
        eprintln!("{}", last.join("\n"));
        bail!("{failure} ({}; all of its output is in {})", status, log.display());
    }
    println!("  {name}: done in {} s", start.elapsed().as_secs());
    Ok(())
}
