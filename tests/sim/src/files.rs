//! What lies on a simulated datastore.

use std::collections::BTreeMap;

use hostler_agent_api::{FoundDefinition, FoundFile, FoundFiles, FoundKind, RemovedFile};
use hostler_types::{ByteSize, DatastoreId, LayerFile, LayerOwner, PowerState};
use jiff::Timestamp;

use crate::host::{SimVm, State};

impl State {
    /// All files. Images lie on every datastore: the simulation does not keep them apart.
    pub(crate) fn found(&self, datastore: DatastoreId) -> FoundFiles {
        let vms = || self.files.iter().filter(|((at, _), _)| *at == datastore);
        let mut files = Vec::new();
        for ((_, id), vm) in vms() {
            let definition = format!("vms/{id}/vm.json");
            files.push(found(&definition, FoundKind::File));
            if vm.spec.customization.is_some() {
                files.push(found(&format!("vms/{id}/seed.img"), FoundKind::File));
            }
            match self.vms.get(id) {
                Some(known) => files.extend(files_of(known)),
                None => {
                    let disks = vm.spec.own_disks();
                    let disks = disks.map(|disk| LayerFile::disk(*id, &disk.name, 0));
                    files.extend(disks.map(|file| found(file.as_str(), FoundKind::Base)));
                }
            }
        }
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
            registered: !self.unregistered.contains(vm),
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

/// What a VM has beside its definition: the chains of its disks and snapshots, each file once.
fn files_of(vm: &SimVm) -> Vec<FoundFile> {
    let (report, id) = (vm.report(), vm.definition.vm.id());
    let mut layers = BTreeMap::new();
    let now = report
        .disks
        .iter()
        .map(|disk| disk.layers.iter().map(|layer| layer.file.clone()).collect::<Vec<_>>());
    let before = report.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let before = before.map(|disk| disk.layers.clone());
    for chain in now.chain(before) {
        for (depth, file) in chain.iter().enumerate() {
            let beneath = chain.get(depth + 1).cloned();
            let kind = beneath.map_or(FoundKind::Base, FoundKind::Overlay);
            if file.owner() == LayerOwner::Vm(id) {
                layers.insert(file.clone(), kind);
            }
        }
    }
    let layers = layers.into_iter().map(|(file, kind)| found(file.as_str(), kind));
    let memories = report.snapshots.snapshots.iter().filter(|snapshot| snapshot.memory.is_some());
    let memories = memories.map(|snapshot| format!("vms/{id}/snapshot-{}.memory", snapshot.id));
    let state = (vm.power == PowerState::Suspended).then(|| format!("vms/{id}/suspend.state"));
    layers.chain(memories.chain(state).map(|path| found(&path, FoundKind::File))).collect()
}

fn found(path: &str, kind: FoundKind) -> FoundFile {
    let size = ByteSize(196_608);
    let modified = Timestamp::UNIX_EPOCH;
    FoundFile { path: path.to_owned(), kind, size, allocated: size, modified }
}
