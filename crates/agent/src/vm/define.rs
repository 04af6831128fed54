//! A VM gets another definition.

use std::path::PathBuf;

use hostler_agent_api::VmDefinition;
use hostler_host::volume;
use hostler_types::{
    DiskSource, DiskSpec, MigrationTerms, RestartPolicy, SnapshotLimits, Vm, VmSpec,
};

use super::actor::Actor;
use super::create::{make_disk, vm_dir, write_seed};
use super::nics::union;
use super::record::{RecordedState, VmRecord};
use super::{layers, nics};
use crate::blocking::blocking;
use crate::fault::Fault;

impl Actor {
    /// While there is no QEMU, files and networks are made to fit. A guest that runs gets what it
    /// can get; the rest is pending until its next start from nothing. It keeps the disks that it says
    /// it uses, but with `force`.
    pub(super) async fn define(
        &mut self,
        mut definition: VmDefinition,
        force: bool,
    ) -> Result<(), Fault> {
        self.settle_taking().await?;
        self.own_grown(&definition.vm).await?;
        if definition.vm.is_template() {
            // Also when it is one already: a crash may have come in between.
            self.freeze(None).await?;
        }
        let before = &self.record.definition;
        let running = self.record.running.as_ref().map(|running| &running.spec);
        definition.vm.status.snapshots = before.vm.status.snapshots.clone();
        layers::settle(&mut definition.vm, &before.vm.status.disks, running);
        self.check_new_disks(&definition.vm)?;
        let discarded = layers::discarded(&before.vm, &definition.vm);
        self.record.settle(&mut definition.vm.spec);
        if definition.vm.status.datastore != before.vm.status.datastore {
            return Err(Fault::Invalid("a definition cannot move a VM".to_owned()));
        }
        definition.vm.spec.validate().map_err(|e| Fault::Invalid(e.to_string()))?;
        let fixed = self.power.is_live() || self.record.state == RecordedState::Suspended;
        let had = before.vm.status.disks.clone();
        let mut record = VmRecord { definition, ..self.record.clone() };
        let disks = record.definition.vm.status.disks.clone().into_iter().map(|disk| disk.name);
        record.begin_disks(disks.filter(|name| had.iter().all(|known| known.name != *name)));
        if fixed {
            let plugs = union(&record.plugs(), &record.wanted_plugs());
            record.plugs = Some(plugs);
            record.unsettled |= hardware(&record.definition.vm.spec) != hardware(&before.vm.spec);
        } else {
            record = self.settled(record).await?;
        }
        let (host, written) = (self.host.clone(), record.clone());
        blocking(move || {
            let dir = vm_dir(&host, &written)?;
            // First, so that nothing is left that no record knows of.
            layers::discard(&host.datastores, &dir, &discarded, &written)?;
            Ok(dir.write_definition(&written.definition.vm)?)
        })
        .await?;
        let changes = record.unsettled;
        self.record = record;
        if changes {
            // The intent: whoever finds it half done knows what belongs to the VM.
            self.save().await?;
            self.change(force).await;
        }
        Ok(())
    }

    /// A new disk's files would have the names of those that a snapshot holds.
    fn check_new_disks(&self, after: &Vm) -> Result<(), Fault> {
        let known = &self.record.definition.vm.status.disks;
        for disk in after.spec.own_disks() {
            if known.iter().all(|status| status.name != disk.name)
                && let Some(snapshot) = self.record.snapshot_with(&disk.name)
            {
                return Err(Fault::WrongState(format!(
                    "the snapshot `{}` holds another disk `{}`; give the new one another name, or \
                     delete the snapshot",
                    snapshot.name, disk.name
                )));
            }
        }
        Ok(())
    }

    /// Makes files and networks fit the definition, before a start from nothing.
    pub(super) async fn settle(&mut self) -> Result<(), Fault> {
        if self.record.unsettled {
            self.record = self.settled(self.record.clone()).await?;
        }
        Ok(())
    }

    async fn settled(&self, mut record: VmRecord) -> Result<VmRecord, Fault> {
        let known = record.definition.vm.clone();
        layers::settle(&mut record.definition.vm, &known.status.disks, None);
        let discarded = layers::discarded(&known, &record.definition.vm);
        if !discarded.is_empty() {
            let (host, old) = (self.host.clone(), record.clone());
            blocking(move || {
                layers::discard(&host.datastores, &vm_dir(&host, &old)?, &discarded, &old)
            })
            .await?;
        }
        self.fit_files(&record).await?;
        record.plugs = Some(nics::settle(&self.host, &record).await?);
        record.unsettled = false;
        record.disks_are_made();
        Ok(record)
    }

    /// Makes a disk's file if it has none yet; the active one's path.
    ///
    /// # Errors
    /// The file has been there and is not any more.
    pub(super) async fn ensure_disk(
        &self,
        record: &VmRecord,
        disk: &DiskSpec,
    ) -> Result<PathBuf, Fault> {
        let (host, owned, spec) = (self.host.clone(), record.clone(), disk.clone());
        let making = matches!(record.state, RecordedState::Creating { .. });
        let lost = !making && !record.is_unmade(&disk.name);
        let dir = blocking(move || {
            let dir = vm_dir(&host, &owned)?;
            if lost {
                // A new one in its place would be what clones and snapshots lie on.
                layers::check(&dir, layers::of(&owned, &spec.name))?;
            }
            if !dir.disk(&spec.name).exists()
                && spec.provisioning.is_thin()
                && (making || !of_another_vm(&spec.source))
            {
                make_disk(&host, &dir, &owned, &spec)?;
            }
            Ok(dir)
        });
        let dir = dir.await?;
        if !disk.provisioning.is_thin() && !dir.disk(&disk.name).exists() {
            volume::create_whole(&self.host.qemu_img, &dir, disk, record.uid).await?;
        }
        let active = layers::of(record, &disk.name).first().map(|layer| &layer.file);
        let path = active.map(|file| hostler_host::layers::path(dir.datastore(), file));
        Ok(path.unwrap_or_else(|| dir.disk(&disk.name)))
    }

    async fn fit_files(&self, record: &VmRecord) -> Result<(), Fault> {
        for disk in &record.definition.vm.spec.disks {
            let path = self.ensure_disk(record, disk).await?;
            volume::grow(&self.host.qemu_img, &path, disk.size).await?;
        }
        let (host, record) = (self.host.clone(), record.clone());
        blocking(move || write_seed(&vm_dir(&host, &record)?, &record)).await
    }
}

/// Such a disk comes into being with its VM only: what it was made of has gone on since.
fn of_another_vm(source: &DiskSource) -> bool {
    matches!(source, DiskSource::Linked(_) | DiskSource::Copy(_))
}

/// The part of a spec that a running QEMU depends on.
fn hardware(spec: &VmSpec) -> VmSpec {
    VmSpec {
        description: String::new(),
        automation: None,
        migration: MigrationTerms::default(),
        restart: RestartPolicy::default(),
        protected: false,
        recycled: None,
        lease: None,
        snapshot_limits: SnapshotLimits::default(),
        template: None,
        ..spec.clone()
    }
}
