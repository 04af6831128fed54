//! The copying of a merge: by a job of QEMU's, or by `qemu-img` where QEMU does not have the files open.

use hostler_agent_api::OperationProgress;
use hostler_host::VmDir;
use hostler_qemu::{BlockJob, Commit, Copied, DiskCache, LayerPlan, close_nodes, open_for_writing};
use hostler_qmp::Qmp;
use hostler_types::{ByteSize, Layer, LayerFile, Merge, Name, OperationId};
use tokio_util::sync::CancellationToken;

use crate::context::HostContext;
use crate::events::Hub;
use crate::fault::{Fault, chain};
use crate::vm::layers;
use crate::vm::record::VmRecord;

/// How copying ended.
#[derive(Debug)]
pub(in crate::vm) enum Outcome {
    /// QEMU has copied all, and waits.
    Copied(BlockJob),
    /// `qemu-img` has merged them.
    Merged,
    Cancelled,
}

/// The job that merges within a disk; one at a time.
pub(super) fn job_id(disk: &Name) -> String {
    format!("merge-{disk}")
}

/// A merge of files that QEMU has open.
pub(super) struct Online {
    pub(super) qmp: Qmp,
    pub(super) id: String,
    pub(super) cache: DiskCache,
    pub(super) commit: Commit,
    pub(super) into: LayerPlan,
    /// The layer on top of the merged ones, if it is not the active one.
    pub(super) above: Option<LayerPlan>,
    /// The nodes that are merged.
    pub(super) from: Vec<String>,
}

impl Online {
    pub(super) async fn begin(
        &self,
        rate: Option<u64>,
    ) -> Result<BlockJob, hostler_qemu::MonitorError> {
        for layer in [Some(&self.into), self.above.as_ref()].into_iter().flatten() {
            open_for_writing(&self.qmp, layer, self.cache, true).await?;
        }
        let job = BlockJob::commit(&self.qmp, &self.id, self.commit.clone(), rate).await;
        if job.is_err() {
            self.end_unchanged().await?;
        }
        job
    }

    /// Closes what has been merged, and what was opened for it.
    pub(super) async fn end(&self) -> Result<(), hostler_qemu::MonitorError> {
        close_nodes(&self.qmp, self.from.iter().map(String::as_str)).await?;
        self.end_unchanged().await
    }

    pub(super) async fn end_unchanged(&self) -> Result<(), hostler_qemu::MonitorError> {
        let still = self.commit.top.is_some().then_some(&self.into);
        for layer in [still, self.above.as_ref()].into_iter().flatten() {
            open_for_writing(&self.qmp, layer, self.cache, false).await?;
        }
        Ok(())
    }

    /// The file whose header QEMU itself has written.
    pub(super) fn above_file(&self, record: &VmRecord) -> Option<LayerFile> {
        self.commit.backing_file.as_ref()?;
        let disks = &record.definition.vm.status.disks;
        let chains = disks.iter().map(|disk| (&disk.name, &disk.layers));
        chains.into_iter().find_map(|(name, chain)| {
            let nodes = chain.iter().map(|layer| layers::node(record, name, &layer.file));
            let top = nodes.into_iter().position(|n| Some(&n) == self.commit.top.as_ref())?;
            chain.get(top.checked_sub(1)?).map(|layer| layer.file.clone())
        })
    }
}

/// Tells how far the merges are.
pub(super) struct Teller {
    pub(super) hub: Hub,
    pub(super) ops: Vec<OperationId>,
    pub(super) before: ByteSize,
    pub(super) merge: ByteSize,
    pub(super) all: ByteSize,
    pub(super) disk: Name,
}

impl Teller {
    fn tell(&self, done: u64, total: u64) {
        let of = |part: u64, whole: u64, all: u64| {
            let parts = u128::from(part) * u128::from(all) / u128::from(whole.max(1));
            u64::try_from(parts).unwrap_or(all).min(all)
        };
        let bytes = self.before.bytes() + of(done, total, self.merge.bytes());
        let percent = u8::try_from(of(bytes, self.all.bytes(), 100)).unwrap_or(100);
        let activity = format!("merging the disk {}", self.disk);
        for op in &self.ops {
            let progress =
                OperationProgress { op: *op, percent: Some(percent), activity: activity.clone() };
            self.hub.progress(progress);
        }
    }
}

pub(super) async fn copy_online(
    mut job: BlockJob,
    teller: Teller,
    cancel: CancellationToken,
) -> Result<Outcome, Fault> {
    let copied = job.copied(cancel.cancelled(), |done, total| teller.tell(done, total)).await;
    match copied.map_err(|error| Fault::Qemu(chain(&error)))? {
        Copied::All => Ok(Outcome::Copied(job)),
        Copied::Cancelled => {
            job.give_up().await.map_err(|error| Fault::Qemu(chain(&error)))?;
            Ok(Outcome::Cancelled)
        }
    }
}

pub(super) async fn copy_offline(
    host: &HostContext,
    record: &VmRecord,
    merge: &Merge,
    rate: Option<u64>,
    cancel: CancellationToken,
) -> Result<Outcome, Fault> {
    let datastore = host.datastores.get(record.datastore())?;
    let path = |file: &LayerFile| hostler_host::layers::path(&datastore, file);
    let (top, into) = (path(&merge.from[0]), path(&merge.into));
    let work = (merge.bytes, rate);
    let merged = host.qemu_img.commit(&top, &into, record.uid, work, cancel.cancelled()).await;
    match merged.map_err(|error| Fault::Qemu(chain(&error)))? {
        true => Ok(Outcome::Merged),
        false => Ok(Outcome::Cancelled),
    }
}

/// Holds the chains that have the merged files against the headers. Blocks.
pub(super) fn check_chains(dir: &VmDir, record: &VmRecord, merge: &Merge) -> Result<(), Fault> {
    let status = &record.definition.vm.status;
    let present = status.disks.iter().map(|disk| disk.layers.clone());
    let layer = |file: &LayerFile| Layer { file: file.clone(), allocated: ByteSize(0) };
    let held = status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let held = held.map(|disk| disk.layers.iter().map(layer).collect());
    let has = |chain: &Vec<Layer>| chain.iter().any(|layer| layer.file == merge.into);
    present.chain(held).filter(has).try_for_each(|chain| layers::check(dir, &chain))
}
