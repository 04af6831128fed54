//! What lies on a datastore, and the removal of what nothing needs.
//!
//! The server holds the files against its inventory. What it then wants removed is looked at again
//! here, where the VMs of this host and the headers of all disk files are known.

use hostler_agent_api::{FoundDefinition, FoundFile, FoundFiles, FoundKind, RemovedFile};
use hostler_host::survey::{self, Found, What, locate};
use hostler_host::{Datastore, FoundVm};
use hostler_types::{ByteSize, DatastoreId, ImageId, LayerFile, VmId, is_vm_file};
use jiff::Timestamp;

use crate::fault::{Fault, chain};
use crate::references::require_unused;
use crate::routes::Service;

impl Service {
    /// Blocks for as long as the walk takes.
    pub(crate) fn files(&self, datastore: DatastoreId) -> Result<FoundFiles, Fault> {
        let datastore = self.host.datastores.get(datastore)?;
        let survey = survey::survey(&datastore)?;
        Ok(FoundFiles {
            files: survey.found.into_iter().map(file).collect(),
            definitions: datastore.scan()?.into_iter().map(definition).collect(),
            truncated: survey.truncated,
        })
    }

    /// Removes what nothing needs; each by itself, so that one which stays keeps no other. Blocks.
    pub(crate) fn remove_files(
        &self,
        datastore: DatastoreId,
        paths: &[String],
    ) -> Result<Vec<RemovedFile>, Fault> {
        let datastore = self.host.datastores.get(datastore)?;
        let removed = paths.iter().map(|path| {
            let removed = self.remove_file(&datastore, path);
            let (freed, refused) = match removed {
                Ok(freed) => (freed, None),
                Err(fault) => (ByteSize(0), Some(fault.to_string())),
            };
            RemovedFile { path: path.clone(), freed, refused }
        });
        Ok(removed.collect())
    }

    fn remove_file(&self, datastore: &Datastore, path: &str) -> Result<ByteSize, Fault> {
        datastore.check()?;
        let place = match locate(datastore, path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ByteSize(0)),
            place => place.map_err(|error| Fault::WrongState(chain(&error)))?,
        };
        self.require_ownerless(path)?;
        let files = layers_at(datastore, path)?;
        let why = "it is being removed";
        let _condemned = self.host.datastores.condemn(datastore.id(), files.clone(), why)?;
        require_unused(datastore, &files)?;
        if let Some(image) = image_at(path)
            && let Some(user) = self.images.user_of(image)?
        {
            return Err(Fault::InUse(user));
        }
        let freed = survey::allocated(&place);
        survey::remove(datastore, &place)?;
        tracing::info!(datastore = %datastore.id(), path, "removed a file that nothing needed");
        Ok(freed)
    }

    /// Refuses what one of this host's VMs has: its directory, its definition, its disks, and what
    /// QEMU has open for it.
    fn require_ownerless(&self, path: &str) -> Result<(), Fault> {
        let Some((vm, name)) = vm_at(path) else { return Ok(()) };
        let Ok(handle) = self.vms.handle(vm) else { return Ok(()) };
        let report = handle.report();
        let layers = report.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
        let snapshots = report.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        let mut layers = layers.chain(snapshots.flat_map(|disk| &disk.layers));
        let own = name.is_empty()
            || layers.any(|file| file.as_str() == path)
            || is_vm_file(name, &report.snapshots);
        match own {
            true => Err(Fault::InUse(format!("it belongs to the VM {vm}"))),
            false => Ok(()),
        }
    }
}

/// The disk files at, or below, a path.
fn layers_at(datastore: &Datastore, path: &str) -> Result<Vec<LayerFile>, Fault> {
    if let Ok(layer) = path.parse::<LayerFile>() {
        return Ok(vec![layer]);
    }
    match vm_at(path) {
        Some((vm, "")) => Ok(datastore.vm(vm).layer_files()?),
        _ => Ok(Vec::new()),
    }
}

fn image_at(path: &str) -> Option<ImageId> {
    let name = path.strip_prefix("images/")?;
    name.split_once('.').map_or(name, |(stem, _)| stem).parse().ok()
}

/// The VM in whose directory a path lies, and the name there: empty for the directory itself.
fn vm_at(path: &str) -> Option<(VmId, &str)> {
    let rest = path.strip_prefix("vms/")?;
    let (vm, name) = rest.split_once('/').unwrap_or((rest, ""));
    Some((vm.parse().ok()?, name))
}

fn file(found: Found) -> FoundFile {
    let kind = match found.what {
        What::Layer(Ok(None)) => FoundKind::Base,
        What::Layer(Ok(Some(beneath))) => FoundKind::Overlay(beneath),
        What::Layer(Err(reason)) => FoundKind::Unusable(reason),
        What::File => FoundKind::File,
        What::Directory => FoundKind::Directory,
        What::Other => FoundKind::Other,
    };
    let modified = Timestamp::try_from(found.modified).unwrap_or(Timestamp::UNIX_EPOCH);
    let (size, allocated) = (found.size, found.allocated);
    FoundFile { path: found.path, kind, size, allocated, modified }
}

fn definition(found: FoundVm) -> FoundDefinition {
    let (name, problem) = match found.definition {
        Ok(vm) => (Some(vm.called().clone()), None),
        Err(error) => {
            let text = chain(&error);
            (None, Some(text.chars().filter(|c| !c.is_control()).take(300).collect()))
        }
    };
    FoundDefinition { vm: found.id, registered: found.registered, name, problem }
}
