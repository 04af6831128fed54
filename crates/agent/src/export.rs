//! A VM that is off becomes an archive that can be taken elsewhere.
//!
//! Each disk is flattened into a file of its own in the directory `export` beside the disks, the
//! manifest comes last: what has one is whole. The archive itself is never on the disk; it is put
//! together while it is sent. The server keeps the VM from being started meanwhile, and QEMU's locks
//! on the files would; nobody deletes a file that is being read.

mod archive;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{OperationProgress, VmExportRequest, VmReport};
use hostler_endpoint::{ByteStream, Problem};
use hostler_host::copy::flatten;
use hostler_host::{Access, VmDir, VmUid, layers, volume, write_atomic};
use hostler_types::{
    ByteSize, DiskSpec, ExportManifest, ExportedDisk, LayerFile, OperationId, PowerState, Vm, VmId,
};
use jiff::Timestamp;

use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};
use crate::operations::Operations;
use crate::vm::Vms;

/// Room that an export leaves on a datastore: a full one stops the guests on it.
const RESERVE: u64 = 256 << 20;
/// How often the progress of a copy is looked at; it has no event.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(crate) struct Exports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<HostContext>,
    vms: Vms,
    running: Operations<ExportManifest>,
}

impl Exports {
    pub(crate) fn new(host: Arc<HostContext>, vms: Vms) -> Self {
        Self(Arc::new(Inner { host, vms, running: Operations::new() }))
    }

    /// Makes an archive's parts.
    pub(crate) async fn export(
        &self,
        vm: VmId,
        request: VmExportRequest,
    ) -> Result<ExportManifest, Problem> {
        let this = self.clone();
        let op = request.command.op;
        self.0.running.once(op, || async move { this.make(vm, request).await }).await
    }

    /// Cancels an export; whether it was running.
    pub(crate) fn cancel(&self, op: OperationId) -> bool {
        self.0.running.cancel(op)
    }

    /// The archive, as it is sent.
    pub(crate) async fn content(&self, vm: VmId) -> Result<ByteStream, Fault> {
        let dir = self.dir(vm).await?;
        blocking(move || archive::stream(&dir.export())).await
    }

    pub(crate) async fn remove(&self, vm: VmId) -> Result<(), Fault> {
        let dir = self.dir(vm).await?;
        blocking(move || {
            dir.datastore().check()?;
            remove(&dir.export())
        })
        .await
    }

    async fn dir(&self, vm: VmId) -> Result<VmDir, Fault> {
        let (host, handle) = (self.0.host.clone(), self.0.vms.handle(vm)?);
        blocking(move || Ok(host.datastores.get(handle.datastore())?.vm(vm))).await
    }

    async fn make(&self, vm: VmId, request: VmExportRequest) -> Result<ExportManifest, Fault> {
        let report = self.0.vms.handle(vm)?.report();
        require(&report, &request)?;
        let dir = self.dir(vm).await?;
        let files = report.disks.iter().flat_map(|disk| &disk.layers);
        let files: BTreeSet<LayerFile> = files.map(|layer| layer.file.clone()).collect();
        let what = format!("the VM {vm} is being exported");
        let _held = self.0.host.datastores.hold(dir.datastore().id(), files.clone(), what)?;
        let (looked_at, told) = (dir.clone(), report.clone());
        let definition = blocking(move || prepare(&looked_at, &told, &files)).await?;
        let unfinished = Unfinished(Some(dir.export()));
        let host = self.0.host.clone();
        let record = blocking(move || host.records.get(vm)?.ok_or(Fault::NoVm(vm))).await?;
        let mut disks = Vec::new();
        for disk in definition.spec.own_disks() {
            disks.push(self.flatten(&dir, &report, disk, (request.command.op, record.uid)).await?);
        }
        let manifest = ExportManifest {
            format: ExportManifest::FORMAT.to_owned(),
            at: Timestamp::now(),
            vm: definition,
            networks: request.networks,
            disks,
        };
        let (path, written) = (dir.export().join(ExportManifest::FILE), manifest.clone());
        blocking(move || {
            let bytes = serde_json::to_vec_pretty(&written)
                .map_err(|error| Fault::internal("a manifest", &error))?;
            write_atomic(&path, &bytes, Access::ROOT_ONLY)
                .map_err(|error| Fault::WrongState(format!("cannot write the manifest: {error}")))
        })
        .await?;
        unfinished.keep();
        Ok(manifest)
    }

