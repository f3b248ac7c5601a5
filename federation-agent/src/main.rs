//! `federation-agent`: see the library's rooms.

use std::process::ExitCode;

fn main() -> ExitCode {
    match federation_agent::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("federation-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
