//! What a VM's QEMU really runs with, which is not always what is asked for.
//!
//! It is in the VM's record: a QEMU that resumes must be made like the one whose state was saved,
//! and what differs from the definition is pending. Whoever kills the agent between a change and
//! its record finds the truth restored at the next start: QEMU itself is asked.

use std::collections::BTreeMap;

use hostler_qemu::hotplug::{self, Devices};
use hostler_qemu::{DiskAio, LaunchPlan, MonitorError, PortPlan, Room, disk_id, nic_id};
use hostler_qmp::Qmp;
use hostler_types::{
    Accelerator, ByteSize, Cores, CpuBaseline, DiskBus, DiskSpec, Hardware, IoLimits, VmChange,
    VmSpec, plan_changes,
};
use serde::{Deserialize, Serialize};

use super::record::VmRecord;

/// Ports that are there for what is plugged in later.
const SPARE_PORTS: usize = 8;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// As QEMU has it now.
    pub(crate) spec: VmSpec,
    pub(crate) accelerator: Accelerator,
    /// The CPU that the guest sees, of a VM that asks for no model; `None`: all that there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<CpuBaseline>,
    /// How the disks' files are opened, for as long as this QEMU runs.
    #[serde(default)]
    pub(crate) disk_aio: DiskAio,
    #[serde(default)]
    pub(crate) memory: MemoryKind,
    /// What it was started with.
    pub(crate) boot_memory: ByteSize,
    pub(crate) max_memory: Option<ByteSize>,
    pub(crate) max_cpus: u32,
    /// Queues of each disk.
    pub(crate) queues: u32,
    /// The most CPUs that there have been in this QEMU at a time; see [`Room::cpus_left`].
    pub(crate) cpus_ever: u32,
    pub(crate) ports: PortPlan,
    /// The places of virtio-scsi disks, by device id.
    #[serde(default)]
    pub(crate) luns: BTreeMap<String, u32>,
    /// Why a change that was tried did not come about, by its subject.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, String>,
}

/// What the guest's memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MemoryKind {
    /// Its process's own: that of an instant clone, of a VM that has been cloned, or of one that an
    /// older agent started.
    #[default]
    Own,
    /// A file, which can be frozen.
    File,
}

impl Running {
    /// Of a QEMU that starts with all that is asked for.
    pub(super) fn fresh(
        spec: &VmSpec,
        cpu: Option<CpuBaseline>,
        accelerator: Accelerator,
        disk_aio: DiskAio,
    ) -> Self {
        let blk = spec.disks.iter().filter(|disk| disk.bus == DiskBus::VirtioBlk);
        let nics = spec.nics.iter().map(|nic| &nic.name);
        Self {
            accelerator,
            cpu: cpu.filter(|_| spec.cpu_model.is_none()),
            disk_aio,
            memory: MemoryKind::File,
            boot_memory: spec.memory,
            max_memory: spec.max_memory.or_else(|| LaunchPlan::free_max_memory(spec.memory)),
            max_cpus: Room::for_cpus(spec.cpus).max_cpus,
            queues: spec.cpus.count(),
            cpus_ever: spec.cpus.count(),
            ports: PortPlan::fresh(nics, blk.map(|disk| &disk.name)),
            luns: luns(spec),
            // What QEMU runs with is no place for secrets.
            spec: spec.clone().without_secrets(),
            refused: BTreeMap::new(),
        }
    }

    /// For a QEMU that shall be just like the one before.
    pub(super) fn room(&self) -> Room {
        Room {
            max_cpus: self.max_cpus,
            queues: self.queues,
            plugged_memory: self.plugged_memory(),
            ports: Some(self.ports.clone()),
        }
    }

    /// What has been added to the memory it was started with.
    pub(super) fn plugged_memory(&self) -> ByteSize {
        ByteSize(self.spec.memory.bytes().saturating_sub(self.boot_memory.bytes()))
    }

