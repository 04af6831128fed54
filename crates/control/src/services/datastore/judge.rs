//! What lies on a datastore, held against the inventory. Pure.
//!
//! The files were looked at after one state of the inventory and before another: what either of the
//! two knows is somebody's, so that neither what is just being made nor what is just being deleted
//! is taken for nobody's. Objects that a task works on are not judged at all.

use std::collections::{BTreeMap, BTreeSet};

use hostler_agent_api::{FoundFile, FoundFiles, FoundKind};
use hostler_types::{
    ByteSize, Damage, DamageKind, Datastore, DatastoreFindings, DatastoreId, Image, ImageId,
    ImageKind, ImageMedia, ImageState, LayerFile, Name, Orphan, OrphanKind, PowerState, Vm, VmId,
    VmKind, is_vm_file,
};
use jiff::{SignedDuration, Timestamp};

use super::owners::Owners;
use crate::inventory::Snapshot;

/// Findings of each kind that are told.
const TOLD: usize = 1000;
/// What is being written or removed has a name of its own, and is left alone for so long.
const YOUNG: SignedDuration = SignedDuration::from_hours(1);

/// Two states of the inventory and what lay on the datastore between them.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) datastore: &'a Datastore,
    pub(super) found: &'a FoundFiles,
    /// Which host has which VM: also those that the inventory does not know.
    pub(super) owners: &'a Owners,
    pub(super) before: &'a Snapshot,
    pub(super) after: &'a Snapshot,
    pub(super) now: Timestamp,
}

/// Whose place a path is.
enum Place {
    Vm(VmId),
    Image(ImageId),
    Nobody,
}

