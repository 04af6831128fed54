//! `hostler vm log`.

use std::io::IsTerminal as _;

use clap::Args;
use futures::StreamExt as _;
use hostler_api::vm::{self, VmLogQuery};

use super::VmName;
use crate::error::{CliError, Exit};
use crate::output;
use crate::sanitise::Filter;
use crate::session::Session;

/// Print what a guest wrote to its serial console
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm log web01
  hostler vm log web01 -f
  hostler vm log web01 > web01.log")]
pub(crate) struct Log {
    #[command(flatten)]
    vm: VmName,

    /// Go on with what it writes from now on; Ctrl-C ends
    #[arg(short, long)]
    follow: bool,
}

impl Log {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let query = VmLogQuery { follow: self.follow };
        let mut bytes = session.call::<vm::Log>(&self.vm.path(), &query, ()).await?;
        // Into a file or pipe goes what the guest wrote; onto a terminal only what is harmless.
        let mut filter = std::io::stdout().is_terminal().then(Filter::default);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|error| {
                CliError::new(Exit::CannotConnect, format!("the log broke off: {error}"))
            })?;
            match &mut filter {
                None => output::print_bytes(&chunk)?,
                Some(filter) => {
                    let mut clean = Vec::with_capacity(chunk.len());
                    filter.feed(&chunk, &mut clean);
                    output::print_bytes(&clean)?;
                }
            }
        }
        Ok(())
    }
}
