//! `hostler vm why|history`.

use clap::Args;
use hostler_api::vm;
use hostler_endpoint::{NoParams, PageQuery};

use super::VmName;
use crate::commands::event;
use crate::error::CliError;
use crate::options::Format;
use crate::output;
use crate::session::Session;

/// Explain why a VM is where it is
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm why web01")]
pub(crate) struct Why {
    #[command(flatten)]
    vm: VmName,
}

impl Why {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let why = session.call::<vm::Why>(&self.vm.path(), &NoParams {}, ()).await?;
        match session.output.format {
            Format::Json | Format::Yaml => session.output.data(&why),
            Format::Table | Format::Name => {
                let lines = why.lines.iter().map(|line| crate::sanitise::line(line) + "\n");
                output::print(&lines.collect::<String>())
            }
        }
    }
}

/// List the changes of a VM, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm history web01
  hostler vm history web01 --limit 5 -o json")]
pub(crate) struct History {
    #[command(flatten)]
    vm: VmName,

    /// At most this many
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10000))]
    limit: u32,
}

impl History {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let query = PageQuery { limit: Some(self.limit), ..PageQuery::default() };
        let page = session.call::<vm::History>(&self.vm.path(), &query, ()).await?;
        event::print(session, page.items)
    }
}
