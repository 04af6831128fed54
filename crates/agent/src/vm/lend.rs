//! A VM's files that other VMs' disks lie on.
//!
//! ```text
//!                 freeze                     start, or grow: a new layer on top
//!   disk0 (own) ─────────> disk0 (lent) ──────────────────────────────────────> disk0 <- disk0.1 (own)
//!        ^                      │
//!        └── nothing lies on it ┘
//! ```
//!
//! Whether a file is lent is told by who may do what with it, on the datastore itself: every VM may
//! read a lent file and none may write to it, its own VM neither. What is lent is linked to and
//! copied; what is not lent is written to, merged and removed. The way from one to the other goes
//! through here: lending needs that nothing writes, taking back needs that nothing lies on the file,
//! as the headers on the datastore say, while nobody builds on it (see `datastores::claims`).
//!
//! Claims are one host's. Between hosts that share a datastore each side looks twice: who builds on a
//! lent file looks whether it is lent when its own header is there, and who takes one back looks at the
//! headers when the file is its own. Whichever comes last sees the other, and gives in.

use std::path::Path;
use std::time::Duration;

use hostler_agent_api::{VmFrozen, VmReport};
use hostler_host::layers::path;
use hostler_host::{Datastore, LayerGraph, VmDir, VmUid, volume};
use hostler_types::{
    ByteSize, DiskSpec, DiskStatus, Layer, LayerFile, LayerOwner, Name, PowerState, SnapshotDisk,
    SnapshotId, Vm,
};

use super::actor::Actor;
use super::create::vm_dir;
use super::layers;
use super::record::{RecordedState, VmRecord};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::Fault;

/// Somebody may be about to build on a file that was lent so recently.
const JUST_LENT: Duration = Duration::from_secs(5);

impl Actor {
    /// Makes the disks as they are now, or as a snapshot has them, fit to be cloned.
    pub(super) async fn freeze(&mut self, snapshot: Option<SnapshotId>) -> Result<(), Fault> {
        let chains = match snapshot {
            Some(snapshot) => self.snapshot_chains(snapshot)?,
            None => self.present_chains().await?,
        };
        // A merge would have the files back before the clone lies on them.
        self.merger.be_patient(JUST_LENT);
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            chains.iter().try_for_each(|chain| lend_all(&dir, chain))
        })
        .await
    }

    fn snapshot_chains(&self, id: SnapshotId) -> Result<Vec<Vec<LayerFile>>, Fault> {
        let snapshots = &self.record.definition.vm.status.snapshots;
        let found = snapshots
            .get(id)
            .ok_or_else(|| Fault::WrongState(format!("the VM has no snapshot {id} (any more)")))?;
        Ok(found.disks.iter().map(|disk| disk.layers.clone()).collect())
    }

    async fn present_chains(&mut self) -> Result<Vec<Vec<LayerFile>>, Fault> {
        // What a guest writes to cannot be lent.
        let written = match (self.power, &self.machine) {
            (PowerState::Stopped | PowerState::Suspended | PowerState::Failed, None) => 0,
            (PowerState::Running | PowerState::Paused, Some(_)) => {
                self.put_nameless(None).await?;
                1
            }
            (power, _) => {
                let needed = "running or stopped";
                return Err(Fault::Power { action: "cloning it", power, needed });
            }
        };
        let files = |disk: &Name| {
            let chain = layers::of(&self.record, disk);
            chain.iter().skip(written).map(|layer| layer.file.clone()).collect()
        };
        Ok(self.record.definition.vm.spec.disks.iter().map(|disk| files(&disk.name)).collect())
    }

    /// Gives each of these disks whose active file is lent a new one, or takes the file back, before
    /// anything writes to it.
    pub(super) async fn own_active(&mut self, disks: Vec<Name>) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let lent = blocking(move || lent_disks(&host, &record, disks)).await?;
        match lent.is_empty() {
            true => Ok(()),
            false => self.put_nameless(Some(&lent)).await,
        }
    }

    /// As [`Self::own_active`], of a disk that no process has open, whatever the guest does.
    pub(super) async fn own_idle(&mut self, disk: &Name) -> Result<(), Fault> {
        let (host, record, name) = (self.host.clone(), self.record.clone(), disk.clone());
        let planned = blocking(move || {
            let lent = lent_disks(&host, &record, vec![name.clone()])?;
            let active = layers::of(&record, &name).first().filter(|_| !lent.is_empty());
            let Some(active) = active else { return Ok(None) };
            let dir = vm_dir(&host, &record)?;
            layers::check(&dir, layers::of(&record, &name))?;
            let beneath = active.file.clone();
            Ok(Some((record.new_file(&dir, &name), beneath, dir)))
        });
        let Some((file, beneath, dir)) = planned.await? else { return Ok(()) };
        // Whoever finds it in no chain knows that it is nothing's.
        self.record.begin_files([file.clone()]);
        self.save().await?;
        let (made, uid) = (file.clone(), self.record.uid);
        blocking(move || {
            let size = volume::virtual_size(&path(dir.datastore(), &beneath))?;
            Ok(volume::create_layer(&dir, &made, size, &beneath, uid)?)
        })
        .await?;
        self.record.put_file(disk, Layer { file, allocated: ByteSize(0) });
        self.save_chains().await
    }

    /// As [`Self::own_active`], of the disks that are to grow, while nothing runs.
    pub(super) async fn own_grown(&mut self, after: &Vm) -> Result<(), Fault> {
        if self.machine.is_some() || self.record.state == RecordedState::Suspended {
            return Ok(());
        }
        let before = &self.record.definition.vm.spec;
        let grows = |disk: &&DiskSpec| {
            before.disks.iter().any(|had| had.name == disk.name && had.size != disk.size)
        };
        let grown = after.spec.disks.iter().filter(grows).map(|disk| disk.name.clone());
        self.own_active(grown.collect()).await
    }
}

