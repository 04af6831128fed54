//! `hostler vm renew`.

use std::time::Duration;

use clap::Args;
use hostler_api::vm::{Renew as RenewVm, RenewRequest};
use hostler_endpoint::NoParams;
use hostler_types::{Lease, LeaseStage};
use jiff::Timestamp;

use super::VmName;
use crate::error::CliError;
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::time;

/// Renew a VM's lease, give it one, or let it stay for ever
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm renew web01
  hostler vm renew web01 --for 30d
  hostler vm renew web01 --never

At the end of its lease a VM is stopped, and not started any more; after the server's grace
(7 days unless set otherwise) it goes to the recycle bin. A warning is told a day before.")]
pub(crate) struct Renew {
    #[command(flatten)]
    vm: VmName,

    /// For how long from now on, such as 12h or 30d [default: as long as before]
    #[arg(long = "for", value_name = "DURATION", value_parser = crate::duration::parse)]
    term: Option<Duration>,

    /// Without an end
    #[arg(long, conflicts_with = "term")]
    never: bool,
}

impl Renew {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let seconds = self.term.map(|term| term.as_secs());
        let request = RenewRequest { seconds, never: self.never };
        let (path, none) = (self.vm.path(), NoParams {});
        let vm = session.call_with::<RenewVm>(&path, &none, request, once()).await?;
        session.output.done("renewed", "vm", vm.metadata.name.as_str(), &vm)?;
        if session.output.is_table() {
            let until = match &vm.spec.lease {
                Some(lease) => format!("it is stopped at {}", time::show(lease.expires_at)),
                None => "it stays for ever".to_owned(),
            };
            session.output.remark(&until);
        }
        Ok(())
    }
}

/// How much of a lease is left.
pub(super) fn left(lease: Option<&Lease>, now: Timestamp) -> Cell {
    let Some(lease) = lease else { return Cell::maybe(None::<String>) };
    if lease.is_over(now) {
        return Cell::new("over").tone(Tone::Bad);
    }
    let cell = Cell::new(time::age(now, lease.expires_at));
    if lease.stage == LeaseStage::Active { cell } else { cell.tone(Tone::Busy) }
}

/// A lease in a sentence.
pub(super) fn sentence(lease: &Lease) -> Cell {
    let (end, recycled) = (time::show(lease.expires_at), time::show(lease.recycle_at));
    Cell::new(format!("stopped at {end}, in the recycle bin from {recycled}"))
}
