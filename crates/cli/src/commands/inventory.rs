//! `hostler inventory`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::placement;
use hostler_endpoint::NoParams;

use crate::error::{CliError, Exit};
use crate::output;
use crate::session::Session;

/// The inventory as placement sees it, as a file
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler inventory export --file inventory.json
  hostler simulate --inventory inventory.json --remove-host host03"
)]
pub(crate) struct InventoryArgs {
    #[command(subcommand)]
    command: InventoryCommand,
}

#[derive(Debug, Subcommand)]
enum InventoryCommand {
    Export(Export),
}

/// Write hosts, datastores, VMs, rules and groups to a file, as JSON
///
/// What decisions depend on, and nothing else: no secrets, no customizations, no users.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler inventory export --file inventory.json
  hostler inventory export > inventory.json")]
struct Export {
    /// The file, which must not be there yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl InventoryArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let InventoryCommand::Export(export) = self.command;
        let inventory = session.call::<placement::Export>(&NoParams {}, &NoParams {}, ()).await?;
        let text = serde_json::to_string_pretty(&inventory)
            .map_err(|error| CliError::new(Exit::Failed, format!("no JSON: {error}")))?;
        let Some(path) = export.file else {
            output::print(&(text + "\n"))?;
            return Ok(ExitCode::SUCCESS);
        };
        let failed = |error: std::io::Error| {
            CliError::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
        };
        let mut file = std::fs::File::create_new(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        let name = path.display().to_string();
        session.output.done("written", "inventory", &name, &inventory)?;
        Ok(ExitCode::SUCCESS)
    }
}
