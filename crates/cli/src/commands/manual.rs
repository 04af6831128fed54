//! `hostler man`: man pages, for packages.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::{CliError, Exit};

/// Write the man pages into a directory
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Examples:\n  hostler man /usr/local/share/man/man1")]
pub(crate) struct Manual {
    /// The directory; must exist
    directory: PathBuf,
}

impl Manual {
    pub(crate) fn run(self) -> Result<ExitCode, CliError> {
        clap_mangen::generate_to(super::command(), &self.directory).map_err(|error| {
            let directory = self.directory.display();
            CliError::new(Exit::Failed, format!("cannot write man pages to {directory}: {error}"))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
