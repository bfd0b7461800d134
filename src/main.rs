//! The `playhouse` command.

use clap::Parser;
use playhouse::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    playhouse::app::run(Cli::parse()).into()
}