/// The disks whose active file others need. Files that nobody needs are taken back. Blocks.
fn lent_disks(host: &HostContext, record: &VmRecord, disks: Vec<Name>) -> Result<Vec<Name>, Fault> {
    let dir = vm_dir(host, record)?;
    let mut lent = Vec::new();
    for disk in disks {
        let Some(active) = layers::of(record, &disk).first() else { continue };
        let place = path(dir.datastore(), &active.file);
        if !volume::is_lent(&place)? {
            continue;
        }
        // A new layer is always right: what cannot be told must not keep a VM from starting.
        let own = take_back(host, record, &active.file, JUST_LENT).unwrap_or_else(|error| {
            let file = &active.file;
            tracing::warn!(%file, %error, "cannot tell who needs a lent file; it stays lent");
            false
        });
        if !own {
            lent.push(disk);
        }
    }
    Ok(lent)
}

/// The answer to who has let a VM's disks be frozen: what a clone of them builds upon. Blocks.
pub(crate) fn answer(
    host: &HostContext,
    report: VmReport,
    snapshot: Option<SnapshotId>,
) -> Result<VmFrozen, Fault> {
    if let Some(snapshot) = snapshot.and_then(|id| report.snapshots.get(id)) {
        let disks = snapshot.disks.clone();
        return Ok(VmFrozen { report, disks });
    }
    let record = host.records.get(report.vm)?.ok_or(Fault::NoVm(report.vm))?;
    let disks = frozen(&host.datastores.get(record.datastore())?, &report.disks)?;
    Ok(VmFrozen { report, disks })
}

