//! The command line: what the binary `hostler` understands, and all of it but the two daemons.
//!
//! Every command is a client of the public API and holds no logic of its own: it parses, calls,
//! waits and prints. The binary hands in [`Daemons`], because only it may know server and agent.
//!
//! - `options`: the flags that every command has
//! - `commands/`: one file per resource, the tree below `hostler`
//! - `error`: what went wrong, in words, and the exit code

mod address;
mod archive;
mod commands;
mod connection;
mod contexts;
mod customize;
mod daemon;
mod duration;
mod error;
mod input;
mod names;
mod options;
mod output;
mod progress;
mod resources;
mod sanitise;
mod selector;
mod session;
mod snapshot_limits;
mod table;
mod terminal;
mod time;
mod trust;
mod wait;

use commands::Cli;
pub use commands::command;
pub use daemon::{AgentJoinOptions, AgentOptions, Daemons, LogFormat, LogOptions, ServerOptions};
pub use error::{CliError, Exit};

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

/// Parses the process's arguments, does what they say and returns what to exit with.
pub fn main(daemons: &dyn Daemons) -> ExitCode {
    let matches = command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut Cli::command()).exit(),
    };
    let globals = cli.globals.clone();
    match commands::run(cli, daemons) {
        Ok(code) => code,
        Err(error) => {
            error.print(&globals);
            error.exit().into()
        }
    }
}
