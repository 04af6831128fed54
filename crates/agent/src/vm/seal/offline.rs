//! Sealing the guest of a VM that is off: in the appliance, on fresh layers over its disks.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use hostler_host::layers::{measure, path};
use hostler_host::volume;
use hostler_qemu::{Appliance, ApplianceError, DiskAio, DiskPlan, QEMU};
use hostler_types::{Accelerator, DiskBus, LayerFile, Name, OperationId, SealWay, disk_serial};
use jiff::Timestamp;

use super::super::actor::Actor;
use super::super::create::{end_processes, vm_dir};
use super::super::layers;
use super::super::power::{credentials, disk_plan};
use super::super::record::VmRecord;
use super::report::Report;
use super::{GUEST_SCRIPT, MAX_REPORT};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};

const DISKS_SCRIPT: &str = include_str!("disks.sh");
/// Under emulation it boots in some 3 s and trims a gigabyte a second.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A layer that is not the disk's yet.
#[derive(Debug, Clone)]
struct Fresh {
    disk: Name,
    file: LayerFile,
}

impl Actor {
    pub(super) async fn seal_offline(&mut self, op: OperationId) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let fresh = blocking(move || plan(&host, &record)).await?;
        // Whoever finds them after a crash knows that they are nothing's.
        self.record.begin_files(fresh.iter().map(|fresh| fresh.file.clone()));
        self.save().await?;
        // Until here, and no longer, nothing has become of it.
        let work = self.sealed_layers(&fresh);
        let sealed = self.host.cancels.unless_cancelled(op, work).await;
        let (host, id) = (self.host.clone(), self.record.id());
        if let Err(error) = blocking(move || end_processes(&host, id)).await {
            tracing::warn!(vm = %id, %error, "cannot clean up after the appliance");
        }
        let sealed = match sealed {
            // One that fails may have come as far as the disk: then nothing may be removed.
            Ok(report) => Ok(self.own_sealed(report, &fresh).await?),
            Err(fault) => Err(fault),
        };
        self.sweep().await;
        sealed
    }

    /// Makes the layers and has the appliance work on them.
    async fn sealed_layers(&self, fresh: &[Fresh]) -> Result<Report, Fault> {
        let (host, record, made) = (self.host.clone(), self.record.clone(), fresh.to_vec());
        let (accelerator, aio) = self.host.facts.engines().await?;
        let prepared = blocking(move || prepare(&host, &record, &made, aio)).await?;
        self.run_appliance(prepared, fresh, accelerator).await
    }

    async fn run_appliance(
        &self,
        prepared: Prepared,
        fresh: &[Fresh],
        accelerator: Accelerator,
    ) -> Result<Report, Fault> {
        let Prepared { disks, kernel, initrd } = prepared;
        let (host, id) = (self.host.clone(), self.record.id());
        let cgroup_files = blocking(move || {
            host.cgroups.create(id).map_err(|error| Fault::internal("cgroup", &error))?;
            host.cgroups.join_files(id).map_err(|error| Fault::internal("cgroup", &error))
        });
        let appliance = Appliance {
            program: QEMU.into(),
            accelerator,
            kernel,
            initrd,
            script: script(),
            disks,
            credentials: credentials(self.record.uid, accelerator),
            cgroup_files: cgroup_files.await?,
            limit: LIMIT,
            max_report: MAX_REPORT,
        };
        let said = appliance.run().await.map_err(|error| appliance_fault(&error))?;
        let report = Report::parse(&said)?;
        let known = |serial: &String| fresh.iter().any(|fresh| disk_serial(&fresh.disk) == *serial);
        match report.changed.iter().all(known) {
            true => Ok(report),
            false => Err(Fault::Qemu("the appliance speaks of disks that it has not".to_owned())),
        }
    }

    /// The layers that were written to become the disks' own, and the guest is sealed: one write.
    async fn own_sealed(&mut self, report: Report, fresh: &[Fresh]) -> Result<(), Fault> {
        let written = |fresh: &&Fresh| report.changed.contains(&disk_serial(&fresh.disk));
        let written: Vec<_> = fresh.iter().filter(written).cloned().collect();
        let (host, mut record) = (self.host.clone(), self.record.clone());
        record.seal = Some(report.into_seal(SealWay::Offline, Timestamp::now()));
        let record = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            for fresh in &written {
                let place = path(dir.datastore(), &fresh.file);
                flush(&place)?;
                if record.definition.vm.is_template() {
                    volume::lend(&place)?;
                }
                let layer = measure(dir.datastore(), fresh.file.clone());
                record.put_file(&fresh.disk, layer);
            }
            host.records.save(&record)?;
            Ok(record)
        });
        self.record = record.await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        let definition =
            blocking(move || Ok(vm_dir(&host, &record)?.write_definition(&record.definition.vm)?));
        if let Err(error) = definition.await {
            tracing::error!(vm = %self.record.id(), %error, "cannot write the VM's definition");
        }
        Ok(())
    }
}