    pub(super) fn hardware(&self) -> Hardware {
        let cpus = self.spec.cpus.count();
        let ports = self.ports.nics + self.ports.disks + SPARE_PORTS;
        let free = ports.saturating_sub(self.ports.devices.len());
        Hardware {
            cpus,
            max_cpus: cpus + self.room().cpus_left(self.accelerator, cpus, self.cpus_ever),
            memory: self.spec.memory,
            boot_memory: self.boot_memory,
            max_memory: self.max_memory.unwrap_or(self.boot_memory),
            free_ports: u32::try_from(free).unwrap_or(u32::MAX),
        }
    }

    /// How it becomes what is asked for.
    pub(super) fn plan(&self, asked: &VmSpec) -> Vec<VmChange> {
        plan_changes(&self.spec, asked, Some(&self.hardware()))
    }

    /// What is still to be done, with why it is not.
    pub(super) fn pending(&self, asked: &VmSpec) -> Vec<VmChange> {
        let mut plan = self.plan(asked);
        for change in &mut plan {
            if let Some(why) = self.refused.get(&change.subject) {
                change.reason = Some(why.clone());
            }
        }
        plan
    }

    /// Corrects what is recorded by what QEMU says; `asked` names what may have been on its way.
    pub(super) async fn observe(&mut self, qmp: &Qmp, asked: &VmSpec) -> Result<(), MonitorError> {
        let cpus = hotplug::cpus(qmp).await?;
        self.cpus_ever = self.cpus_ever.max(cpus);
        self.spec.cpus = Cores::try_from(cpus).unwrap_or(self.spec.cpus);
        if let Some(plugged) = hotplug::memory(qmp).await? {
            self.spec.memory = ByteSize(self.boot_memory.bytes() + plugged.bytes());
        }
        let devices = Devices::of(qmp).await?;
        self.ports.devices = devices.plugged();
        let nic_there = |nic: &hostler_types::NicSpec| devices.has(&nic_id(&nic.name));
        self.spec.nics.retain(nic_there);
        for nic in asked.nics.iter().filter(|nic| nic_there(nic)) {
            if self.spec.nics.iter().all(|known| known.name != nic.name) {
                self.spec.nics.push(nic.clone());
            }
        }
        let disk_there = |disk: &hostler_types::DiskSpec| devices.has(&disk_id(&disk.name));
        self.spec.disks.retain(disk_there);
        for disk in asked.disks.iter().filter(|disk| disk_there(disk)) {
            if self.spec.disks.iter().all(|known| known.name != disk.name) {
                // Whether its limits had been set is not known; they are set again.
                self.spec.disks.push(DiskSpec { limits: IoLimits::default(), ..disk.clone() });
            }
            if disk.bus == DiskBus::VirtioScsi
                && let Some(lun) = hotplug::lun_of(qmp, &disk.name).await?
            {
                self.luns.insert(disk_id(&disk.name), lun);
            }
        }
        Ok(())
    }
}

/// One place after the other.
fn luns(spec: &VmSpec) -> BTreeMap<String, u32> {
    let scsi = spec.disks.iter().filter(|disk| disk.bus == DiskBus::VirtioScsi);
    scsi.map(|disk| disk_id(&disk.name)).zip(0..).collect()
}

impl VmRecord {
    /// What a start is to make: what was, for a suspended VM; else what is asked for.
    pub(super) fn to_launch(
        &self,
        accelerator: Accelerator,
        disk_aio: DiskAio,
        resume: bool,
    ) -> Running {
        match &self.running {
            Some(running) if resume => {
                Running { disk_aio, memory: MemoryKind::File, ..running.clone() }
            }
            _ => {
                let cpu = self.cpu_baseline.clone();
                Running::fresh(&self.definition.vm.spec, cpu, accelerator, disk_aio)
            }
        }
    }

    /// How its QEMU opens the disks' files.
    pub(super) fn disk_aio(&self) -> DiskAio {
        self.running.as_ref().map(|running| running.disk_aio).unwrap_or_default()
    }

    pub(super) fn pending(&self) -> Vec<VmChange> {
        let asked = &self.definition.vm.spec;
        self.running.as_ref().map(|running| running.pending(asked)).unwrap_or_default()
    }
}
