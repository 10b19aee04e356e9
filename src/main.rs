//! The `edge` binary: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge::cli::run(std::env::args_os())
}
