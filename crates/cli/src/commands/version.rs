//! `hostler version`.

use std::process::ExitCode;

use clap::Args;

use crate::error::CliError;

/// Print the version of this program
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler version")]
pub(crate) struct Version {}

impl Version {
    #[expect(clippy::print_stdout, reason = "the answer")]
    pub(crate) fn run(&self) -> Result<ExitCode, CliError> {
        println!("hostler {}", env!("CARGO_PKG_VERSION"));
        Ok(ExitCode::SUCCESS)
    }
}
