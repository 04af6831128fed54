//! `hostler drs`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::placement;
use hostler_endpoint::NoParams;

use crate::error::CliError;
use crate::output;
use crate::session::Session;
use crate::table::{self, Cell, Tone};

/// Balancing: which VMs should move where
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = "Examples:\n  hostler drs recommendations")]
pub(crate) struct DrsArgs {
    #[command(subcommand)]
    command: DrsCommand,
}

#[derive(Debug, Subcommand)]
enum DrsCommand {
    /// List the moves that balancing would make now, each with its reason; nothing is moved
    #[command(
        after_help = "Examples:\n  hostler drs recommendations\n  hostler drs recommendations -o json"
    )]
    Recommendations,
}

impl DrsArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let DrsCommand::Recommendations = self.command;
        let none = NoParams {};
        let told = session.call::<placement::ListRecommendations>(&none, &none, ()).await?;
        if session.output.is_data() {
            session.output.data(&told)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = Vec::new();
        for (number, step) in (1..).zip(&told.steps) {
            for one in &step.moves {
                rows.push(vec![
                    Cell::number(number),
                    Cell::new(&one.vm),
                    Cell::new(&one.from),
                    Cell::new(&one.to),
                    Cell::new(&step.why),
                    Cell::new(&step.reason),
                ]);
            }
        }
        for blocked in &told.blocked {
            rows.push(vec![
                Cell::new("-"),
                Cell::new(blocked.vms.join(",")),
                Cell::new(""),
                Cell::new("nowhere").tone(Tone::Bad),
                Cell::new(&blocked.why),
                Cell::new(&blocked.reason),
            ]);
        }
        if rows.is_empty() {
            session.output.remark("nothing to move");
        } else {
            let header = ["STEP", "VM", "FROM", "TO", "WHY", "REASON"];
            output::print(&table::render(&header, &rows, session.output.is_colored()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