/// Of each disk the files from the topmost lent one down.
fn frozen(datastore: &Datastore, disks: &[DiskStatus]) -> Result<Vec<SnapshotDisk>, Fault> {
    let mut frozen = Vec::new();
    for disk in disks {
        let mut files: Vec<LayerFile> =
            disk.layers.iter().map(|layer| layer.file.clone()).collect();
        while let Some(top) = files.first() {
            if volume::is_lent(&path(datastore, top))? {
                break;
            }
            files.remove(0);
        }
        let Some(top) = files.first() else { continue };
        let size = volume::virtual_size(&path(datastore, top))?;
        frozen.push(SnapshotDisk { name: disk.name.clone(), size, layers: files });
    }
    Ok(frozen)
}

/// Lends all files of a chain that are the VM's own, which nothing writes to. Blocks.
pub(super) fn lend_all(dir: &VmDir, chain: &[LayerFile]) -> Result<(), Fault> {
    let own = |file: &&LayerFile| file.owner() == LayerOwner::Vm(dir.id());
    // The lowest first: where one is lent, all beneath it can be read.
    for file in chain.iter().filter(own).rev() {
        volume::lend(&path(dir.datastore(), file))?;
    }
    Ok(())
}

/// Refuses a file that something may write to. The caller holds it. Blocks.
pub(super) fn require_lent(datastore: &Datastore, file: &LayerFile) -> Result<(), Fault> {
    let lent = || volume::is_lent_now(&path(datastore, file));
    if matches!(file.owner(), LayerOwner::Image(_)) || lent()? {
        return Ok(());
    }
    let text = format!("{file} is not there any more, or its VM writes to it; try again");
    Err(Fault::WrongState(text))
}

/// Makes a file that lies on a lent one. What was made is to be removed when this fails. The caller
/// holds the lent one. Blocks.
pub(super) fn build_on(
    datastore: &Datastore,
    file: &LayerFile,
    make: impl FnOnce() -> Result<(), Fault>,
) -> Result<(), Fault> {
    require_lent(datastore, file)?;
    make()?;
    // Its VM may be another host's, which has looked for dependents before there was this one.
    require_lent(datastore, file)
}

/// Makes sure that a file of the VM is its own, to write to.
///
/// # Errors
/// Others lie on it. Blocks.
pub(super) fn owned_again(
    host: &HostContext,
    record: &VmRecord,
    file: &LayerFile,
) -> Result<(), Fault> {
    let datastore = host.datastores.get(record.datastore())?;
    if !volume::is_lent(&path(&datastore, file))? || take_back(host, record, file, Duration::ZERO)?
    {
        return Ok(());
    }
    let text =
        format!("other VMs' disks lie on {file}; make those independent, or delete them, first");
    Err(Fault::InUse(text))
}

/// Makes a lent file of the VM its own again, unless something lies on it or reads it, or it was lent
/// less than `after` ago; whether it is. Blocks.
fn take_back(
    host: &HostContext,
    record: &VmRecord,
    file: &LayerFile,
    after: Duration,
) -> Result<bool, Fault> {
    // Nothing is to write to a template's, whether anything lies on them or not.
    if record.definition.vm.is_template() {
        return Ok(false);
    }
    let datastore = host.datastores.get(record.datastore())?;
    let place = path(&datastore, file);
    if !after.is_zero() && age_of_lending(&place).is_none_or(|age| age < after) {
        return Ok(false);
    }
    let why = "its VM is about to write to it";
    let Ok(_condemned) = host.datastores.condemn(datastore.id(), [file.clone()], why) else {
        return Ok(false);
    };
    take(&place, record.uid, || {
        let graph = LayerGraph::read(&datastore)?;
        // A layer of the VM's own needs nothing lent, unless it is lent itself.
        let needs = |user: &LayerFile| {
            user.owner() != file.owner() || volume::is_lent(&path(&datastore, user)).unwrap_or(true)
        };
        Ok(graph.dependents(file).any(needs))
    })
}

/// Gives a lent file to its VM's user, unless others need it; whether that is so is asked before and
/// after, when it may stay lent all the same. Blocks.
fn take(
    place: &Path,
    owner: VmUid,
    mut needed: impl FnMut() -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    if needed()? {
        return Ok(false);
    }
    volume::set_owner(place, owner)?;
    match needed() {
        Ok(false) => Ok(true),
        needed => {
            volume::lend(place)?;
            needed.map(|_| false)
        }
    }
}

