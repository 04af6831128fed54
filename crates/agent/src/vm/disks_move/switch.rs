//! The instant at which a VM's files become those on the other datastore.
//!
//! The guest stands still from before its mirrors complete until QEMU uses the copies. In between the
//! record is written; so when anything dies before, the old files are the VM's, and afterwards the new
//! ones, and both read alike.

use std::time::Instant;

use hostler_host::VmDir;
use hostler_host::layers::path;
use hostler_qemu::{BlockJob, FixedFile, go_on, jobs, point_to};
use hostler_qmp::Qmp;
use hostler_qmp::command::{JobStatus, Stop};

use super::DisksMove;
use super::copy::Copies;
use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::vm::actor::Actor;
use crate::vm::create::vm_dir;
use crate::vm::layers;
use crate::vm::lend::lend_all;
use crate::vm::record::VmRecord;

impl Actor {
    /// # Errors
    /// The files are where they were, and the guest runs on; unless it says that QEMU was ended.
    pub(super) async fn change_over(&mut self, copies: Copies) -> Result<(), Fault> {
        let Copies { target, mut mirrors } = copies;
        let after = self.record.moved_to(target.datastore().id());
        let (before, written) = (self.record.clone(), after.clone());
        let dir = target.clone();
        blocking(move || write_target(&dir, &before, &written)).await?;
        let Some(qmp) = self.monitor() else {
            return self.commit(after).await;
        };
        let begun = Instant::now();
        if let Some(machine) = &mut self.machine {
            machine.expect_pause();
        }
        let qemu = |error: &(dyn std::error::Error + 'static)| Fault::Qemu(chain(error));
        qmp.execute(Stop).await.map_err(|error| qemu(&error))?;
        let switched = self.change_running(&qmp, &target, after, &mut mirrors).await;
        let committed = matches!(self.record.moving, Some(DisksMove::From(_)));
        if switched.is_err() && committed {
            // It may write to either now, and has not yet. The new files are the VM's.
            if let Some(machine) = &self.machine
                && let Err(error) = machine.process.kill()
            {
                tracing::error!(vm = %self.record.id(), %error, "QEMU cannot be ended");
            }
            return switched;
        }
        if switched.is_err()
            && let Err(error) =
                self.settle_mirrors(&qmp, DisksMove::To(target.datastore().id())).await
        {
            tracing::warn!(vm = %self.record.id(), %error, "mirrors are left; later");
        }
        go_on(&qmp).await.map_err(|error| qemu(&error))?;
        let milliseconds = begun.elapsed().as_millis();
        tracing::info!(vm = %self.record.id(), milliseconds, "the guest stood still for its disks");
        if switched.is_ok()
            && let Some(machine) = &self.machine
        {
            machine.live.console.move_log(target.console_log());
        }
        switched
    }

    /// While the guest stands still.
    async fn change_running(
        &mut self,
        qmp: &Qmp,
        target: &VmDir,
        after: VmRecord,
        mirrors: &mut [BlockJob],
    ) -> Result<(), Fault> {
        let qemu = |error| Fault::Qemu(chain(&error));
        let (host, record, to) = (self.host.clone(), self.record.clone(), target.clone());
        blocking(move || copy_variables(&vm_dir(&host, &record)?, &to)).await?;
        point_files(qmp, target).await?;
        for mirror in mirrors.iter_mut() {
            mirror.complete().await.map_err(qemu)?;
        }
        self.commit(after).await?;
        for mirror in mirrors.iter_mut() {
            if let Err(error) = mirror.finish().await {
                return Err(Fault::Qemu(format!(
                    "QEMU did not change over to the disks' copies and was ended; the copies are \
                     whole, and the VM's: {}",
                    chain(&error)
                )));
            }
            mirror.forget().await.map_err(qemu)?;
        }
        Ok(())
    }

    /// From here on the other files are the VM's.
    async fn commit(&mut self, after: VmRecord) -> Result<(), Fault> {
        let (host, before, written) = (self.host.clone(), self.record.clone(), after.clone());
        blocking(move || {
            host.records.save(&written).inspect_err(|_| {
                // It may be there all the same, and the guest goes on with the files of before.
                if let Err(error) = host.records.save(&before) {
                    tracing::error!(vm = %before.id(), %error, "the record may name the wrong files");
                }
            })
        })
        .await?;
        self.record = after;
        Ok(())
    }

    /// Lets a QEMU go that an agent may have left anywhere in a move: it uses the files that the record
    /// says, and no others.
    pub(super) async fn settle_mirrors(&self, qmp: &Qmp, of: DisksMove) -> Result<(), Fault> {
        let qemu = |error| Fault::Qemu(chain(&error));
        for found in jobs(qmp).await.map_err(qemu)? {
            if !found.id.starts_with("move-") {
                continue;
            }
            let mut job = BlockJob::found(qmp, &found.id);
            match (of, found.status) {
                (DisksMove::To(_), _) => job.give_up().await.map_err(qemu)?,
                (DisksMove::From(_), JobStatus::Concluded) => job.forget().await.map_err(qemu)?,
                // The guest's requests wait for this.
                (DisksMove::From(_), _) => {
                    job.finish().await.map_err(qemu)?;
                    job.forget().await.map_err(qemu)?;
                }
            }
        }
        let (host, record) = (self.host.clone(), self.record.clone());
        let dir = blocking(move || vm_dir(&host, &record)).await?;
        point_files(qmp, &dir).await?;
        self.close_unknown_layers(qmp).await.map_err(qemu)
    }
}

/// What lies beside the copies, and a last look at them. Blocks.
fn write_target(dir: &VmDir, before: &VmRecord, after: &VmRecord) -> Result<(), Fault> {
    for disk in &after.definition.vm.status.disks {
        let chain = before.chain_at_target(&disk.name);
        let made = chain.first().map(|layer| path(dir.datastore(), &layer.file));
        if made.is_some_and(|path| path.exists()) || !before.is_unmade(&disk.name) {
            layers::check(dir, &chain)?;
        }
        if after.definition.vm.is_template() {
            let files: Vec<_> = chain.into_iter().map(|layer| layer.file).collect();
            lend_all(dir, &files)?;
        }
    }
    Ok(dir.write_definition(&after.definition.vm)?)
}

/// The UEFI variables, which the guest cannot write now. Blocks.
fn copy_variables(from: &VmDir, to: &VmDir) -> Result<(), Fault> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let failed = |error: std::io::Error| Fault::internal("copy UEFI variables", &error);
    let metadata = match std::fs::symlink_metadata(from.nvram()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(failed)?,
    };
    let bytes = std::fs::read(from.nvram()).map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    let access = hostler_host::Access { mode, uid: metadata.uid(), gid: metadata.gid() };
    hostler_host::write_atomic(&to.nvram(), &bytes, access).map_err(failed)
}

/// Lets QEMU use the seed and the UEFI variables that are in a directory.
async fn point_files(qmp: &Qmp, dir: &VmDir) -> Result<(), Fault> {
    for (file, path) in [(FixedFile::Seed, dir.seed()), (FixedFile::Variables, dir.nvram())] {
        point_to(qmp, file, &path).await.map_err(|error| Fault::Qemu(chain(&error)))?;
    }
    Ok(())
}
