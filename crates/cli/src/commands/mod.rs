//! The tree of commands below `hostler`, one file per resource.

mod agent;
mod completion;
mod manual;
mod server;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::daemon::Daemons;
use crate::error::CliError;
use crate::options::GlobalOptions;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found
  4  conflict: wrong state, name taken, or changed by someone else meanwhile
  5  not logged in, or not allowed
  6  cannot connect
  7  timeout
  8  no capacity
  130  interrupted
`hostler vm exec` passes the exit code of the guest's command.

Examples:
  hostler server --with-agent
  hostler image import debian-12 ./debian-12-genericcloud-amd64.qcow2
  hostler vm create web01 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub --start --wait=guest
  hostler vm ssh web01";

/// Manage virtual machines on Linux hosts.
#[derive(Debug, Parser)]
#[command(
    name = "hostler",
    version,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = false,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Server(server::Server),
    Agent(agent::Agent),
    Completion(completion::Completion),
    Man(manual::Manual),
    Version(version::Version),
}

/// The whole tree, for help, completion and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what was parsed.
pub(crate) fn run(cli: Cli, daemons: &dyn Daemons) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Server(server) => server.run(daemons),
        Command::Agent(agent) => agent.run(&cli.globals, daemons),
        Command::Completion(completion) => completion.run(),
        Command::Man(manual) => manual.run(),
        Command::Version(version) => version.run(),
    }
}