/// Which layers there are to be: one over each disk that is plugged in. Blocks.
fn plan(host: &HostContext, record: &VmRecord) -> Result<Vec<Fresh>, Fault> {
    let dir = vm_dir(host, record)?;
    let mut fresh = Vec::new();
    for disk in &record.definition.vm.spec.disks {
        layers::check(&dir, layers::of(record, &disk.name))?;
        let file = record.new_file(&dir, &disk.name);
        fresh.push(Fresh { disk: disk.name.clone(), file });
    }
    match fresh.is_empty() {
        true => {
            let text = "the VM has no disk, so there is nothing to seal".to_owned();
            Err(Fault::WrongState(text))
        }
        false => Ok(fresh),
    }
}

/// What the appliance needs.
struct Prepared {
    /// With the fresh layers.
    disks: Vec<DiskPlan>,
    kernel: File,
    initrd: File,
}

/// Blocks.
fn prepare(
    host: &HostContext,
    record: &VmRecord,
    fresh: &[Fresh],
    aio: DiskAio,
) -> Result<Prepared, Fault> {
    let kernel = appliance_file(&host.appliance, "vmlinuz")?;
    let initrd = appliance_file(&host.appliance, "initrd")?;
    let dir = vm_dir(host, record)?;
    let (mut disks, mut layered) = (Vec::new(), record.clone());
    for (disk, fresh) in record.definition.vm.spec.disks.iter().zip(fresh) {
        let Some(active) = layers::of(record, &disk.name).first() else { continue };
        let size = volume::virtual_size(&path(dir.datastore(), &active.file))?;
        volume::create_layer(&dir, &fresh.file, size, &active.file, record.uid)?;
        layered.put_file(&disk.name, measure(dir.datastore(), fresh.file.clone()));
        let plan = disk_plan(&dir, &layered, disk, aio);
        disks.push(DiskPlan { bus: DiskBus::VirtioBlk, ..plan });
    }
    Ok(Prepared { disks, kernel, initrd })
}

fn appliance_file(directory: &Path, name: &str) -> Result<File, Fault> {
    let path = directory.join(name);
    File::open(&path).map_err(|error| {
        Fault::WrongState(format!(
            "this host has no appliance to seal disks with ({}: {error}); put it there \
             (`scripts/build-image appliance`), or seal it as a VM that runs (a template is made one with `hostler template to-vm`)",
            path.display()
        ))
    })
}

/// The guest's part lies beside the appliance's, as a file.
fn script() -> String {
    const END: &str = "END_OF_GUEST_SCRIPT";
    format!("cat >/tmp/guest.sh <<'{END}'\n{GUEST_SCRIPT}{END}\n{DISKS_SCRIPT}")
}

/// QEMU has written it, and nothing says that it is on the disk.
fn flush(place: &Path) -> Result<(), Fault> {
    let file = fs::OpenOptions::new().read(true).open(place);
    file.and_then(|file| file.sync_all()).map_err(|error| Fault::internal("flush a layer", &error))
}

fn appliance_fault(error: &ApplianceError) -> Fault {
    match error {
        ApplianceError::Hang { limit } => {
            Fault::Timeout { what: "sealing the disks".to_owned(), after: *limit }
        }
        error => Fault::Qemu(format!("the disks cannot be sealed: {}", chain(error))),
    }
}
