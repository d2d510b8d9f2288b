//! `containerd-hybrid-runtime`: the OCI runtime with runc's command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
