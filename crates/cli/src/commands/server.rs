//! `hostler server`.

use std::process::ExitCode;

use clap::Args;

use crate::daemon::{Daemons, ServerOptions};
use crate::error::CliError;

/// Run the server
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler server --with-agent
  hostler server --listen 10.0.0.1:8443 --tls-name vm.example.org")]
pub(crate) struct Server {
    #[command(flatten)]
    options: ServerOptions,
}

impl Server {
    pub(crate) fn run(self, daemons: &dyn Daemons) -> Result<ExitCode, CliError> {
        daemons.server(self.options)?;
        Ok(ExitCode::SUCCESS)
    }
}
