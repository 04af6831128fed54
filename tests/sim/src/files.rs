//! What lies on a simulated datastore.

use hostler_agent_api::{FoundDefinition, FoundFile, FoundFiles, FoundKind, RemovedFile};
use hostler_types::{ByteSize, DatastoreId, LayerFile, PowerState, Vm};
use jiff::Timestamp;

use crate::host::State;

impl State {
    /// All files. Images lie on every datastore: the simulation does not keep them apart.
    pub(crate) fn found(&self, datastore: DatastoreId) -> FoundFiles {
        let vms = || self.files.iter().filter(|((at, _), _)| *at == datastore);
        let suspended = |id: &hostler_types::VmId| {
            self.vms.get(id).is_some_and(|vm| vm.power == PowerState::Suspended)
        };
        let mut files: Vec<FoundFile> =
            vms().flat_map(|((_, id), vm)| files_of(vm, suspended(id))).collect();
        for image in self.images.keys() {
            files.push(found(&format!("images/{image}.qcow2"), FoundKind::Base));
            files.push(found(&format!("images/{image}.json"), FoundKind::File));
        }
        let strays = self.strays.iter().filter(|((at, _), _)| *at == datastore);
        files.extend(strays.map(|(_, file)| file.clone()));
        files.retain(|file| !self.lost.contains(&file.path));
        files.sort_by(|one, two| one.path.cmp(&two.path));
        let definitions = vms().map(|((_, vm), definition)| FoundDefinition {
            vm: *vm,
            registered: self.vms.contains_key(vm),
            name: Some(definition.called().clone()),
            problem: None,
        });
        FoundFiles { files, definitions: definitions.collect(), truncated: false }
    }

    pub(crate) fn remove_file(&mut self, datastore: DatastoreId, path: String) -> RemovedFile {
        self.strays.remove(&(datastore, path.clone()));
        if let Some(vm) = path.strip_prefix("vms/").and_then(|id| id.parse().ok()) {
            if self.vms.contains_key(&vm) {
                let refused = Some(format!("it belongs to the VM {vm}"));
                return RemovedFile { path, freed: ByteSize(0), refused };
            }
            self.files.remove(&(datastore, vm));
            self.strays.retain(|(_, path), _| !path.starts_with(&format!("vms/{vm}/")));
        }
        let image = path.strip_prefix("images/").and_then(|name| name.strip_suffix(".qcow2"));
        if let Some(image) = image.and_then(|id| id.parse().ok()) {
            self.images.remove(&image);
        }
        RemovedFile { path, freed: ByteSize::mib(1), refused: None }
    }
}

fn files_of(vm: &Vm, suspended: bool) -> Vec<FoundFile> {
    let id = vm.id();
    let mut files = vec![found(&format!("vms/{id}/vm.json"), FoundKind::File)];
    if vm.spec.customization.is_some() {
        files.push(found(&format!("vms/{id}/seed.img"), FoundKind::File));
    }
    if suspended {
        files.push(found(&format!("vms/{id}/suspend.state"), FoundKind::File));
    }
    let disks = vm.spec.own_disks().map(|disk| LayerFile::disk(id, &disk.name, 0));
    files.extend(disks.map(|file| found(file.as_str(), FoundKind::Base)));
    files
}

fn found(path: &str, kind: FoundKind) -> FoundFile {
    let size = ByteSize(196_608);
    let modified = Timestamp::UNIX_EPOCH;
    FoundFile { path: path.to_owned(), kind, size, allocated: size, modified }
}