    async fn flatten(
        &self,
        dir: &VmDir,
        report: &VmReport,
        disk: &DiskSpec,
        (op, owner): (OperationId, VmUid),
    ) -> Result<ExportedDisk, Fault> {
        let layers = report.disks.iter().find(|told| told.name == disk.name);
        let layers = layers.map_or(&[][..], |told| &told.layers);
        let active = layers
            .first()
            .ok_or_else(|| Fault::WrongState(format!("the disk {} has no file yet", disk.name)))?;
        let source = layers::path(dir.datastore(), &active.file);
        let target = dir.export().join(format!("{}.qcow2", disk.name));
        let total = layers.iter().map(|layer| layer.allocated.bytes()).sum();
        let (files, reserve) = ((source.as_path(), target.as_path()), ByteSize(RESERVE));
        let copy = flatten(&self.0.host.qemu_img, dir.datastore(), files, owner, (reserve, None));
        tokio::select! {
            copied = copy => copied?,
            () = self.watch(&target, total, op, disk.name.as_str()) => {}
        }
        let hashed = volume::sha256(&target).await?;
        let (looked_at, name) = (target.clone(), disk.name.clone());
        blocking(move || {
            let file = ByteSize(length(&looked_at)?);
            Ok(ExportedDisk { name, size: volume::virtual_size(&looked_at)?, file, sha256: hashed })
        })
        .await
    }

    /// Tells how far a copy is, and never ends.
    async fn watch(&self, target: &Path, total: u64, op: OperationId, disk: &str) {
        let mut clock = tokio::time::interval(LOOK);
        loop {
            clock.tick().await;
            let done = volume::allocated(target).unwrap_or_default().bytes();
            let percent = u8::try_from((done * 100 / total.max(1)).min(99)).unwrap_or(99);
            let activity = format!("copying disk {disk}");
            self.0.host.hub.progress(OperationProgress { op, percent: Some(percent), activity });
        }
    }
}

fn require(report: &VmReport, request: &VmExportRequest) -> Result<(), Fault> {
    let given = request.command.epoch;
    if given < report.epoch {
        return Err(Fault::StaleEpoch { given, known: report.epoch });
    }
    match report.power {
        PowerState::Stopped | PowerState::Failed => Ok(()),
        power => Err(Fault::Power { action: "exporting it", power, needed: "stopped" }),
    }
}

/// Makes the directory, having looked whether all is as it should be and has room.
fn prepare(dir: &VmDir, report: &VmReport, files: &BTreeSet<LayerFile>) -> Result<Vm, Fault> {
    let definition = dir.read_definition().map_err(|error| Fault::WrongState(chain(&error)))?;
    let definition =
        definition.ok_or_else(|| Fault::WrongState("the VM has no definition".to_owned()))?;
    for disk in &report.disks {
        layers::verify(dir.datastore(), &disk.layers)?;
    }
    let needed: u64 = files
        .iter()
        .map(|file| layers::measure(dir.datastore(), file.clone()).allocated.bytes())
        .sum();
    remove(&dir.export())?;
    let free = dir.datastore().space()?.free.bytes();
    if free < needed.saturating_add(RESERVE) {
        let (free, needed) = (ByteSize(free), ByteSize(needed));
        return Err(Fault::NoSpace(format!(
            "{free} are free on the datastore, and copies of the VM's disks may need {needed}"
        )));
    }
    // The VM's user gets to the copies, which it makes.
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o711)
        .create(dir.export())
        .map_err(|error| Fault::WrongState(format!("cannot make a directory: {error}")))?;
    Ok(definition)
}

fn remove(export: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir_all(export) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::WrongState(format!("cannot remove an export: {error}")))
        }
        _ => Ok(()),
    }
}

fn length(copy: &Path) -> Result<u64, Fault> {
    let gone = |error| Fault::WrongState(format!("the copy of a disk is gone: {error}"));
    Ok(std::fs::metadata(copy).map_err(gone)?.len())
}

/// An export that is removed unless it was finished.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(export) = &self.0 else { return };
        if let Err(error) = remove(export) {
            tracing::warn!(%error, "an unfinished export stays");
        }
    }
}
