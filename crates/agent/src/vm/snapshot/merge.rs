//! Snapshots are deleted, and files that nothing names any more merged.
//!
//! ```text
//!  plan (as the datastore is now) ─> record: merging ─> copy, in a task ──┬─> cancelled, failed: as before
//!    ^                                                                    v
//!    └── waste removed <── record: chains <── headers of branches <── QEMU changes its chain
//! ```
//!
//! A merge only ever writes to the file that takes in, and to headers: as long as what is merged is
//! there, every chain reads as it did, however much has been copied. So it can end at any moment. The
//! one dangerous instant is when a guest begins to write to a file that has layers on it: then these
//! would hide what it writes. The record knows before QEMU does it, while the guest's writes wait.
//!
//! Several deletions share one way through the plan; each is answered when nothing is left.

use std::time::Duration;

use hostler_host::VmDir;
use hostler_qemu::{BlockJob, Commit, DiskCache, active_nodes, set_rate};
use hostler_types::{
    ByteSize, Layer, LayerFile, LayerOwner, Merge, Name, OperationId, PowerState, SnapshotId,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Merging;
use super::copy::{Online, Outcome, Teller, check_chains, copy_offline, copy_online, job_id};
use super::files::plan;
use super::room;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::datastores::Condemned;
use crate::fault::{Fault, chain};
use crate::vm::actor::{Actor, Reply};
use crate::vm::create::vm_dir;
use crate::vm::layers;
use crate::vm::lend::owned_again;
use crate::vm::record::VmRecord;

/// Who waits for merges, and the one that runs.
#[derive(Debug, Default)]
pub(in crate::vm) struct Merger {
    waiting: Vec<Waiting>,
    /// There is something to merge, though nobody waits for it.
    pub(super) wanted: bool,
    copying: Option<Copying>,
    /// What has been merged since somebody began to wait.
    done: ByteSize,
    /// Files have just been lent: whoever asked for that builds on them before they are merged.
    not_before: Option<Instant>,
    /// When that was so for the first time since something was last being merged.
    patient_since: Option<Instant>,
}

/// How often clones may have a merge wait, one after another: it is to end some time.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Waiting {
    op: OperationId,
    rate: Option<u64>,
    /// This operation has taken snapshots away.
    deleted: bool,
    replies: Vec<Reply>,
}

/// A merge whose data is being copied.
#[derive(Debug)]
struct Copying {
    merge: Merge,
    /// QEMU does it.
    online: bool,
    /// In bytes a second.
    rate: Option<u64>,
    cancel: CancellationToken,
    task: JoinHandle<Result<Outcome, Fault>>,
    /// Nobody builds on these files meanwhile.
    _condemned: Condemned,
}

impl Merger {
    /// The lowest of the rates that those who wait ask for: none of them takes more of the datastore than
    /// it was to.
    fn rate(&self) -> Option<u64> {
        self.waiting.iter().filter_map(|waiting| waiting.rate).min()
    }

    /// Files have been lent in the middle of a merge, and are built upon within `grace`: nothing is merged
    /// until then. Who asks for a merge afterwards knows whether anybody still builds.
    pub(in crate::vm) fn be_patient(&mut self, grace: Duration) {
        if self.waiting.is_empty() && !self.wanted {
            return;
        }
        let now = Instant::now();
        let since = *self.patient_since.get_or_insert(now);
        self.not_before = Some((now + grace).min(since + MOST_PATIENCE));
    }

    fn is_patient(&mut self) -> bool {
        self.not_before = self.not_before.filter(|at| *at > Instant::now());
        self.not_before.is_some()
    }

    /// When there may be something to go on with.
    pub(in crate::vm) fn next_deadline(&self) -> Option<Instant> {
        self.not_before
    }

    /// How the present copying ended. Cancel safe; never ends when there is none.
    pub(in crate::vm) async fn copied(&mut self) -> Result<Outcome, Fault> {
        match &mut self.copying {
            Some(copying) => ended((&mut copying.task).await),
            None => std::future::pending().await,
        }
    }
}

fn ended(task: Result<Result<Outcome, Fault>, tokio::task::JoinError>) -> Result<Outcome, Fault> {
    task.unwrap_or_else(|error| Err(Fault::internal("a merge", &error)))
}