impl Judge<'_> {
    pub(super) fn findings(&self) -> DatastoreFindings {
        let (mut orphans, mut damaged) = (self.orphans(), self.damaged());
        let more = [orphans.len(), damaged.len()].map(|all| all.saturating_sub(TOLD));
        orphans.truncate(TOLD);
        damaged.truncate(TOLD);
        let files = &self.found.files;
        DatastoreFindings {
            datastore: self.datastore.name().clone(),
            at: self.now,
            files: files.len() as u64,
            allocated: ByteSize(files.iter().map(|file| file.allocated.0).sum()),
            orphans,
            damaged,
            busy: self.busy(),
            more: more.iter().sum::<usize>() as u64,
            truncated: self.found.truncated,
        }
    }

    /// All files that make up an orphan, as the host is to remove them.
    pub(super) fn paths(&self, orphan: &Orphan) -> Vec<String> {
        let OrphanKind::Image = orphan.kind else { return vec![orphan.path.clone()] };
        let Place::Image(image) = place(&orphan.path) else { return vec![orphan.path.clone()] };
        let files = self.found.files.iter().map(|file| &file.path);
        files
            .filter(|path| matches!(place(path), Place::Image(id) if id == image))
            .cloned()
            .collect()
    }

    pub(super) fn is_there(&self, path: &str) -> bool {
        let below = |file: &FoundFile| {
            file.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.found.files.iter().any(below)
    }

    fn orphans(&self) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        let (mut vms, mut images) = (BTreeMap::new(), BTreeMap::new());
        for file in self.found.files.iter().filter(|file| !self.is_young(file)) {
            match place(&file.path) {
                Place::Vm(vm) if self.knows_vm(vm) => {
                    orphans.extend(self.stray_in_vm(vm, file));
                }
                Place::Vm(vm) => vms.entry(vm).or_insert_with(Vec::new).push(file),
                Place::Image(image) if self.knows_image(image) => {
                    if !image_names(image).any(|own| own == file.path) {
                        orphans.push(self.orphan(file, None));
                    }
                }
                Place::Image(image) => images.entry(image).or_insert_with(Vec::new).push(file),
                Place::Nobody => orphans.push(self.orphan(file, None)),
            }
        }
        orphans.extend(vms.into_iter().map(|(vm, files)| self.orphan_vm(vm, &files)));
        orphans.extend(images.values().flat_map(|files| self.orphan_images(files)));
        orphans.sort_by(|one, two| one.path.cmp(&two.path));
        orphans
    }

    fn is_young(&self, file: &FoundFile) -> bool {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let passing = name.starts_with(".tmp-") || name.starts_with(".removed-");
        passing && self.now.duration_since(file.modified) < YOUNG
    }

    fn knows_vm(&self, vm: VmId) -> bool {
        let here = |vm: &std::sync::Arc<Vm>| vm.status.datastore == self.datastore.id();
        self.states().any(|state| state.get::<VmKind>(vm).is_some_and(here))
    }

    fn knows_image(&self, image: ImageId) -> bool {
        let here = |image: &std::sync::Arc<Image>| image.spec.datastore == self.datastore.id();
        self.states().any(|state| state.get::<ImageKind>(image).is_some_and(here))
    }

    fn states(&self) -> impl Iterator<Item = &Snapshot> {
        [self.before, self.after].into_iter()
    }

    /// A file in the directory of a VM that is none of the VM's.
    fn stray_in_vm(&self, id: VmId, file: &FoundFile) -> Option<Orphan> {
        if self.is_busy(id) {
            return None;
        }
        let name = file.path.rsplit('/').next().unwrap_or_default();
        // Its host may have made it a moment ago, or while the server did not hear of it.
        if self.owners.has_file(id, &file.path) {
            return None;
        }
        let known = || self.states().filter_map(|state| state.get::<VmKind>(id));
        if known().any(|vm| is_vm_file(name, &vm.status.snapshots) || owns_layer(vm, &file.path)) {
            return None;
        }
        let vm = known().next()?;
        let note = format!("in the directory of vm `{}`, which does not have it", vm.called());
        Some(self.orphan(file, Some(note)))
    }

    fn orphan(&self, file: &FoundFile, note: Option<String>) -> Orphan {
        let note = note.or_else(|| match &file.kind {
            FoundKind::Other => Some("no plain file and no directory".to_owned()),
            FoundKind::Unusable(reason) => Some(reason.clone()),
            _ => None,
        });
        Orphan {
            path: file.path.clone(),
            kind: OrphanKind::File,
            name: None,
            files: 1,
            allocated: file.allocated,
            note,
            used_by: self.users(&[&file.path]),
            adoptable: false,
            host: None,
            registered: false,
        }
    }

    fn orphan_vm(&self, vm: VmId, files: &[&FoundFile]) -> Orphan {
        let definition = self.found.definitions.iter().find(|found| found.vm == vm);
        let elsewhere = self.states().find_map(|state| state.get::<VmKind>(vm));
        let host = self.owners.host_of(vm).filter(|_| elsewhere.is_none());
        let registered = definition.is_some_and(|found| found.registered);
        let note = match (definition, elsewhere, host) {
            (_, Some(known), _) => {
                Some(format!("vm `{}` is on another datastore now", known.called()))
            }
            (_, None, Some(host)) => {
                Some(format!("host `{host}` has this VM, which is not in the inventory"))
            }
            (None, None, None) => Some("without a definition".to_owned()),
            (Some(found), None, None) => found.problem.clone().or_else(|| {
                let other = "its definition says that an inventory has it";
                registered.then(|| other.to_owned())
            }),
        };
        let name = definition.and_then(|found| found.name.clone());
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        Orphan {
            path: format!("vms/{vm}"),
            kind: OrphanKind::Vm,
            adoptable: name.is_some() && elsewhere.is_none() && host.is_none(),
            host: host.cloned(),
            registered: registered && elsewhere.is_none(),
            name,
            files: files.len() as u64,
            allocated: ByteSize(files.iter().map(|file| file.allocated.0).sum()),
            note,
            used_by: self.users(&paths),
        }
    }

    /// The image with what lies beside it; or each by itself, when the image is not there.
    fn orphan_images(&self, files: &[&FoundFile]) -> Vec<Orphan> {
        let is_image = |file: &&&FoundFile| {
            let path = &file.path;
            let plain = !matches!(file.kind, FoundKind::Directory | FoundKind::Other);
            plain && (path.parse::<LayerFile>().is_ok() || path.ends_with(".iso"))
        };
        let Some(image) = files.iter().find(is_image) else {
            return files.iter().map(|file| self.orphan(file, None)).collect();
        };
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let mut orphan = self.orphan(image, None);
        orphan.kind = OrphanKind::Image;
        orphan.files = files.len() as u64;
        orphan.allocated = ByteSize(files.iter().map(|file| file.allocated.0).sum());
        orphan.used_by = self.users(&paths);
        orphan.adoptable = matches!(image.kind, FoundKind::Base | FoundKind::File);
        if let FoundKind::Overlay(beneath) = &image.kind {
            orphan.note = Some(format!("no image: it lies on {beneath}"));
        }
        vec![orphan]
    }

    /// The files that lie on one of `paths` without being among them.
    fn users(&self, paths: &[&str]) -> Vec<String> {
        let on_them = |file: &&FoundFile| match &file.kind {
            FoundKind::Overlay(beneath) => {
                paths.contains(&beneath.as_str()) && !paths.contains(&file.path.as_str())
            }
            _ => false,
        };
        self.found.files.iter().filter(on_them).take(20).map(|file| file.path.clone()).collect()
    }

    fn damaged(&self) -> Vec<Damage> {
        if self.found.truncated {
            return Vec::new();
        }
        let files = self.found.files.iter().map(|file| (file.path.as_str(), &file.kind)).collect();
        let mut report = Report { files, damaged: BTreeMap::new() };
        for vm in self.after.all::<VmKind>().iter().filter(|vm| self.is_settled_vm(vm)) {
            self.judge_vm(vm, &mut report);
        }
        for image in self.after.all::<ImageKind>().iter().filter(|i| self.is_settled_image(i)) {
            judge_image(image, &mut report);
        }
        report.damaged.into_values().collect()
    }

    fn is_settled_vm(&self, vm: &Vm) -> bool {
        let before = self.before.get::<VmKind>(vm.id());
        vm.status.datastore == self.datastore.id()
            && before.is_some_and(|before| before.status.disks.len() == vm.status.disks.len())
            && vm.status.power != PowerState::Creating
            && !self.is_busy(vm.id())
    }

    fn is_settled_image(&self, image: &Image) -> bool {
        image.spec.datastore == self.datastore.id()
            && image.status.state == ImageState::Ready
            && self.before.get::<ImageKind>(image.id()).is_some()
            && self.states().all(|state| state.task_on(image.id().untyped()).is_none())
    }

    fn judge_vm(&self, vm: &Vm, report: &mut Report<'_>) {
        let (id, object) = (vm.id(), format!("vm/{}", vm.called()));
        for disk in &vm.status.disks {
            let chain: Vec<&LayerFile> = disk.layers.iter().map(|layer| &layer.file).collect();
            report.judge_chain(&object, &format!("disk {}", disk.name), &chain);
        }
        for snapshot in &vm.status.snapshots.snapshots {
            for disk in &snapshot.disks {
                let what = format!("disk {} of snapshot {}", disk.name, snapshot.name);
                report.judge_chain(&object, &what, &disk.layers.iter().collect::<Vec<_>>());
            }
        }
        let mut needed = vec![("vm.json".to_owned(), "its definition".to_owned())];
        if vm.status.power == PowerState::Suspended {
            needed.push(("suspend.state".to_owned(), "its saved memory".to_owned()));
        }
        if vm.spec.customization.is_some() {
            needed.push(("seed.img".to_owned(), "its seed".to_owned()));
        }
        let snapshots = vm.status.snapshots.snapshots.iter();
        needed.extend(snapshots.filter(|snapshot| snapshot.memory.is_some()).map(|snapshot| {
            let what = format!("the memory of snapshot {}", snapshot.name);
            (format!("snapshot-{}.memory", snapshot.id), what)
        }));
        for (name, what) in needed {
            let path = format!("vms/{id}/{name}");
            if !report.files.contains_key(path.as_str()) {
                report.add(&object, &path, DamageKind::Missing, format!("{what} is missing"));
            }
        }
        let definition = self.found.definitions.iter().find(|found| found.vm == id);
        if let Some(problem) = definition.and_then(|found| found.problem.as_ref()) {
            let path = format!("vms/{id}/vm.json");
            report.add(&object, &path, DamageKind::Unreadable, problem.clone());
        }
    }

    fn is_busy(&self, vm: VmId) -> bool {
        self.states().any(|state| state.task_on(vm.untyped()).is_some())
    }

    fn busy(&self) -> Vec<String> {
        let here = |datastore: DatastoreId| datastore == self.datastore.id();
        let mut busy = BTreeSet::new();
        for state in self.states() {
            let vms = state.all::<VmKind>().iter().filter(|vm| here(vm.status.datastore));
            let vms = vms.filter(|vm| self.is_busy(vm.id()));
            busy.extend(vms.map(|vm| format!("vm/{}", vm.called())));
            let images = state.all::<ImageKind>().iter().filter(|i| here(i.spec.datastore));
            let images = images.filter(|image| state.task_on(image.id().untyped()).is_some());
            busy.extend(images.map(|image| format!("image/{}", image.name())));
        }
        busy.into_iter().collect()
    }
}

