//! Disks come, go and grow.

use std::collections::BTreeMap;

use hostler_agent_api::GuestDisk;
use hostler_qemu::hotplug::{
    Devices, Removal, clear_disk, lun_of, plug_disk, resize_disk, unplug_disk,
};
use hostler_qemu::{DiskPlan, disk_id};
use hostler_qmp::Qmp;
use hostler_qmp::guest::GuestAgent;
use hostler_types::{ByteSize, DiskBus, DiskSpec, IoLimits, Name};

use super::GUEST;
use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::vm::actor::Actor;
use crate::vm::create::vm_dir;
use crate::vm::guest_disks;
use crate::vm::layers;
use crate::vm::power::disk_plan;

impl Actor {
    /// What the guest uses stays, as far as `agent` is there to be asked: a Linux lets go of a mounted
    /// disk at once, and loses what it has not written yet.
    pub(super) async fn unplug_disks(&mut self, qmp: &Qmp, agent: Option<&GuestAgent>) {
        let Some((running, asked)) = self.compared() else { return };
        let gone = |disk: &&DiskSpec| asked.disks.iter().all(|kept| kept.name != disk.name);
        let gone: Vec<_> = running.spec.disks.iter().filter(gone).cloned().collect();
        let told = match agent {
            Some(agent) if !gone.is_empty() => guest_disks::ask(agent, qmp, &gone).await,
            _ => None,
        };
        for disk in gone {
            let subject = format!("disk {}", disk.name);
            let told = told.iter().flatten().find(|told| told.disk == disk.name);
            if let Some(told) = told.filter(|told| !told.uses.is_empty()) {
                let uses = told.uses.join(", ");
                let why = format!(
                    "the guest uses it, as {}: {uses}; end that in the guest, or take it with force",
                    told.device
                );
                self.refuse(&subject, why);
                continue;
            }
            let removal = match self.plan_of(&disk).await {
                Ok(plan) => unplug_disk(qmp, &plan, GUEST).await,
                Err(fault) => {
                    self.refuse_error(&subject, &fault);
                    continue;
                }
            };
            match removal {
                Ok(Removal::Gone) => self.disk_gone(&disk.name),
                Ok(Removal::Refused) => self.refuse(&subject, "the guest refuses to let it go"),
                Ok(Removal::Waiting) => {
                    let why = format!("the guest did not let it go within {} s", GUEST.as_secs());
                    self.refuse(&subject, why);
                }
                Err(error) => self.refuse_error(&subject, &error),
            }
        }
    }

    /// Whether disks are to come, to go or to grow.
    pub(super) fn disks_differ(&self) -> bool {
        let Some((running, asked)) = self.compared() else { return false };
        let sizes = |disks: &[DiskSpec]| -> BTreeMap<Name, ByteSize> {
            disks.iter().map(|disk| (disk.name.clone(), disk.size)).collect()
        };
        sizes(&running.spec.disks) != sizes(&asked.disks)
    }

    /// What the guest says of the disks that are plugged in.
    pub(super) async fn ask_of_disks(
        &self,
        qmp: &Qmp,
        agent: &GuestAgent,
    ) -> Option<Vec<GuestDisk>> {
        let running = self.record.running.as_ref()?;
        guest_disks::ask(agent, qmp, &running.spec.disks).await
    }

    /// Whether the guest sees its disks as they are, as far as it tells.
    pub(super) fn sees_disks(&self) -> bool {
        let (Some(running), Some(told)) = (&self.record.running, &self.guest_disks) else {
            return true;
        };
        running.spec.disks.iter().all(|disk| {
            let told = told.iter().find(|told| told.disk == disk.name);
            told.is_some_and(|told| told.size.is_none_or(|size| size == disk.size))
        })
    }

    pub(super) async fn change_disks(&mut self, qmp: &Qmp) {
        for disk in self.record.definition.vm.spec.disks.clone() {
            let subject = format!("disk {}", disk.name);
            if self.is_live(&subject)
                && let Err(fault) = self.plug_disk(qmp, &disk).await
            {
                self.refuse_error(&subject, &fault);
            }
            let subject = format!("disk {} size", disk.name);
            if self.is_live(&subject)
                && let Err(fault) = self.resize(qmp, &disk).await
            {
                self.refuse_error(&subject, &fault);
            }
        }
    }

    async fn plug_disk(&mut self, qmp: &Qmp, disk: &DiskSpec) -> Result<(), Fault> {
        self.ensure_disk(&self.record.clone(), disk).await?;
        self.record.disk_is_made(&disk.name);
        self.own_idle(&disk.name).await?;
        let mut plan = self.plan_of(disk).await?;
        let Some(running) = &self.record.running else { return Ok(()) };
        if disk.bus == DiskBus::VirtioScsi {
            plan.lun = (0..).find(|lun| !running.luns.values().any(|taken| taken == lun));
        }
        let qemu = |error| Fault::Qemu(chain(&error));
        plug_disk(qmp, &plan, running.queues).await.map_err(qemu)?;
        let devices = Devices::of(qmp).await.map_err(qemu)?;
        let lun = match disk.bus {
            DiskBus::VirtioScsi => lun_of(qmp, &disk.name).await.map_err(qemu)?,
            DiskBus::VirtioBlk => None,
        };
        if let Some(running) = &mut self.record.running {
            running.ports.devices = devices.plugged();
            running.luns.extend(lun.map(|lun| (disk_id(&disk.name), lun)));
            // Its limits are set as for every other.
            running.spec.disks.push(DiskSpec { limits: IoLimits::default(), ..disk.clone() });
        }
        Ok(())
    }

    async fn resize(&mut self, qmp: &Qmp, disk: &DiskSpec) -> Result<(), Fault> {
        let active = layers::of(&self.record, &disk.name).first();
        let active = active.ok_or_else(|| Fault::WrongState("it has no file".to_owned()))?;
        let node = layers::node(&self.record, &disk.name, &active.file);
        resize_disk(qmp, &node, disk.size).await.map_err(|error| Fault::Qemu(chain(&error)))?;
        let disks = self.record.running.iter_mut().flat_map(|running| &mut running.spec.disks);
        disks.filter(|known| known.name == disk.name).for_each(|known| known.size = disk.size);
        Ok(())
    }

    async fn plan_of(&self, disk: &DiskSpec) -> Result<DiskPlan, Fault> {
        let (host, record, disk) = (self.host.clone(), self.record.clone(), disk.clone());
        let aio = record.disk_aio();
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            layers::check(&dir, layers::of(&record, &disk.name))?;
            Ok(disk_plan(&dir, &record, &disk, aio))
        })
        .await
    }

    fn disk_gone(&mut self, name: &Name) {
        let Some(running) = &mut self.record.running else { return };
        running.spec.disks.retain(|known| known.name != *name);
        running.ports.devices.remove(&disk_id(name));
        running.luns.remove(&disk_id(name));
    }

    /// Closes the files of disks whose devices are not there: whoever plugged them in (or took them
    /// out) died in the middle.
    pub(in crate::vm) async fn close_disks(&mut self, qmp: &Qmp) {
        let Some(running) = &self.record.running else { return };
        let idle = |disk: &&DiskSpec| running.spec.disks.iter().all(|d| d.name != disk.name);
        let spec = &self.record.definition.vm.spec;
        let idle: Vec<_> = spec.own_disks().filter(idle).cloned().collect();
        for disk in idle {
            let Ok(plan) = self.plan_of(&disk).await else { continue };
            if let Err(error) = clear_disk(qmp, &plan).await {
                tracing::warn!(disk = %disk.name, error = chain(&error), "a disk stays open");
            }
        }
    }
}