/// After a VM has let go of `chain`: gives the files of others in it back to them, as far as nothing
/// needs them any more. What fails is tried again when their VM starts. Blocks.
pub(super) fn give_back(host: &HostContext, record: &VmRecord, chain: &[Layer]) {
    let own = LayerOwner::Vm(record.id());
    for layer in chain.iter().filter(|layer| layer.file.owner() != own) {
        let LayerOwner::Vm(owner) = layer.file.owner() else { continue };
        let given = host.records.get(owner).and_then(|lender| match lender {
            Some(lender) => take_back(host, &lender, &layer.file, JUST_LENT),
            None => Ok(false),
        });
        match given {
            Ok(true) => {}
            // What lies beneath a lent file is lent, too.
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(file = %layer.file, %error, "a file stays lent for now");
                return;
            }
        }
    }
}

/// Since when a file has the owner that it has.
fn age_of_lending(file: &Path) -> Option<Duration> {
    use std::os::unix::fs::MetadataExt;
    let changed = std::fs::symlink_metadata(file).ok()?.ctime();
    let now = jiff::Timestamp::now().as_second();
    // A clock that was set back says nothing.
    u64::try_from(now.checked_sub(changed)?).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use hostler_types::{DatastoreId, VmId};

    use super::*;

    /// A datastore with a lent file.
    fn lent() -> (tempfile::TempDir, Datastore, LayerFile) {
        let dir = tempfile::tempdir().unwrap();
        let datastore = Datastore::create(&dir.path().join("store"), DatastoreId::generate());
        let datastore = datastore.unwrap();
        let file = LayerFile::disk(VmId::generate(), &"disk0".parse().unwrap(), 0);
        let place = path(&datastore, &file);
        std::fs::create_dir(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "").unwrap();
        volume::lend(&place).unwrap();
        (dir, datastore, file)
    }

    fn owner() -> VmUid {
        VmUid::from_slot(3).unwrap()
    }

    #[test]
    fn what_is_built_on_while_it_is_taken_stays_lent() {
        let (_dir, datastore, file) = lent();
        let place = path(&datastore, &file);
        // Somebody on another host builds on it after the first look, then nobody can tell.
        let second: [fn() -> Result<bool, Fault>; 2] =
            [|| Ok(true), || Err(Fault::Internal("unreadable".to_owned()))];
        for second in second {
            let mut looks = 0;
            let taken = take(&place, owner(), || {
                looks += 1;
                if looks == 1 { Ok(false) } else { second() }
            });
            assert!(!taken.unwrap_or(false) && looks == 2);
            assert!(volume::is_lent(&place).unwrap());
        }
        assert!(take(&place, owner(), || Ok(false)).unwrap());
        assert!(!volume::is_lent(&place).unwrap());
    }

    #[test]
    fn what_is_taken_while_it_is_built_on_is_not_built_on() {
        let (_dir, datastore, file) = lent();
        build_on(&datastore, &file, || Ok(())).unwrap();
        let taken = || Ok(volume::set_owner(&path(&datastore, &file), owner())?);
        let refused = build_on(&datastore, &file, taken).unwrap_err();
        assert!(refused.to_string().contains("try again"), "{refused}");
    }

    #[test]
    fn what_is_lent_again_was_just_lent() {
        let (_dir, datastore, file) = lent();
        let place = path(&datastore, &file);
        let changed = || {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::metadata(&place).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let first = changed();
        let begin = std::time::Instant::now();
        while changed() == first {
            // A clock of the kernel's that ticks every some milliseconds.
            assert!(begin.elapsed() < Duration::from_secs(5), "lent since {first:?}");
            volume::lend(&place).unwrap();
        }
    }
}
