//! Sends a running guest: beside the actor, which goes on meanwhile.
//!
//! How long the guest may stand still is allowed little by little: at first so short a time that only a
//! quiet guest moves over; once its memory has been sent, what QEMU expects, or twice as long with each look; at
//! last all of its budget. So a guest that can be moved quickly is, and one that writes is not sent again and
//! again meanwhile.

use std::os::unix::net::UnixStream as BlockingStream;
use std::time::{Duration, Instant};

use hostler_agent_api::{
    OperationProgress, VmEpoch, VmMigrateRequest, VmMigrationReady, VmMigrationTake, VmPath,
    VmReport,
};
use hostler_endpoint::{CallOptions, Client, ClientError, NoParams};
use hostler_host::Replacement;
use hostler_qemu::migrate::{
    Milestone, Settings, allow_downtime, begin, milestone, progress, switch_over,
};
use hostler_qmp::Qmp;
use hostler_qmp::command::MigrationInfo;
use hostler_types::{Epoch, HostId, MigrationPolicy, OperationId, VmId};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};
use crate::vm::record::VmRecord;

/// How often is looked how it goes.
const LOOK: Duration = Duration::from_millis(100);
/// A guest whose memory does not get on for so long is not moved.
const STALLED: Duration = Duration::from_secs(15);
/// For the last of the memory and the devices, while the guest stands still.
const SWITCHOVER: Duration = Duration::from_secs(20);
/// For an answer of the other agent.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the guest may stand still at first, in milliseconds.
const FIRST_DOWNTIME: u64 = 30;
/// When all of the memory was sent once, QEMU has looked through it so often, and knows how fast it sends.
const KNOWS_AFTER: u64 = 2;
/// After so many it is known how fast the guest writes.
const KNOWN_AFTER: u64 = 5;
/// No limit: what QEMU takes as one, in bytes a second.
const UNLIMITED: u64 = 1 << 50;

/// Where a VM is to go, and how.
#[derive(Debug, Clone)]
pub(crate) struct MigrateOrder {
    pub(super) to: HostId,
    pub(super) address: String,
    pub(super) epoch: Epoch,
    max_bandwidth: Option<u64>,
    downtime: u64,
    policy: MigrationPolicy,
}

impl MigrateOrder {
    pub(crate) fn of(request: &VmMigrateRequest) -> Self {
        let VmMigrateRequest { to, address, epoch, max_bandwidth, downtime_ms, policy, .. } =
            request.clone();
        Self { to, address, epoch, max_bandwidth, downtime: downtime_ms.max(1), policy }
    }
}

/// A guest that stands still in both QEMUs.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(super) target: Target,
    pub(super) begun: Instant,
    pub(super) stopped: Instant,
    pub(super) written: Written,
}

/// What says that a VM is another host's: on the disk already, but not in its place.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) record: VmRecord,
    pub(super) file: Replacement,
}

/// The other agent.
#[derive(Debug, Clone)]
pub(super) struct Target {
    client: Client,
    vm: VmId,
    epoch: Epoch,
}

impl Target {
    pub(super) fn new(
        host: &HostContext,
        vm: VmId,
        to: HostId,
        address: &str,
        epoch: Epoch,
    ) -> Result<Self, Fault> {
        Ok(Self { client: host.peers.client(to, address)?, vm, epoch })
    }

    /// Whether it could take the VM now.
    async fn ready(&self) -> Result<(), Fault> {
        let (path, body) = (VmPath { vm: self.vm }, VmEpoch { epoch: self.epoch });
        let options = CallOptions { timeout: Some(ANSWER), ..CallOptions::default() };
        let asked = self.client.call_with::<VmMigrationReady>(&path, &NoParams {}, body, options);
        asked
            .await
            .map_err(|error| Fault::Peer(format!("the other host is not ready: {}", chain(&error))))
    }

    /// Tells it that the VM is its own.
    pub(super) async fn take(&self) -> Result<VmReport, ClientError> {
        let (path, body) = (VmPath { vm: self.vm }, VmEpoch { epoch: self.epoch });
        let options = CallOptions { timeout: Some(ANSWER), ..CallOptions::default() };
        self.client.call_with::<VmMigrationTake>(&path, &NoParams {}, body, options).await
    }
}