impl Actor {
    /// Takes snapshots away; the answer comes when their files are merged.
    pub(in crate::vm) async fn snapshot_delete(
        &mut self,
        op: OperationId,
        snapshots: &[SnapshotId],
        rate: Option<u64>,
        reply: Reply,
    ) {
        if let Some(known) = self.merger.waiting.iter_mut().find(|waiting| waiting.op == op) {
            known.replies.push(reply);
            return;
        }
        let possible = match self.power {
            PowerState::Stopped | PowerState::Failed | PowerState::Suspended => true,
            PowerState::Running | PowerState::Paused | PowerState::Stopping => {
                self.machine.is_some()
            }
            _ => false,
        };
        if !possible {
            let (power, needed) = (self.power, "running or stopped");
            let fault = Fault::Power { action: "deleting snapshots", power, needed };
            return self.finish(op, Err(fault), reply).await;
        }
        // Those that are not there have been taken away by an earlier request.
        let tree = self.record.snapshots().without(snapshots);
        let deleted = tree != *self.record.snapshots();
        if deleted {
            let before = self.record.clone();
            *self.record.snapshots_mut() = tree;
            // What is beneath nothing any more.
            let own = LayerOwner::Vm(self.record.id());
            let (known, now) = (before.known_files(), self.record.known_files());
            let gone = known.difference(&now).filter(|file| file.owner() == own);
            self.record.layering.waste.extend(gone.cloned());
            if self.memory_is_of_a_deleted_one() {
                self.record = before;
                let text = "the VM is about to go on from the memory of one of these snapshots; \
                            start it first, or revert it to another";
                let fault = Fault::WrongState(text.to_owned());
                return self.finish(op, Err(fault), reply).await;
            }
            if let Err(fault) = self.require_room().await {
                self.record = before;
                return self.finish(op, Err(fault), reply).await;
            }
            if let Err(fault) = self.save_chains().await {
                self.record = before;
                return self.finish(op, Err(fault), reply).await;
            }
            self.publish();
        }
        if self.merger.waiting.is_empty() {
            self.merger.done = ByteSize(0);
        }
        self.merger.waiting.push(Waiting { op, rate, deleted, replies: vec![reply] });
        self.adjust_rate().await;
    }

    /// Somebody has begun to wait for the present copying, or does so no longer: what remains is copied
    /// as those want it who wait.
    async fn adjust_rate(&mut self) {
        let rate = self.merger.rate();
        let Some(copying) = &mut self.merger.copying else { return };
        if copying.rate == rate {
            return;
        }
        match &self.machine {
            Some(machine) if copying.online => {
                copying.rate = rate;
                let id = job_id(&copying.merge.disk);
                if let Err(error) = set_rate(&machine.live.qmp, &id, rate).await {
                    // It comes to its end just now.
                    tracing::debug!(id, error = chain(&error), "a merge keeps its rate");
                }
            }
            // `qemu-img` takes a rate at its start only: it begins again with the other one.
            _ => self.halt_merge().await,
        }
    }

