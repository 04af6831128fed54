//! `hostler agent`: the host daemon.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::daemon::{AgentJoinOptions, AgentOptions, Daemons};
use crate::error::CliError;
use crate::options::GlobalOptions;

/// Run the host daemon, or make this machine a host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler agent join TOKEN --address 10.0.0.5:8444
  hostler agent run")]
pub(crate) struct Agent {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Run the agent of this host
    #[command(after_help = "Examples:\n  hostler agent run --listen 10.0.0.5:8444")]
    Run(AgentOptions),

    /// Make this machine a host of the server that the token names
    #[command(after_help = "\
Examples:
  hostler agent join TOKEN --address 10.0.0.5:8444")]
    Join(AgentJoinOptions),
}

impl Agent {
    pub(crate) fn run(
        self,
        globals: &GlobalOptions,
        daemons: &dyn Daemons,
    ) -> Result<ExitCode, CliError> {
        match self.command {
            AgentCommand::Run(options) => daemons.agent(options)?,
            AgentCommand::Join(mut options) => {
                options.server.clone_from(&globals.server);
                daemons.agent_join(options)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
