//! The `playhouse` command.

use clap::Parser;
use playhouse::cli::Cli;
use playhouse::worker::guard;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(task) = guard::task_of_process() {
        // Nobody is left to be told of a failure.
        return guard::run(&task).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    playhouse::app::run(Cli::parse()).into()
}