    /// Before the names go: a merge that may take the last room of a guest that runs does not begin.
    async fn require_room(&self) -> Result<(), Fault> {
        if self.machine.is_none() {
            return Ok(());
        }
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || room::require(&vm_dir(&host, &record)?, &record)).await
    }

    fn memory_is_of_a_deleted_one(&self) -> bool {
        let of = self.record.layering.memory_of;
        of.is_some_and(|id| self.record.snapshots().get(id).is_none())
    }

    /// Goes on with what is to be merged, if anything is and nothing is being copied.
    pub(in crate::vm) async fn merge_on(&mut self) {
        let patient = self.merger.is_patient();
        let away =
            self.migrating.is_some() || self.is_offered() || self.record.state.is_elsewhere();
        let away = away || self.moving.is_some();
        let merger = &mut self.merger;
        if merger.waiting.is_empty() && !merger.wanted {
            merger.patient_since = None;
            return;
        }
        if away || patient || merger.copying.is_some() || self.flattening.is_some() {
            return;
        }
        // A QEMU whose end, or whose state, is not known yet has the files.
        if self.is_deaf() || self.power == PowerState::Unknown {
            return;
        }
        match self.next_merge().await {
            Ok(true) => {}
            Ok(false) => self.merges_end(&Ok(())).await,
            // It ends just now; without it the merge is done in another way.
            Err(_) if self.is_deaf() => {}
            Err(fault) => {
                tracing::warn!(vm = %self.record.id(), error = %fault, "a merge failed");
                self.merges_end(&Err(fault)).await;
            }
        }
    }

    /// Whether there is a QEMU that nobody can talk with any more.
    fn is_deaf(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.live.qmp.is_closed())
    }

    /// Begins the next merge; `false` when nothing is left to be done.
    async fn next_merge(&mut self) -> Result<bool, Fault> {
        self.finish_recovery().await;
        self.sweep().await;
        let (host, record) = (self.host.clone(), self.record.clone());
        let runs = self.machine.is_some();
        let plan = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let plan = plan(&dir, &record)?;
            for merge in &plan.merges {
                // What somebody just builds upon, or copies, waits for the next deletion.
                let Ok(condemned) = condemn(&host, &dir, &record, merge) else { continue };
                // What is written to is what the record says that it is.
                check_chains(&dir, &record, merge)?;
                if runs {
                    room::require_for(&dir, merge)?;
                }
                return Ok(Some((merge.clone(), plan.bytes(), condemned)));
            }
            Ok(None)
        });
        let Some((merge, bytes, condemned)) = plan.await? else {
            // Of an earlier one it may not have been written, for lack of room.
            self.save_chains().await?;
            return Ok(false);
        };
        self.record.layering.merging = Some(Merging { merge: merge.clone(), switched: false });
        if let Err(fault) = self.save().await {
            self.record.layering.merging = None;
            return Err(fault);
        }
        let teller = self.teller(&merge, bytes);
        let rate = self.merger.rate();
        let cancel = CancellationToken::new();
        let online = self.online(&merge);
        let is_online = online.is_some();
        let task = match online {
            Some(online) => {
                let job = online.begin(rate).await;
                let job = match job {
                    Ok(job) => job,
                    Err(error) => {
                        self.record.layering.merging = None;
                        return Err(Fault::Qemu(chain(&error)));
                    }
                };
                tokio::spawn(copy_online(job, teller, cancel.clone()))
            }
            None => {
                let (host, record, merge) = (self.host.clone(), self.record.clone(), merge.clone());
                let cancel = cancel.clone();
                tokio::spawn(
                    async move { copy_offline(&host, &record, &merge, rate, cancel).await },
                )
            }
        };
        self.merger.copying =
            Some(Copying { merge, online: is_online, rate, cancel, task, _condemned: condemned });
        Ok(true)
    }

    /// How QEMU is told of a merge; `None`: it does not have these files open.
    fn online(&self, merge: &Merge) -> Option<Online> {
        let qmp = self.machine.as_ref()?.live.qmp.clone();
        let running = self.record.running.as_ref()?;
        let disk = running.spec.disks.iter().find(|disk| {
            layers::of(&self.record, &disk.name).iter().any(|layer| layer.file == merge.into)
        })?;
        let files = layers::of(&self.record, &disk.name);
        let dir = self.host.datastores.peek(self.record.datastore())?.vm(self.record.id());
        let plan = |file: &LayerFile| {
            let layer = Layer { file: file.clone(), allocated: ByteSize(0) };
            layers::plan(&dir, &self.record, &disk.name, &layer)
        };
        let top = files.iter().position(|layer| layer.file == merge.from[0])?;
        let active = &files.first()?.file;
        let path = hostler_host::layers::path(dir.datastore(), active);
        let cache = DiskCache::for_file(&path, running.disk_aio);
        let above = top.checked_sub(1).map(|above| files[above].file.clone());
        Some(Online {
            qmp,
            id: job_id(&merge.disk),
            cache,
            commit: Commit {
                active: layers::node(&self.record, &disk.name, active),
                top: above.as_ref().map(|_| layers::node(&self.record, &disk.name, &merge.from[0])),
                into: layers::node(&self.record, &disk.name, &merge.into),
                backing_file: above.as_ref().map(|above| merge.into.relative_to(above)),
            },
            into: plan(&merge.into),
            above: above.as_ref().filter(|above| *above != active).map(plan),
            from: merge
                .from
                .iter()
                .map(|file| layers::node(&self.record, &disk.name, file))
                .collect(),
        })
    }

    /// Copying has come to an end.
    pub(in crate::vm) async fn copied(&mut self, outcome: Result<Outcome, Fault>) {
        let Some(Copying { merge, online, _condemned, .. }) = self.merger.copying.take() else {
            return;
        };
        let result = match outcome {
            Ok(Outcome::Copied(job)) => self.change_chain(&merge, job).await,
            Ok(Outcome::Merged) => self.merged(&merge).await,
            Ok(Outcome::Cancelled) => Err(Fault::Cancelled),
            Err(fault) => Err(fault),
        };
        // Without QEMU it is done in another way, once its end is known; it may be known already. What
        // was cancelled is over then.
        let cancelled = matches!(result, Err(Fault::Cancelled));
        let gone = self.machine.is_none() && !cancelled;
        if result.is_err() && online && (gone || self.is_deaf()) {
            return;
        }
        match result {
            Ok(()) => {
                self.merger.done = ByteSize(self.merger.done.bytes() + merge.bytes.bytes());
                self.merger.patient_since = None;
                self.publish();
            }
            Err(fault) => {
                self.forget_merge().await;
                self.merges_end(&Err(fault)).await;
            }
        }
    }

    /// QEMU has copied all: from the record's view it is done first, if the guest is going to write
    /// to another file.
    async fn change_chain(&mut self, merge: &Merge, mut job: BlockJob) -> Result<(), Fault> {
        let qemu = |error| Fault::Qemu(chain(&error));
        let Some(online) = self.online(merge) else {
            return Err(Fault::Qemu("QEMU is gone".into()));
        };
        let active = online.commit.top.is_none();
        let before = self.record.clone();
        if active {
            // The guest's writes wait from here …
            self.record.apply_merge(merge);
            self.record.layering.merging = Some(Merging { merge: merge.clone(), switched: true });
            if let Err(fault) = self.save().await {
                self.record = before;
                job.give_up().await.map_err(qemu)?;
                return Err(fault);
            }
        }
        // … to here.
        if let Err(error) = job.finish().await {
            // A QEMU that says nothing any more may have changed its chain and let the guest write. The
            // two files read alike until then, so the one that may be newer is the right one.
            if active && !self.writes_to(&merge.disk, &merge.from[0]).await {
                return Err(qemu(error));
            }
            self.record = before;
            return Err(qemu(error));
        }
        if active {
            self.record.layering.merging = None;
        } else {
            self.merged_files(merge).await?;
        }
        job.forget().await.map_err(qemu)?;
        online.end().await.map_err(qemu)?;
        self.chains_changed().await
    }

    /// Whether QEMU says that this is the file that a disk writes to.
    pub(super) async fn writes_to(&self, disk: &Name, file: &LayerFile) -> bool {
        let Some(machine) = &self.machine else { return false };
        let node = layers::node(&self.record, disk, file);
        let nodes = active_nodes(&machine.live.qmp, [disk]).await;
        nodes.is_ok_and(|nodes| nodes.iter().any(|(_, active)| *active == node))
    }

    async fn merged(&mut self, merge: &Merge) -> Result<(), Fault> {
        self.merged_files(merge).await?;
        self.chains_changed().await
    }

    /// What lay on the merged file lies on the other one now, whoever has it open.
    pub(super) async fn merged_files(&mut self, merge: &Merge) -> Result<(), Fault> {
        let open = self.online(merge).and_then(|online| online.above_file(&self.record));
        let branches = self.record.branches_on(merge);
        self.set_backing(branches.into_iter().filter(|file| Some(file) != open.as_ref()), |_| {
            Some(merge.into.clone())
        })
        .await?;
        self.record.apply_merge(merge);
        self.record.layering.merging = None;
        Ok(())
    }

    /// Writes the headers of files that nobody has open.
    pub(super) async fn set_backing(
        &self,
        files: impl Iterator<Item = LayerFile>,
        beneath: impl Fn(&LayerFile) -> Option<LayerFile>,
    ) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let dir = blocking(move || vm_dir(&host, &record)).await?;
        for file in files {
            let Some(beneath) = beneath(&file) else { continue };
            let path = hostler_host::layers::path(dir.datastore(), &file);
            let name = beneath.relative_to(&file);
            let set = self.host.qemu_img.set_backing(&path, &name, self.record.uid).await;
            set.map_err(|error| Fault::WrongState(chain(&error)))?;
        }
        Ok(())
    }

    async fn chains_changed(&mut self) -> Result<(), Fault> {
        self.save_chains().await?;
        self.sweep().await;
        Ok(())
    }

    /// A command needs the disks, or the VM goes: copying ends, nothing has changed. It begins again
    /// with [`Actor::merge_on`].
    pub(in crate::vm) async fn halt_merge(&mut self) {
        let Some(mut copying) = self.merger.copying.take() else { return };
        copying.cancel.cancel();
        if let Ok(Outcome::Copied(mut job)) = ended((&mut copying.task).await)
            && let Err(error) = job.give_up().await
        {
            tracing::warn!(error = chain(&error), "a merge cannot be given up");
        }
        self.forget_merge().await;
    }

    /// A merge has not come about: what QEMU had opened for it is as before.
    async fn forget_merge(&mut self) {
        // One that QEMU may have brought to its end is looked after when its own end is known.
        let begun = |merging: &mut Merging| !merging.switched;
        let Some(merging) = self.record.layering.merging.take_if(begun) else { return };
        if let Some(online) = self.online(&merging.merge)
            && let Err(error) = online.end_unchanged().await
        {
            tracing::warn!(error = chain(&error), "a file stays open for writing");
        }
        self.save_or_log().await;
    }

    /// Cancels an operation that waits for merges.
    pub(in crate::vm) async fn cancel_merge(&mut self, op: OperationId) {
        let of_op = |waiting: &Waiting| waiting.op == op;
        let Some(at) = self.merger.waiting.iter().position(of_op) else { return };
        let waiting = self.merger.waiting.remove(at);
        if self.merger.waiting.is_empty() && !self.merger.wanted {
            self.halt_merge().await;
        } else {
            self.adjust_rate().await;
        }
        self.answer(waiting, &Err(Fault::Cancelled)).await;
    }

    async fn merges_end(&mut self, result: &Result<(), Fault>) {
        self.merger.wanted = false;
        self.merger.patient_since = None;
        for waiting in std::mem::take(&mut self.merger.waiting) {
            self.answer(waiting, result).await;
        }
    }

    async fn answer(&mut self, waiting: Waiting, result: &Result<(), Fault>) {
        let mut replies = waiting.replies.into_iter();
        let Some(first) = replies.next() else { return };
        let left = match waiting.deleted {
            true => "the snapshots are gone; their files are not merged",
            false => "the files of deleted snapshots are not merged",
        };
        let result = match result {
            Ok(()) => Ok(()),
            Err(Fault::Cancelled) => Err(Fault::Cancelled),
            // Their codes say what is to be done.
            Err(Fault::NoSpace(text)) => Err(Fault::NoSpace(format!("{left}: {text}"))),
            Err(Fault::DatastoreMissing(text)) => {
                Err(Fault::DatastoreMissing(format!("{left}: {text}")))
            }
            Err(fault) => Err(Fault::Qemu(format!("{left}: {fault}"))),
        };
        self.finish(waiting.op, result, first).await;
        let outcome = self.record.journal.outcome(waiting.op).unwrap_or(Ok(()));
        for reply in replies {
            let _ = reply.send(outcome.clone().map(|()| self.report()));
        }
    }

    fn teller(&self, merge: &Merge, left: ByteSize) -> Teller {
        let merger = &self.merger;
        Teller {
            hub: self.host.hub.clone(),
            ops: merger.waiting.iter().map(|waiting| waiting.op).collect(),
            before: merger.done,
            merge: merge.bytes,
            all: ByteSize(merger.done.bytes() + left.bytes()),
            disk: merge.disk.clone(),
        }
    }
}

/// Lets nobody build on the files of a merge, and makes sure that they are the VM's own to write to.
/// Blocks.
fn condemn(
    host: &HostContext,
    dir: &VmDir,
    record: &VmRecord,
    merge: &Merge,
) -> Result<Condemned, Fault> {
    let branches = record.branches_on(merge);
    let files: Vec<_> = merge.from.iter().chain([&merge.into]).chain(&branches).cloned().collect();
    files.iter().try_for_each(|file| owned_again(host, record, file))?;
    host.datastores.condemn(dir.datastore().id(), files, "it is being merged")
}
