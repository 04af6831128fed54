//! `hostler vm stats`.

use clap::Args;
use hostler_api::vm::Stats as Endpoint;
use hostler_endpoint::NoParams;

use super::VmName;
use crate::commands::stats;
use crate::error::CliError;
use crate::session::Session;

/// Show what a VM uses now, and what it has to do without
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm stats web01
  hostler vm stats web01 -o json

READY is CPU time that the VM could have used and did not get, because others had the CPUs. What its
own limit kept from it is not in it. Measured every 5 seconds by the VM's host.")]
pub(crate) struct Stats {
    #[command(flatten)]
    vm: VmName,
}

impl Stats {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let told = session.call::<Endpoint>(&self.vm.path(), &NoParams {}, ()).await?;
        session.output.object(&told, &told.name, || stats::vm_fields(&told))?;
        if session.output.is_table() && told.used.is_none() {
            let why =
                "nothing was measured: it does not run, its host is away, or it has just begun";
            session.output.remark(why);
        }
        Ok(())
    }
}