/// What is wrong, once for each object and path.
struct Report<'a> {
    files: BTreeMap<&'a str, &'a FoundKind>,
    damaged: BTreeMap<(String, String), Damage>,
}

impl Report<'_> {
    fn add(&mut self, object: &str, path: &str, kind: DamageKind, text: String) {
        let damage = Damage { object: object.to_owned(), path: path.to_owned(), kind, text };
        self.damaged.entry((object.to_owned(), path.to_owned())).or_insert(damage);
    }

    /// Each file of a chain is there, and its header names the next.
    fn judge_chain(&mut self, object: &str, what: &str, chain: &[&LayerFile]) {
        for (depth, file) in chain.iter().enumerate() {
            let beneath = chain.get(depth + 1).copied();
            let is = match self.files.get(file.as_str()) {
                None => (DamageKind::Missing, format!("{what} needs it, and it is missing")),
                Some(FoundKind::Base) if beneath.is_none() => continue,
                Some(FoundKind::Overlay(found)) if beneath == Some(found) => continue,
                Some(FoundKind::Unusable(reason)) => {
                    (DamageKind::Unreadable, format!("{what} needs it: {reason}"))
                }
                Some(other) => (DamageKind::Different, different(what, other, beneath)),
            };
            self.add(object, file.as_str(), is.0, is.1);
        }
    }
}

