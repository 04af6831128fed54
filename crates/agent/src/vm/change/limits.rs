//! Limits of CPU time and disk I/O: the host's business, so they take effect at once.

use std::time::Duration;

use hostler_host::CpuLimits;
use hostler_qemu::MonitorError;
use hostler_qemu::hotplug::{limit_disk, set_balloon, set_link};
use hostler_qmp::Qmp;
use hostler_types::{ByteSize, Millicpus, VmSpec};

use crate::blocking::blocking;
use crate::vm::actor::Actor;

const CPU_LIMIT: &str = "cpu-limit";

impl Actor {
    pub(super) async fn change_limits(&mut self, qmp: &Qmp) {
        if self.is_live(CPU_LIMIT) {
            self.change_cpu_limit().await;
        }
        for disk in self.record.definition.vm.spec.disks.clone() {
            let subject = format!("disk {} limits", disk.name);
            if !self.is_live(&subject) {
                continue;
            }
            match limit_disk(qmp, &disk.name, disk.bus, &disk.limits).await {
                Ok(()) => {
                    let disks = self.record.running.iter_mut().flat_map(|r| &mut r.spec.disks);
                    for known in disks.filter(|known| known.name == disk.name) {
                        known.limits = disk.limits;
                    }
                }
                Err(error) => self.refuse_error(&subject, &error),
            }
        }
    }

    async fn change_cpu_limit(&mut self) {
        let limit = self.record.definition.vm.spec.cpu_limit;
        let (cgroups, vm) = (self.host.cgroups.clone(), self.record.id());
        let limits = cpu_limits(limit);
        let set = blocking(move || {
            cgroups
                .set_cpu(vm, limits)
                .map_err(|error| crate::fault::Fault::WrongState(crate::fault::chain(&error)))
        });
        match set.await {
            Ok(()) => {
                if let Some(running) = &mut self.record.running {
                    running.spec.cpu_limit = limit;
                }
            }
            Err(error) => self.refuse_error(CPU_LIMIT, &error),
        }
    }
}

pub(in crate::vm) fn cpu_limits(limit: Option<Millicpus>) -> CpuLimits {
    CpuLimits { shares: None, limit_millicpus: limit.map(Millicpus::count) }
}

/// What a fresh QEMU is told before anyone hears that it runs.
pub(super) async fn dress(qmp: &Qmp, spec: &VmSpec, plugged: ByteSize) -> Result<(), MonitorError> {
    for disk in spec.disks.iter().filter(|disk| !disk.limits.is_unlimited()) {
        limit_disk(qmp, &disk.name, disk.bus, &disk.limits).await?;
    }
    for nic in spec.nics.iter().filter(|nic| !nic.link.is_up()) {
        set_link(qmp, &nic.name, false).await?;
    }
    if spec.balloon.is_some() {
        let boot = ByteSize(spec.memory.bytes().saturating_sub(plugged.bytes()));
        let target = super::memory::target(spec.balloon, boot, plugged);
        // The guest does it when it has its driver.
        set_balloon(qmp, target, Duration::ZERO).await?;
    }
    Ok(())
}
