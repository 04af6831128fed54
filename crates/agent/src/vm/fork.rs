//! Instant clones: a running VM is forked.
//!
//! ```text
//!  parent's actor                                   each clone's actor
//!   overlays, successor's QEMU  ── Base ──────────>  record, files, QEMU on the frozen memory
//!   <───────────────────────────── ready ─────────
//!   freeze, load                ── devices' state ─> load, cables out   (the parent's guest
//!   record, run                 ────── go ────────>  record, run         stands still until it runs)
//!   end of the old QEMU                              then: identity
//! ```
//!
//! Nothing is copied: parent and clones go on from the same memory and the same disk files, which
//! nobody writes to any more. So the parent's guest goes on in a new process, its *successor*, with
//! new files on top of its disks. Which of the two processes is the VM's is said by the record
//! alone: it is written while both stand still. Until then everything is taken back by letting the
//! old one go on.
//!
//! A clone loads while its parent's successor does where a processor is free for it, and later
//! otherwise: the parent's guest does not wait for it.
//!
//! A fork is all or nothing: when a clone fails before the guest is stopped, nothing has happened;
//! when one fails after, the caller removes the others.

mod child;
mod identity;
mod parent;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{VmForkAnswer, VmForkRequest, VmReport};
use hostler_endpoint::Problem;
use hostler_types::{DiskStatus, VmId};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub(crate) use identity::IdentityStep;
pub(super) use parent::end;

use super::actor::Action;
use super::hardware::Running;
use super::layers;
use super::record::{RecordedState, VmRecord};
use super::registry::Vms;
use crate::fault::Fault;

/// From a process's start until it can take a state.
const READY: Duration = Duration::from_secs(60);
/// Devices' states are small.
const STATE: Duration = Duration::from_secs(10);
/// How long a clone that answers lets the others of its fork begin before it takes its identity, which
/// costs their guests' time.
const OTHERS: Duration = Duration::from_secs(5);

/// What all clones of a fork begin with.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// What the parent runs with.
    running: Running,
    /// Its disks, which are frozen when the clones begin to read them.
    disks: Vec<DiskStatus>,
    memory: Arc<OwnedFd>,
}

/// What the parent's actor is told.
#[derive(Debug)]
pub(crate) struct ForkOrder {
    clones: Vec<CloneLink>,
    /// How long the guest stood still.
    paused: oneshot::Sender<Duration>,
}

/// The parent's end of what connects it with a clone.
#[derive(Debug)]
struct CloneLink {
    vm: VmId,
    base: Option<oneshot::Sender<Base>>,
    ready: oneshot::Receiver<Result<(), String>>,
    state: Option<oneshot::Sender<Arc<OwnedFd>>>,
    go: Option<oneshot::Sender<()>>,
}

/// The clone's end. When the parent's is dropped the fork has failed.
#[derive(Debug)]
pub(crate) struct ForkSeat {
    base: oneshot::Receiver<Base>,
    ready: oneshot::Sender<Result<(), String>>,
    state: oneshot::Receiver<Arc<OwnedFd>>,
    /// The parent goes on in its successor: nobody writes to what this one lies on any more.
    go: oneshot::Receiver<()>,
    silent: Silent,
}

/// A clone whose guest has not answered yet; it counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Silent(watch::Sender<usize>);

impl Silent {
    fn one_of(all: &watch::Sender<usize>) -> Self {
        all.send_modify(|silent| *silent += 1);
        Self(all.clone())
    }

    /// This one has answered. Waits until the other clones of its fork have, too, or have failed.
    async fn heard(self, within: Duration) {
        let mut silent = self.0.subscribe();
        drop(self);
        let _ = timeout(within, silent.wait_for(|silent| *silent == 0)).await;
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.send_modify(|silent| *silent -= 1);
    }
}

