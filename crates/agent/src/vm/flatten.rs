//! A VM's disks are made independent of images and of other VMs' disks.
//!
//! ```text
//!   F (another's) <- L0 <- L1 (active)      what L0 shows of F is copied into L0, then its header
//!                    L0 <- L1 (active)      says that nothing lies beneath it; then the record
//! ```
//!
//! The VM's own files, and its snapshots with them, stay as they are. While it runs, QEMU copies (a
//! stream job); else `qemu-img` does. Either takes as long as it takes, so it goes on beside the actor:
//! the guest may be stopped meanwhile, which ends it. What was copied until then is kept. The record
//! names the disk from before the beginning, so that after a crash its header is believed; a QEMU that
//! copies still gives it up then, and begins with what there is if that is asked for again.

use std::collections::VecDeque;

use hostler_agent_api::OperationProgress;
use hostler_host::VmDir;
use hostler_host::copy::{CopyProgress, make_alone};
use hostler_host::layers::backing;
use hostler_qemu::{
    BlockJob, Copied, MonitorError, Stream, close_nodes, flush_layer, jobs, open_for_writing,
};
use hostler_qmp::Qmp;
use hostler_types::{Layer, LayerFile, LayerOwner, Name, OperationId, PowerState};

use super::actor::{Actor, Message, Reply};
use super::create::vm_dir;
use super::layers;
use super::lend::{give_back, owned_again};
use super::power::disk_plan;
use super::record::VmRecord;
use crate::blocking::blocking;
use crate::datastores::Condemned;
use crate::fault::{Fault, chain};

/// QEMU's name for the job; a VM has one at a time.
const JOB: &str = "flatten";

/// A flattening under way.
#[derive(Debug)]
pub(super) struct Flattening {
    op: OperationId,
    reply: Reply,
    rate: Option<u64>,
    disk: Name,
    waiting: VecDeque<Name>,
    all: usize,
    _condemned: Option<Condemned>,
}

/// How the copying into one disk has ended.
#[derive(Debug)]
pub(crate) enum Flattened {
    Running(BlockJob, Result<Copied, MonitorError>),
    Off(Result<(), Fault>),
}

impl Actor {
    /// Begins, or lets another asker wait for the one that is under way.
    pub(super) async fn flatten(
        &mut self,
        op: OperationId,
        disks: Vec<Name>,
        rate: Option<u64>,
        reply: Reply,
    ) {
        if let Some(under_way) = &mut self.flattening
            && under_way.op == op
        {
            under_way.reply = reply;
            return;
        }
        let waiting = match self.dependent_disks(disks) {
            Ok(waiting) => waiting,
            Err(fault) => return self.finish(op, Err(fault), reply).await,
        };
        let all = waiting.len();
        let Some(disk) = waiting.front().cloned() else {
            return self.finish(op, Ok(()), reply).await;
        };
        let _condemned = None;
        self.flattening = Some(Flattening { op, reply, rate, disk, waiting, all, _condemned });
        self.next_disk().await;
    }

    /// Whether the command must wait until the disks are independent.
    pub(super) fn require_not_flattening(&self) -> Result<(), Fault> {
        let Some(under_way) = &self.flattening else { return Ok(()) };
        let disk = &under_way.disk;
        Err(Fault::InUse(format!(
            "disk `{disk}` is just being made independent; wait, or cancel it"
        )))
    }

    /// Ends what is under way; its asker is told so when it has ended.
    pub(super) fn stop_flattening(&self) {
        if let Some(under_way) = &self.flattening {
            self.host.cancels.cancel(under_way.op);
        }
    }

    fn dependent_disks(&self, asked: Vec<Name>) -> Result<VecDeque<Name>, Fault> {
        self.require_not_flattening()?;
        let possible =
            [PowerState::Stopped, PowerState::Failed, PowerState::Running, PowerState::Paused];
        if !possible.contains(&self.power) {
            let (action, power) = ("making its disks independent", self.power);
            return Err(Fault::Power { action, power, needed: "running or stopped" });
        }
        let spec = &self.record.definition.vm.spec;
        let names = match asked.is_empty() {
            true => spec.own_disks().map(|disk| disk.name.clone()).collect(),
            false => asked,
        };
        if let Some(unknown) =
            names.iter().find(|name| spec.own_disks().all(|disk| disk.name != **name))
        {
            return Err(Fault::Invalid(format!("disks: the VM has no disk `{unknown}`")));
        }
        let depends = |name: &Name| !self.split(name).1.is_empty();
        Ok(names.into_iter().filter(depends).collect())
    }

