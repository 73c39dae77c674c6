//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match mdt_sim::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mdt-sim: {e:#}");
            ExitCode::FAILURE
        }
    }
}
