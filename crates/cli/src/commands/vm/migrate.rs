//! `hostler vm migrate`.

use clap::Args;
use hostler_api::vm::{self, MigrateRequest, VmCreateQuery, VmMigration};
use hostler_types::{ByteSize, MOST_DOWNTIME_MS, MigrationPolicy, MigrationTerms, Ref};

use super::VmName;
use crate::error::CliError;
use crate::output;
use crate::session::{Session, once};
use crate::wait::WaitOptions;

/// Move a VM to another host, or its files to another datastore; one that runs goes on running
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm migrate web01
  hostler vm migrate web01 --host host2
  hostler vm migrate web01 --host host2 --dry-run
  hostler vm migrate db01 --downtime 100ms --policy refuse --rate 200MiB
  hostler vm migrate web01 --datastore fast --dry-run
  hostler vm migrate web01 --datastore fast --rate 100MiB

Both hosts need the VM's datastore, so it must be a shared one. With --datastore the VM stays on its host
and all its files go to another datastore that the host has: with its snapshots, and independent of images
and of other VMs' disks, which stay where they are. A guest that runs is sent while it goes
on, and stands still for a moment at the end; the task tells how long that was. Cancelling it
(`hostler task cancel`, or Ctrl-C) leaves the VM where it is.")]
pub(crate) struct Migrate {
    #[command(flatten)]
    vm: VmName,

    /// The host that it goes to [default: chosen as for a new VM]
    #[arg(long, value_name = "HOST")]
    host: Option<Ref>,

    /// The datastore that its files go to [default: they stay where they are]
    #[arg(long, value_name = "DATASTORE")]
    datastore: Option<Ref>,

    /// How long its guest may stand still, such as 100ms [default: the VM's --downtime-budget]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    downtime: Option<u64>,

    /// At most so many bytes a second, such as 50MiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,

    /// If the guest writes faster than it can be sent: wait, throttle it, or refuse
    /// [default: the VM's --downtime-policy]
    #[arg(long, value_name = "POLICY")]
    policy: Option<MigrationPolicy>,

    /// Only tell where it would go, and what is in the way
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Migrate {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let (path, query) = (self.vm.path(), VmCreateQuery { dry_run: self.dry_run });
        let request = MigrateRequest {
            host: self.host,
            datastore: self.datastore,
            downtime_ms: self.downtime,
            max_bandwidth: self.rate.map(ByteSize::bytes),
            policy: self.policy,
        };
        let migration: VmMigration =
            session.call_with::<vm::Migrate>(&path, &query, request, once()).await?;
        let Some(task) = migration.task.clone() else { return preview(session, &migration) };
        let done = format!("moved to {}", target(&migration));
        super::finish(session, task, self.wait.waits(), &done, &path).await
    }
}

fn target(migration: &VmMigration) -> String {
    match &migration.datastore {
        Some(datastore) => format!("datastore {datastore}"),
        None => format!("host {}", migration.host),
    }
}

/// What a VM says of its own moves.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Terms {
    /// How long its guest may stand still when it is moved, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    downtime_budget: Option<u64>,

    /// If that cannot be kept: wait, throttle the guest, or refuse to move it
    #[arg(long, value_name = "POLICY")]
    downtime_policy: Option<MigrationPolicy>,
}

impl Terms {
    pub(super) fn terms(self) -> MigrationTerms {
        MigrationTerms { downtime_ms: self.downtime_budget, policy: self.downtime_policy }
    }
}

fn preview(session: &Session, migration: &VmMigration) -> Result<(), CliError> {
    if session.output.is_data() {
        return session.output.data(migration);
    }
    output::print(&format!("it would go to {}\n", target(migration)))?;
    for sentence in &migration.explanation {
        output::print(&format!("  {sentence}\n"))?;
    }
    session.output.remark("nothing was moved: --dry-run");
    Ok(())
}

/// Milliseconds, as `100ms`, `2s` or, without a unit, a number of milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is not a time; write it like 100ms or 2s", text.escape_debug());
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(factor) {
        Some(milliseconds @ 1..=MOST_DOWNTIME_MS) => Ok(milliseconds),
        _ => Err(format!("`{}` is not between 1ms and 60s", text.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(milliseconds("100ms"), Ok(100));
        assert_eq!(milliseconds("2s"), Ok(2000));
        assert_eq!(milliseconds("300"), Ok(300));
        for bad in ["", "ms", "0", "-1ms", "1.5s", "61s", "1h"] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }
}