/// Sends the guest until it stands still in both. On failure it may stand still here; the caller takes
/// it back. `given` is the record that is to give it away.
pub(super) async fn drive(
    host: &HostContext,
    given: VmRecord,
    op: OperationId,
    order: &MigrateOrder,
    qmp: &Qmp,
) -> Result<Sent, Fault> {
    let vm = given.id();
    let begun = Instant::now();
    let target = Target::new(host, vm, order.to, &order.address, order.epoch)?;
    let qemu = |error| Fault::Qemu(format!("the guest was not sent: {}", chain(&error)));
    let mut events = qmp.subscribe();
    let mut stopped = None;
    let before = async {
        // Its connection is the one that is there when the guest stands still.
        target.ready().await?;
        let stream = host.peers.stream(order.to, &order.address, vm, order.epoch).await?;
        let (near, far) = BlockingStream::pair().map_err(|e| Fault::internal("a socket", &e))?;
        let near = near.set_nonblocking(true).and_then(|()| UnixStream::from_std(near));
        let near = near.map_err(|e| Fault::internal("a socket", &e))?;
        tokio::spawn(async move {
            if let Err(error) = stream.carry(near).await {
                tracing::warn!(%vm, %error, "the connection for a guest has failed");
            }
        });
        let settings = Settings {
            max_bandwidth: order.max_bandwidth.unwrap_or(UNLIMITED),
            downtime: order.downtime.min(FIRST_DOWNTIME),
            throttle: order.policy == MigrationPolicy::Throttle,
        };
        begin(qmp, far, settings).await.map_err(qemu)?;
        let mut watch = Watch::new(host, op, order);
        loop {
            // One wait for all looks: one that is cut off may have taken an event with it.
            let mut reached = std::pin::pin!(milestone(qmp, &mut events, &mut stopped));
            let reached = loop {
                tokio::select! {
                    reached = &mut reached => break reached.map_err(qemu)?,
                    () = tokio::time::sleep(LOOK) => watch.look(qmp).await?,
                }
            };
            match reached {
                Milestone::PreSwitchover => return Ok(()),
                Milestone::Sent => {
                    return Err(Fault::Qemu("QEMU has not waited before the end".to_owned()));
                }
                // What more is allowed counts from here on, not from the next look.
                Milestone::Pass(KNOWS_AFTER..) => watch.look(qmp).await?,
                Milestone::Pass(_) => {}
            }
        }
    };
    host.cancels.unless_cancelled(op, before).await?;
    // Nobody can cancel any more: it is a matter of moments. The guest stands still, so all that has to
    // be before it is given away goes on at once.
    let last = async {
        switch_over(qmp).await.map_err(qemu)?;
        let sent = async {
            while milestone(qmp, &mut events, &mut stopped).await? != Milestone::Sent {}
            Ok(())
        };
        let what = "the last of the memory".to_owned();
        let late = |_| Fault::Timeout { what, after: SWITCHOVER };
        timeout(SWITCHOVER, sent).await.map_err(late)?.map_err(qemu)
    };
    // The first that fails ends it: the guest stands still.
    let ((), (), written) = tokio::try_join!(last, target.ready(), write(host, given))?;
    Ok(Sent { target, begun, stopped: stopped.unwrap_or(begun), written })
}

async fn write(host: &HostContext, record: VmRecord) -> Result<Written, Fault> {
    let records = host.records.clone();
    blocking(move || Ok(Written { file: records.prepare(&record)?, record })).await
}

/// Looks how it goes, tells of it, and acts on it.
struct Watch<'a> {
    host: &'a HostContext,
    op: OperationId,
    order: &'a MigrateOrder,
    downtime: u64,
    transferred: u64,
    got_on: Instant,
}

impl<'a> Watch<'a> {
    fn new(host: &'a HostContext, op: OperationId, order: &'a MigrateOrder) -> Self {
        let downtime = order.downtime.min(FIRST_DOWNTIME);
        Self { host, op, order, downtime, transferred: 0, got_on: Instant::now() }
    }

