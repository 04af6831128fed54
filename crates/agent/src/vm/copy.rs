//! A VM gets disks that are copies of another VM's: a full clone.
//!
//! The source's files are lent, and held for as long as the copying takes: its VM may be started
//! meanwhile, and writes to new layers then.

use hostler_agent_api::OperationProgress;
use hostler_host::copy::{CopyProgress, copy_disk};
use hostler_host::{Datastore, layers as files};
use hostler_types::{CopySource, DiskSource, DiskSpec, Layer, LayerFile, OperationId};

use super::actor::Actor;
use super::create::vm_dir;
use super::lend::{give_back, require_lent};
use crate::blocking::blocking;
use crate::datastores::Held;
use crate::fault::Fault;

/// A disk to be copied.
struct Source {
    datastore: Datastore,
    chain: Vec<Layer>,
    _held: Vec<Held>,
}

impl Actor {
    /// Makes all disks that are copies, one after another.
    pub(super) async fn copy_disks(&self, op: OperationId) -> Result<(), Fault> {
        let copied = |disk: &DiskSpec| match &disk.source {
            DiskSource::Copy(source) => Some((disk.clone(), source.clone())),
            _ => None,
        };
        let spec = &self.record.definition.vm.spec;
        let copies: Vec<_> = spec.disks.iter().filter_map(copied).collect();
        if copies.is_empty() {
            return Ok(());
        }
        let work = async {
            for (nth, (disk, source)) in copies.iter().enumerate() {
                self.copy(op, disk, source, (nth, copies.len())).await?;
            }
            Ok(())
        };
        self.host.cancels.unless_cancelled(op, work).await
    }

    async fn copy(
        &self,
        op: OperationId,
        disk: &DiskSpec,
        source: &CopySource,
        (nth, count): (usize, usize),
    ) -> Result<(), Fault> {
        let source = self.source(disk, source).await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        let dir = blocking(move || vm_dir(&host, &record)).await?;
        let hub = self.host.hub.clone();
        let activity = format!("copying disk {}", disk.name);
        let report = move |progress: CopyProgress| {
            let percent = overall(progress, nth, count);
            hub.progress(OperationProgress { op, percent, activity: activity.clone() });
        };
        let from = (&source.datastore, source.chain.as_slice());
        let uid = self.record.uid;
        copy_disk(&self.host.qemu_img, from, &dir, disk, uid, report).await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || {
            let Source { datastore, chain, _held } = source;
            if let Some(active) = chain.first() {
                // Another host's VM may have taken it back, and written to it.
                require_lent(&datastore, &active.file)?;
            }
            drop(_held);
            give_back(&host, &record, &chain);
            Ok(())
        })
        .await
    }

    /// The files to be copied, which stay as they are for as long as the answer lives.
    async fn source(&self, disk: &DiskSpec, source: &CopySource) -> Result<Source, Fault> {
        let what = format!(
            "the disk {} of the VM `{}` is just being copied from it",
            disk.name,
            self.record.definition.vm.name()
        );
        let (host, source) = (self.host.clone(), source.clone());
        blocking(move || {
            let hold =
                |files: Vec<LayerFile>| host.datastores.hold(source.datastore, files, what.clone());
            // First the one, so that nothing changes while the rest is found.
            let active = hold(vec![source.file.clone()])?;
            let datastore = host.datastores.get(source.datastore)?;
            require_lent(&datastore, &source.file)?;
            let chain = files::chain(&datastore, &source.file)?;
            let rest = hold(chain.iter().skip(1).cloned().collect())?;
            let chain = chain.into_iter().map(|file| files::measure(&datastore, file)).collect();
            Ok(Source { datastore, chain, _held: vec![active, rest] })
        })
        .await
    }
}

/// Of all disks together, each counting the same.
fn overall(progress: CopyProgress, nth: usize, count: usize) -> Option<u8> {
    let one = progress.done.bytes().saturating_mul(100).checked_div(progress.total.bytes())?;
    let (nth, count) = (u64::try_from(nth).ok()?, u64::try_from(count).ok()?);
    u8::try_from((nth * 100 + one.min(100)).checked_div(count)?).ok()
}
