//! What the monitors of running VMs count: disk operations and how long they took, and the balloon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hostler_qmp::command::{BlockDeviceStats, QueryBalloon, QueryBlockstats};
use hostler_types::{ByteSize, PowerState, VmId};

use super::machine::Live;
use super::registry::Vms;
use crate::measure::{DiskCounters, Monitored};

/// How long a monitor may take to answer. QEMU answers between two pieces of a guest's work; one that
/// takes longer has no time for questions.
const PATIENCE: Duration = Duration::from_secs(1);
/// Monitors that are asked at once.
const AT_ONCE: usize = 16;

impl Vms {
    /// Of the VMs that run and whose monitor answers.
    pub(crate) async fn measure(&self) -> HashMap<VmId, Monitored> {
        let asked = self.running().into_iter().map(|(vm, live, boot)| async move {
            let monitored = ask(&live, boot).await;
            if monitored.is_none() {
                tracing::debug!(%vm, "its monitor did not say what its disks do");
            }
            Some((vm, monitored?))
        });
        let answers = futures::stream::iter(asked).buffer_unordered(AT_ONCE);
        answers.filter_map(std::future::ready).collect().await
    }

    /// With the memory that each was started with.
    fn running(&self) -> Vec<(VmId, Arc<Live>, ByteSize)> {
        let handles = self.lock();
        let running = handles.iter().filter_map(|(vm, handle)| {
            let report = handle.report.borrow();
            let boot =
                report.hardware.as_ref().map_or(ByteSize(0), |hardware| hardware.boot_memory);
            let live =
                handle.live.borrow().clone().filter(|_| report.power == PowerState::Running)?;
            Some((*vm, live, boot))
        });
        running.collect()
    }
}

async fn ask(live: &Live, boot: ByteSize) -> Option<Monitored> {
    let disks = live.qmp.execute_within(QueryBlockstats, PATIENCE).await.ok()?;
    // A machine without a balloon refuses.
    let balloon = live.qmp.execute_within(QueryBalloon, PATIENCE).await;
    let left = balloon.map_or(boot.bytes(), |balloon| balloon.actual);
    Some(Monitored {
        reads: total(&disks, |it| (it.rd_operations, it.rd_bytes, it.rd_total_time_ns)),
        writes: total(&disks, |it| (it.wr_operations, it.wr_bytes, it.wr_total_time_ns)),
        ballooned: ByteSize(boot.bytes().saturating_sub(left)),
    })
}

fn total(
    disks: &[BlockDeviceStats],
    of: impl Fn(&hostler_qmp::command::BlockStats) -> (u64, u64, u64),
) -> DiskCounters {
    let mut sum = DiskCounters::default();
    // What is no guest's device has counters too: a backup that reads, a mirror that writes.
    for disk in disks.iter().filter(|disk| disk.qdev.is_some()) {
        let (operations, bytes, time_ns) = of(&disk.stats);
        sum.operations = sum.operations.saturating_add(operations);
        sum.bytes = sum.bytes.saturating_add(bytes);
        sum.time_ns = sum.time_ns.saturating_add(time_ns);
    }
    sum
}
