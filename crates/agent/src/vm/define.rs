//! A VM gets another definition.

use hostler_agent_api::VmDefinition;
use hostler_host::volume;
use hostler_types::{NicSpec, RestartPolicy, VmSpec};

use super::actor::Actor;
use super::create::{make_disk, plug, unplug, vm_dir, write_seed};
use super::layers;
use super::record::{RecordedState, VmRecord};
use crate::blocking::blocking;
use crate::fault::Fault;

impl Actor {
    /// Everything that QEMU was started with may change only while there is no QEMU, and no
    /// suspended memory that expects the same machine.
    pub(super) async fn define(&mut self, mut definition: VmDefinition) -> Result<(), Fault> {
        let before = &self.record.definition;
        layers::settle(&mut definition.vm, &before.vm.status.disks);
        if definition.vm.status.datastore != before.vm.status.datastore {
            return Err(Fault::Invalid("a definition cannot move a VM".to_owned()));
        }
        let fixed = self.power.is_live() || self.record.state == RecordedState::Suspended;
        if fixed && hardware(&definition.vm.spec) != hardware(&before.vm.spec) {
            return Err(Fault::Power {
                action: "changing its hardware",
                power: self.power,
                needed: "stopped",
            });
        }
        let record = VmRecord { definition, ..self.record.clone() };
        if !fixed {
            self.fit_files(&record).await?;
            self.replug(&record).await?;
        }
        let (host, written) = (self.host.clone(), record.clone());
        blocking(move || Ok(vm_dir(&host, &written)?.write_definition(&written.definition.vm)?))
            .await?;
        self.record = record;
        Ok(())
    }

    async fn fit_files(&self, record: &VmRecord) -> Result<(), Fault> {
        for disk in &record.definition.vm.spec.disks {
            let (host, record, disk) = (self.host.clone(), record.clone(), disk.clone());
            let path = blocking(move || {
                let dir = vm_dir(&host, &record)?;
                if !dir.disk(&disk.name).exists() {
                    make_disk(&host, &dir, &record, &disk)?;
                }
                let active = layers::of(&record, &disk.name).first().map(|layer| &layer.file);
                let path = active.map(|file| hostler_host::layers::path(dir.datastore(), file));
                Ok((path, disk.size))
            });
            if let (Some(path), size) = path.await? {
                volume::grow(&self.host.qemu_img, &path, size).await?;
            }
        }
        let (host, record) = (self.host.clone(), record.clone());
        blocking(move || write_seed(&vm_dir(&host, &record)?, &record)).await
    }

    async fn replug(&self, record: &VmRecord) -> Result<(), Fault> {
        let old = &self.record.definition.vm.spec.nics;
        let new = &record.definition.vm.spec.nics;
        let same = |index: usize, nic: &NicSpec, others: &[NicSpec]| {
            others.get(index).is_some_and(|o| o.network == nic.network && o.mac == nic.mac)
        };
        for (index, nic) in old.iter().enumerate().filter(|(index, nic)| !same(*index, nic, new)) {
            unplug(&self.host, &self.record, index, nic).await?;
        }
        for (index, nic) in new.iter().enumerate() {
            plug(&self.host, record, index, nic).await?;
        }
        Ok(())
    }
}

/// The part of a spec that a running QEMU depends on.
fn hardware(spec: &VmSpec) -> VmSpec {
    VmSpec {
        description: String::new(),
        restart: RestartPolicy::default(),
        protected: false,
        recycled: None,
        ..spec.clone()
    }
}