fn different(what: &str, found: &FoundKind, beneath: Option<&LayerFile>) -> String {
    let beneath = beneath.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    match found {
        FoundKind::Overlay(found) => format!("{what}: it lies on {found}, not on {beneath}"),
        FoundKind::Base => format!("{what}: it lies on nothing, not on {beneath}"),
        _ => format!("{what}: it is no disk file"),
    }
}

fn judge_image(image: &Image, report: &mut Report<'_>) {
    let (id, object) = (image.id(), format!("image/{}", image.name()));
    let path = match image.status.media {
        Some(ImageMedia::Cdrom) => format!("images/{id}.iso"),
        _ => format!("images/{id}.qcow2"),
    };
    let (kind, text) = match report.files.get(path.as_str()) {
        None => (DamageKind::Missing, "the image is missing".to_owned()),
        Some(FoundKind::Base | FoundKind::File) => return,
        Some(FoundKind::Unusable(reason)) => (DamageKind::Unreadable, reason.clone()),
        Some(other) => (DamageKind::Different, different("the image", other, None)),
    };
    report.add(&object, &path, kind, text);
}

/// Whether a disk file is one of a VM's. What its host has not told of yet counts.
fn owns_layer(vm: &Vm, path: &str) -> bool {
    let Ok(file) = path.parse::<LayerFile>() else { return false };
    let told = vm.status.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let snapshots = vm.status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let mut files = told.chain(snapshots.flat_map(|disk| &disk.layers));
    let untold = |disk: &Name| {
        let told = vm.status.disks.iter().find(|told| told.name == *disk);
        told.is_none_or(|told| told.layers.is_empty())
    };
    files.any(|known| *known == file)
        || vm.spec.own_disks().any(|disk| {
            let stem = file.file_name().split('.').next();
            untold(&disk.name) && stem == Some(disk.name.as_str())
        })
}

fn place(path: &str) -> Place {
    let mut parts = path.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("vms"), Some(vm), Some(_)) => vm.parse().map_or(Place::Nobody, Place::Vm),
        (Some("images"), Some(name), None) => {
            let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
            stem.parse().map_or(Place::Nobody, Place::Image)
        }
        _ => Place::Nobody,
    }
}

fn image_names(image: ImageId) -> impl Iterator<Item = String> {
    ["qcow2", "iso", "json", "part", "converting"]
        .into_iter()
        .map(move |extension| format!("images/{image}.{extension}"))
}