fn link(vm: VmId, all: &watch::Sender<usize>) -> (CloneLink, ForkSeat) {
    let (base, base_seen) = oneshot::channel();
    let (ready, ready_seen) = oneshot::channel();
    let (state, state_seen) = oneshot::channel();
    let (go, go_seen) = oneshot::channel();
    let (base, state, go) = (Some(base), Some(state), Some(go));
    let link = CloneLink { vm, base, ready: ready_seen, state, go };
    let silent = Silent::one_of(all);
    (link, ForkSeat { base: base_seen, ready, state: state_seen, go: go_seen, silent })
}

impl Vms {
    /// Forks a VM. Repeated after a crash, it answers with what there is: clones that had not come
    /// to running then have failed.
    pub(crate) async fn fork(
        &self,
        parent: VmId,
        request: VmForkRequest,
    ) -> Result<VmForkAnswer, Problem> {
        self.handle(parent)?;
        let all = watch::Sender::new(0);
        let (links, seats): (Vec<_>, Vec<_>) =
            request.clones.iter().map(|clone| link(clone.definition.vm.id(), &all)).unzip();
        let (paused, paused_seen) = oneshot::channel();
        let order = ForkOrder { clones: links, paused };
        let fork = Action::Fork(Box::new(order));
        let fork = async {
            // It has come about when the guest goes on; what follows is housekeeping, which nobody
            // has to wait for.
            let whole = self.command(parent, request.command, fork);
            tokio::select! {
                answer = whole => answer.map(|report| (report, Duration::ZERO)),
                Ok(paused) = paused_seen => {
                    let report = VmReport::clone(&self.handle(parent)?.report.borrow());
                    Ok((report, paused))
                }
            }
        };
        let clones = request.clones.into_iter().zip(seats).map(|(clone, seat)| {
            let seat = Action::BeForked(Box::new(seat));
            async move {
                let vm = clone.definition.vm.id();
                let answer = self.begin_once(vm, &clone, RecordedState::Forking, seat).await?;
                answer.unwrap_or_else(|| Err(Fault::NoVm(vm).into()))
            }
        });
        let (parent, clones) = tokio::join!(Box::pin(fork), futures::future::join_all(clones));
        let (parent, paused) = parent?;
        let clones = clones.into_iter().collect::<Result<Vec<_>, _>>()?;
        // The first ones have had time to hear from their guests, and what is told last is believed.
        let now = |report: VmReport| match self.handle(report.vm) {
            Ok(clone) => VmReport::clone(&clone.report.borrow()),
            Err(_) => report,
        };
        let clones = clones.into_iter().map(now).collect();
        let paused_microseconds = u64::try_from(paused.as_micros()).unwrap_or(u64::MAX);
        Ok(VmForkAnswer { parent, clones, paused_microseconds })
    }
}

/// The nodes of the files beneath what the parent's guest writes to until it is stopped.
fn settled(record: &VmRecord) -> impl Iterator<Item = String> {
    let layers =
        |disk: &DiskStatus| Some(layers::node(record, &disk.name, &disk.layers.get(2)?.file));
    record.definition.vm.status.disks.iter().filter_map(layers)
}

/// How an operation of the clone is called whose fork never came about.
fn not_forked(_: oneshot::error::RecvError) -> Fault {
    Fault::WrongState("the fork did not come about".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clone_waits_for_those_that_may_still_answer() {
        let all = watch::Sender::new(0);
        let (first, second, failed) =
            (Silent::one_of(&all), Silent::one_of(&all), Silent::one_of(&all));
        let heard = tokio::spawn(first.heard(OTHERS));
        tokio::task::yield_now().await;
        drop(failed);
        tokio::task::yield_now().await;
        assert!(!heard.is_finished());
        let begin = std::time::Instant::now();
        tokio::join!(second.heard(OTHERS), heard).1.unwrap();

        let (first, _hangs) = (Silent::one_of(&all), Silent::one_of(&all));
        first.heard(Duration::from_millis(1)).await;
        assert!(begin.elapsed() < OTHERS);
    }
}