    async fn look(&mut self, qmp: &Qmp) -> Result<(), Fault> {
        let info = progress(qmp).await.map_err(|error| Fault::Qemu(chain(&error)))?;
        let Some(ram) = info.ram else { return Ok(()) };
        if ram.transferred > self.transferred {
            (self.transferred, self.got_on) = (ram.transferred, Instant::now());
        } else if self.got_on.elapsed() > STALLED {
            let what = "sending the guest's memory, without getting on".to_owned();
            return Err(Fault::Timeout { what, after: STALLED });
        }
        self.host.hub.progress(OperationProgress {
            op: self.op,
            percent: percent(ram.total, ram.remaining),
            activity: activity(&info),
        });
        let expected = info.expected_downtime.unwrap_or(0);
        if ram.dirty_sync_count >= KNOWS_AFTER && self.downtime < self.order.downtime {
            self.downtime = allowed(self.downtime, expected, self.order.downtime);
            let allowed = allow_downtime(qmp, self.downtime).await;
            allowed.map_err(|error| Fault::Qemu(chain(&error)))?;
        }
        if self.order.policy == MigrationPolicy::Refuse
            && ram.dirty_sync_count >= KNOWN_AFTER
            && self.downtime >= self.order.downtime
            && expected > self.order.downtime
        {
            let writes = megabytes(ram.dirty_pages_rate.saturating_mul(ram.page_size));
            return Err(Fault::WrongState(format!(
                "the guest writes {writes} MB/s and {:.0} MB/s are sent: it would stand still for \
                 {expected} ms, and {} ms are allowed; allow more, slow it down (policy \
                 `throttle`), or try when it does less",
                ram.mbps / 8.0,
                self.order.downtime
            )));
        }
        Ok(())
    }
}

/// How long the guest may stand still from now on: what QEMU expects with some to spare, or twice as long as
/// before, but never more than all that is allowed. In milliseconds.
fn allowed(before: u64, expected: u64, most: u64) -> u64 {
    (before * 2).max(expected.saturating_mul(5) / 4).min(most)
}

/// Of the memory, what is not left to be sent.
fn percent(total: u64, remaining: u64) -> Option<u8> {
    let done = total.saturating_sub(remaining).saturating_mul(100).checked_div(total)?;
    u8::try_from(done.min(99)).ok()
}

fn activity(info: &MigrationInfo) -> String {
    let Some(ram) = info.ram else { return "sending memory".to_owned() };
    // What is all zero is told in no time, so it counts for how long it will take, not for the speed.
    let (done, elapsed) = (ram.total.saturating_sub(ram.remaining), info.total_time.unwrap_or(0));
    let a_second = (ram.transferred * 1000).checked_div(elapsed).unwrap_or(0);
    let mut text = format!(
        "sending memory: {} MiB sent, {} MiB left, {} MB/s",
        ram.transferred >> 20,
        ram.remaining >> 20,
        megabytes(a_second)
    );
    if let Some(left) = ram.remaining.saturating_mul(elapsed).checked_div(done) {
        text.push_str(&format!(", about {} s", left.div_ceil(1000)));
    }
    if let Some(slowed) = info.cpu_throttle_percentage.filter(|percent| *percent > 0) {
        text.push_str(&format!(", guest slowed by {slowed} %"));
    }
    text
}

fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_allowed_than_is_needed_and_never_more_than_the_budget() {
        assert_eq!(allowed(30, 0, 300), 60, "nothing is expected yet");
        assert_eq!(allowed(30, 80, 300), 100, "what is needed, at once");
        assert_eq!(allowed(240, 80, 300), 300);
        assert_eq!(allowed(30, 5_000, 300), 300);
        assert_eq!(allowed(30, u64::MAX, 100), 100);
    }

    #[test]
    fn progress_never_says_that_it_is_done() {
        assert_eq!(percent(0, 0), None);
        assert_eq!(percent(100, 100), Some(0));
        assert_eq!(percent(100, 40), Some(60));
        assert_eq!(percent(100, 0), Some(99), "the guest has not moved yet");
        assert_eq!(percent(100, 200), Some(0));
    }
}
