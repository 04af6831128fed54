//! `hostler vm history`.

use clap::Args;
use hostler_api::vm;
use hostler_endpoint::PageQuery;

use super::VmName;
use crate::commands::event;
use crate::error::CliError;
use crate::session::Session;

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