    /// The files of a disk that are the VM's own, and those beneath them that are not.
    fn split(&self, disk: &Name) -> (Vec<Layer>, Vec<Layer>) {
        let own = LayerOwner::Vm(self.record.id());
        let layers = layers::of(&self.record, disk);
        let at = layers.iter().take_while(|layer| layer.file.owner() == own).count();
        let (own, others) = layers.split_at(at);
        (own.to_vec(), others.to_vec())
    }

    async fn next_disk(&mut self) {
        let Some(under_way) = &mut self.flattening else { return };
        under_way._condemned = None;
        let Some(disk) = under_way.waiting.pop_front() else {
            return self.flatten_ends(Ok(())).await;
        };
        under_way.disk = disk.clone();
        if let Err(fault) = self.begin_disk(&disk).await {
            self.flatten_ends(Err(fault)).await;
        }
    }

    async fn begin_disk(&mut self, disk: &Name) -> Result<(), Fault> {
        let (own, others) = self.split(disk);
        let Some(lowest) = own.last().cloned() else { return Ok(()) };
        let (host, record, name) = (self.host.clone(), self.record.clone(), disk.clone());
        let (dir, condemned) = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            layers::check(&dir, layers::of(&record, &name))?;
            let why = "it is being made independent";
            owned_again(&host, &record, &lowest.file)?;
            let condemned = host.datastores.condemn(dir.datastore().id(), [lowest.file], why)?;
            Ok((dir, condemned))
        })
        .await?;
        if let Some(under_way) = &mut self.flattening {
            under_way._condemned = Some(condemned);
        }
        self.record.flattening = Some(disk.clone());
        self.save().await?;
        match self.machine.as_ref().map(|machine| machine.live.qmp.clone()) {
            Some(qmp) => self.copy_running(&qmp, &dir, disk, &own).await,
            None => self.copy_off(&dir, own, others),
        }
    }

    async fn copy_running(
        &mut self,
        qmp: &Qmp,
        dir: &VmDir,
        disk: &Name,
        own: &[Layer],
    ) -> Result<(), Fault> {
        let Some(lowest) = own.last() else { return Ok(()) };
        let qemu = |error| Fault::Qemu(chain(&error));
        let plan = layers::plan(dir, &self.record, disk, lowest);
        // One that could not be given up goes on.
        let mut job = match jobs(qmp).await.map_err(qemu)?.iter().any(|job| job.id == JOB) {
            true => BlockJob::found(qmp, JOB),
            false => {
                self.reopen(qmp, dir, disk, own, true).await?;
                let stream = Stream { node: plan.node, base: None };
                let rate = self.flattening.as_ref().and_then(|under_way| under_way.rate);
                BlockJob::stream(qmp, JOB, stream, rate).await.map_err(qemu)?
            }
        };
        let (Some(tell), Some(to_self)) = (self.progress(), self.to_self.upgrade()) else {
            return Ok(());
        };
        let (cancels, op) = (self.host.cancels.clone(), self.op());
        tokio::spawn(async move {
            // Ends without an error when it is cancelled, and never else.
            let cancelled = async {
                let forever = std::future::pending::<Result<(), Fault>>();
                let _cancelled = cancels.unless_cancelled(op, forever).await;
            };
            let copied = job.copied(cancelled, tell).await;
            let _ended = to_self.send(Message::Flattened(Flattened::Running(job, copied))).await;
        });
        Ok(())
    }

    fn copy_off(&self, dir: &VmDir, own: Vec<Layer>, others: Vec<Layer>) -> Result<(), Fault> {
        if self.flattening.as_ref().is_some_and(|under_way| under_way.rate.is_some()) {
            let text = "max_rate: it holds for a VM that runs; nobody is held up by this one";
            return Err(Fault::Invalid(text.to_owned()));
        }
        let (Some(tell), Some(to_self)) = (self.progress(), self.to_self.upgrade()) else {
            return Ok(());
        };
        let tell =
            move |progress: CopyProgress| tell(progress.done.bytes(), progress.total.bytes());
        let (host, dir, uid, op) = (self.host.clone(), dir.clone(), self.record.uid, self.op());
        tokio::spawn(async move {
            let measured = |layers: Vec<Layer>| -> Vec<Layer> {
                let measure =
                    |layer: Layer| hostler_host::layers::measure(dir.datastore(), layer.file);
                layers.into_iter().map(measure).collect()
            };
            let (own, others) = (measured(own), measured(others));
            let chains = (own.as_slice(), others.as_slice());
            let alone = make_alone(&host.qemu_img, dir.datastore(), chains, uid, tell);
            let alone = async { alone.await.map_err(Fault::from) };
            let ended = host.cancels.unless_cancelled(op, alone).await;
            let _ended = to_self.send(Message::Flattened(Flattened::Off(ended))).await;
        });
        Ok(())
    }

    /// The copying into a disk has ended.
    pub(super) async fn flattened(&mut self, flattened: Flattened) {
        let Some(under_way) = &self.flattening else { return };
        let disk = under_way.disk.clone();
        let ended = match flattened {
            Flattened::Off(ended) => ended,
            Flattened::Running(job, copied) => self.end_job(&disk, job, copied).await,
        };
        // Whatever was said: it is so if the header says so.
        match (self.settle_flattening().await, ended) {
            (Ok(()), Ok(())) => self.next_disk().await,
            (Err(fault), _) | (Ok(()), Err(fault)) => self.flatten_ends(Err(fault)).await,
        }
    }

    async fn end_job(
        &mut self,
        disk: &Name,
        mut job: BlockJob,
        copied: Result<Copied, MonitorError>,
    ) -> Result<(), Fault> {
        let Some(qmp) = self.machine.as_ref().map(|machine| machine.live.qmp.clone()) else {
            let text = "the VM has ended meanwhile; what was copied is kept, go on by asking again";
            return Err(Fault::WrongState(text.to_owned()));
        };
        let qemu = |error| Fault::Qemu(chain(&error));
        let (own, others) = self.split(disk);
        let (host, record) = (self.host.clone(), self.record.clone());
        let dir = blocking(move || vm_dir(&host, &record)).await?;
        let ended = match copied.map_err(qemu)? {
            Copied::Cancelled => {
                job.give_up().await.map_err(qemu)?;
                Err(Fault::Cancelled)
            }
            Copied::All => {
                self.flush(&qmp, &dir, disk, (&own, &others)).await?;
                job.finish().await.map_err(qemu)?;
                job.forget().await.map_err(qemu)?;
                let nodes: Vec<_> = others
                    .iter()
                    .map(|layer| layers::plan(&dir, &self.record, disk, layer).node)
                    .collect();
                let closed = close_nodes(&qmp, nodes.iter().map(String::as_str)).await;
                closed.map_err(qemu)
            }
        };
        self.reopen(&qmp, &dir, disk, &own, false).await?;
        ended
    }

    /// What was copied is in the file before its header says that nothing lies beneath it: a QEMU that is
    /// killed takes with it what it holds of the tables that say where the copies are.
    async fn flush(
        &self,
        qmp: &Qmp,
        dir: &VmDir,
        disk: &Name,
        (own, others): (&[Layer], &[Layer]),
    ) -> Result<(), Fault> {
        let spec = self.record.definition.vm.spec.own_disks().find(|spec| spec.name == *disk);
        let (Some(spec), Some(lowest)) = (spec, own.last()) else { return Ok(()) };
        let cache = disk_plan(dir, &self.record, spec, self.record.disk_aio()).cache;
        let plan = layers::plan(dir, &self.record, disk, lowest);
        let beneath = others.first().map(|layer| layers::plan(dir, &self.record, disk, layer).node);
        let flushed = flush_layer(qmp, &plan, cache, beneath.as_deref()).await;
        flushed.map_err(|error| Fault::Qemu(chain(&error)))
    }

    /// Opens the lowest file for writing, or for reading only; the active one is written to anyhow.
    async fn reopen(
        &self,
        qmp: &Qmp,
        dir: &VmDir,
        disk: &Name,
        own: &[Layer],
        writable: bool,
    ) -> Result<(), Fault> {
        let spec = self.record.definition.vm.spec.own_disks().find(|spec| spec.name == *disk);
        let (Some(spec), [_, .., lowest]) = (spec, own) else { return Ok(()) };
        let aio = self.record.disk_aio();
        let cache = disk_plan(dir, &self.record, spec, aio).cache;
        let plan = layers::plan(dir, &self.record, disk, lowest);
        let opened = open_for_writing(qmp, &plan, cache, writable).await;
        opened.map_err(|error| Fault::Qemu(chain(&error)))
    }

    /// As [`Self::believe_header`], when nothing copies into the disk any more.
    async fn settle_flattening(&mut self) -> Result<(), Fault> {
        self.believe_header().await?;
        self.record.flattening = None;
        Ok(())
    }

    /// Believes the header of the disk that was being flattened: if nothing lies beneath it, so has
    /// the record it, and the files that did are given back.
    pub(super) async fn believe_header(&mut self) -> Result<(), Fault> {
        let Some(disk) = self.record.flattening.clone() else { return Ok(()) };
        let (own, others) = self.split(&disk);
        let (host, mut record) = (self.host.clone(), self.record.clone());
        self.record = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let Some(lowest) = own.last().filter(|_| !others.is_empty()) else { return Ok(record) };
            if backing(dir.datastore(), &lowest.file)?.is_some() {
                return Ok(record);
            }
            forget_beneath(&mut record, &disk, &lowest.file);
            dir.write_definition(&record.definition.vm)?;
            host.records.save(&record)?;
            give_back(&host, &record, &others);
            Ok(record)
        })
        .await?;
        self.publish();
        Ok(())
    }

    /// Gives up what an agent that has died had QEMU copy: its asker may never ask again, and with a
    /// file open that should not be, QEMU refuses to merge, to suspend and to be forked. What was copied
    /// is kept.
    pub(super) async fn abandon_flattening(&mut self, qmp: &Qmp) {
        if let Err(error) = self.abandoned(qmp).await {
            tracing::error!(vm = %self.record.id(), %error, "a flattening cannot be given up");
        }
    }

    async fn abandoned(&mut self, qmp: &Qmp) -> Result<(), Fault> {
        let qemu = |error| Fault::Qemu(chain(&error));
        if jobs(qmp).await.map_err(qemu)?.iter().any(|job| job.id == JOB) {
            BlockJob::found(qmp, JOB).give_up().await.map_err(qemu)?;
        }
        let Some(disk) = self.record.flattening.clone() else { return Ok(()) };
        let (own, _) = self.split(&disk);
        let (host, record) = (self.host.clone(), self.record.clone());
        let dir = blocking(move || vm_dir(&host, &record)).await?;
        self.settle_flattening().await?;
        self.reopen(qmp, &dir, &disk, &own, false).await
    }

    async fn flatten_ends(&mut self, ended: Result<(), Fault>) {
        self.record.flattening = None;
        let Some(under_way) = self.flattening.take() else { return };
        let Flattening { op, reply, .. } = under_way;
        self.finish(op, ended, reply).await;
    }

    fn op(&self) -> OperationId {
        self.flattening.as_ref().map_or_else(OperationId::generate, |under_way| under_way.op)
    }

    /// Tells bytes done and in total.
    fn progress(&self) -> Option<impl Fn(u64, u64) + Send + 'static> {
        let under_way = self.flattening.as_ref()?;
        let (hub, op, all) = (self.host.hub.clone(), under_way.op, under_way.all.max(1));
        let before = all - 1 - under_way.waiting.len().min(all - 1);
        let activity = format!("copying into disk {}", under_way.disk);
        Some(move |done: u64, total: u64| {
            let one = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
            let whole = (before as u64 * 100 + one) / all as u64;
            let percent = u8::try_from(whole).ok();
            hub.progress(OperationProgress { op, percent, activity: activity.clone() });
        })
    }
}

/// In the disk's chain and in those of its snapshots nothing lies beneath a file any more.
fn forget_beneath(record: &mut VmRecord, disk: &Name, lowest: &LayerFile) {
    let status = &mut record.definition.vm.status;
    for chain in status.disks.iter_mut().filter(|status| status.name == *disk) {
        let at = chain.layers.iter().position(|layer| layer.file == *lowest);
        chain.layers.truncate(at.map_or(usize::MAX, |at| at + 1));
    }
    let snapshots = status.snapshots.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks);
    for held in snapshots.filter(|held| held.name == *disk) {
        let at = held.layers.iter().position(|file| file == lowest);
        held.layers.truncate(at.map_or(usize::MAX, |at| at + 1));
    }
}
