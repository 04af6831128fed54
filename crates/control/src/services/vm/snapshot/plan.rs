//! What deleting snapshots does to the files, before it is done.

use std::collections::BTreeSet;

use hostler_types::{
    ByteSize, DatastoreId, DatastoreKind, LayerFile, LayerOwner, MergeEstimate, MergePlan, Name,
    Ref, Role, SnapshotDeletionPlan, SnapshotId, TaskKind, TaskState, Vm, VmKind, plan_merges,
};
use serde::Serialize;

use super::{found, require_mergeable};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::services::counted;
use crate::services::vm::delete::find;
use crate::tasks::vm_snapshot_delete::{Deletion, MERGING, Merged};
use crate::world::World;

/// Until something was merged on a datastore: what a disk of the slower kind does.
const ASSUMED: ByteSize = ByteSize::mib(100);
/// Less tells of the way, not of the datastore.
const LEAST: ByteSize = ByteSize::mib(16);
/// So many merges are looked at, the newest.
const LOOKED_AT: usize = 10;

/// Which snapshots are to be deleted, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotDelete {
    pub snapshots: Vec<Ref>,
    /// With all that descend from them.
    pub children: bool,
    /// Every one; `snapshots` is empty then.
    pub all: bool,
    /// Bytes a second at most; absent: no limit.
    pub max_rate: Option<u64>,
}

impl SnapshotDelete {
    /// The snapshots meant, each once, in the order in which they were taken.
    pub(super) fn selected(&self, vm: &Vm) -> Result<Vec<SnapshotId>, ServiceError> {
        let tree = &vm.status.snapshots;
        if self.all != self.snapshots.is_empty() {
            let reason = "name snapshots, or say that all are meant";
            return Err(ServiceError::invalid("snapshot", reason));
        }
        if self.max_rate == Some(0) {
            return Err(ServiceError::invalid("max_rate", "at 0 bytes a second it never ends"));
        }
        if self.all && tree.is_empty() {
            let message = format!("vm `{}` has no snapshots", vm.called());
            return Err(ServiceError::new(Class::NotFound, "not_found", message));
        }
        let mut meant = BTreeSet::new();
        for reference in &self.snapshots {
            let id = found(vm, reference)?.id;
            meant.insert(id);
            meant.extend(self.children.then(|| tree.family(id)).into_iter().flatten());
        }
        let in_order = tree.snapshots.iter().map(|snapshot| snapshot.id);
        Ok(in_order.filter(|id| self.all || meant.contains(id)).collect())
    }

    /// Nothing is named: what is left of earlier deletions.
    fn is_consolidation(&self) -> bool {
        self.snapshots.is_empty() && !self.all
    }
}

/// What [`super::delete`] would do; with nothing named, what [`super::consolidate`] would.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`.
pub fn plan(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &SnapshotDelete,
) -> Result<SnapshotDeletionPlan, ServiceError> {
    authorize(actor, Role::Viewer, "see what deleting snapshots would do")?;
    let snapshot = world.snapshot();
    let vm = find(&snapshot, vm)?;
    let ids = match request.is_consolidation() {
        true => Vec::new(),
        false => request.selected(vm)?,
    };
    let files = files(&snapshot, vm, &ids);
    let tree = &vm.status.snapshots;
    let names: Vec<Name> = ids.iter().filter_map(|id| Some(tree.get(*id)?.name.clone())).collect();
    Ok(SnapshotDeletionPlan {
        vm: vm.id(),
        name: vm.called().clone(),
        snapshots: names,
        estimate: estimate(&snapshot, vm, &ids, &files),
        files,
        refused: require_mergeable(&snapshot, vm).err().map(|error| error.message),
    })
}

/// The task's input for the deletion of these.
pub(crate) fn deletion(
    snapshot: &Snapshot,
    vm: &Vm,
    snapshots: Vec<SnapshotId>,
    max_rate: Option<u64>,
) -> Deletion {
    let bytes = bytes(vm, &snapshots, &files(snapshot, vm, &snapshots));
    Deletion { snapshots, bytes, max_rate, reason: None }
}

fn files(snapshot: &Snapshot, vm: &Vm, delete: &[SnapshotId]) -> MergePlan {
    let lent = lent(snapshot, vm);
    let (disks, tree) = (&vm.status.disks, &vm.status.snapshots);
    plan_merges(vm.id(), disks, tree, delete, |file| lent.contains(file))
}

/// The VM's files that other VMs' disks or snapshots lie on.
fn lent(snapshot: &Snapshot, vm: &Vm) -> BTreeSet<LayerFile> {
    let others = snapshot.all::<VmKind>().iter().filter(|other| other.id() != vm.id());
    let files = others.flat_map(|other| crate::inventory::layer_files(other));
    files.filter(|file| file.owner() == LayerOwner::Vm(vm.id())).cloned().collect()
}

/// The host has told the sizes of the files that the disks are made of now. Of others it is only
/// known what was written since their snapshots.
fn bytes(vm: &Vm, delete: &[SnapshotId], files: &MergePlan) -> ByteSize {
    let layers = || vm.status.disks.iter().flat_map(|disk| &disk.layers);
    let known = |file: &LayerFile| layers().any(|layer| layer.file == *file);
    if files.merges.iter().flat_map(|merge| &merge.from).all(known) {
        return files.bytes();
    }
    let gone = delete.iter().filter_map(|id| vm.status.snapshots.get(*id));
    let written = ByteSize(gone.map(|snapshot| snapshot.written.bytes()).sum());
    files.bytes().max(written)
}

fn estimate(
    snapshot: &Snapshot,
    vm: &Vm,
    delete: &[SnapshotId],
    files: &MergePlan,
) -> MergeEstimate {
    let datastore = vm.status.datastore;
    let called = snapshot.get::<DatastoreKind>(datastore);
    let called = called.map_or_else(|| datastore.to_string(), |found| found.name().to_string());
    let (rate, basis) = match measured(snapshot, datastore) {
        Some((rate, merges)) => {
            (rate, format!("measured in {} on datastore `{called}`", counted(merges, "merge")))
        }
        None => (ASSUMED, format!("assumed: nothing was merged on datastore `{called}` lately")),
    };
    MergeEstimate::new(bytes(vm, delete, files), rate, basis)
}

/// How fast a datastore merges, as the newest merges there went: the median, and of how many.
fn measured(snapshot: &Snapshot, datastore: DatastoreId) -> Option<(ByteSize, usize)> {
    let tasks = snapshot.all::<TaskKind>().iter();
    let done = tasks.filter(|task| {
        task.status.state == TaskState::Done && MERGING.contains(&task.spec.action.as_str())
    });
    let results = done.filter_map(|task| {
        let merged: Merged =
            serde_json::from_value(task.status.steps.first()?.result.clone()).ok()?;
        // An answer out of the agent's journal, after a crash of the server, comes at once.
        let rate = merged.bytes.bytes().checked_mul(1000)? / merged.millis.max(1);
        let plausible = merged.bytes >= LEAST && rate <= ByteSize::gib(20).bytes();
        let here = merged.datastore == datastore && plausible;
        here.then_some((task.status.finished_at, rate))
    });
    let mut newest: Vec<_> = results.collect();
    newest.sort_by_key(|(finished, _)| std::cmp::Reverse(*finished));
    let mut rates: Vec<_> = newest.into_iter().take(LOOKED_AT).map(|(_, rate)| rate).collect();
    rates.sort_unstable();
    Some((ByteSize(*rates.get(rates.len() / 2)?), rates.len()))
}

#[cfg(test)]
mod tests {
    use hostler_store::Record;
    use hostler_types::{Labels, ObjectId, Revision, Task};
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    /// A merge that ended at a second.
    fn task(second: i64, state: &str, merged: &Merged) -> Record {
        let spec = json!({
            "action": "vm.snapshot_delete", "target": "vm/web01", "actor": "root",
            "objects": Vec::<ObjectId>::new(),
        });
        let at = Timestamp::from_second(second).unwrap();
        let status = json!({
            "state": state, "finished_at": at,
            "steps": [{"name": "delete", "state": "done", "result": merged}],
        });
        let (spec, status) =
            (serde_json::from_value(spec).unwrap(), serde_json::from_value(status).unwrap());
        let name = format!("task-{second}").parse().unwrap();
        Record::from_object(&Task::new(name, Labels::new(), at, spec, status))
    }

    #[test]
    fn a_datastores_rate_is_what_its_newest_merges_have_shown() {
        let (here, there) = (DatastoreId::generate(), DatastoreId::generate());
        let merged =
            |datastore, mib, millis| Merged { datastore, bytes: ByteSize::mib(mib), millis };
        let mut records = vec![
            task(1, "done", &merged(there, 1000, 1000)),
            // Too little, too fast, and not to the end.
            task(2, "done", &merged(here, 1, 1)),
            task(3, "done", &merged(here, 100_000, 1)),
            task(4, "failed", &merged(here, 100, 1000)),
        ];
        let rate = |records: &[Record]| {
            let stored =
                hostler_store::Snapshot { revision: Revision(1), records: records.to_vec() };
            measured(&Snapshot::load(stored).unwrap(), here)
        };
        assert_eq!(rate(&records), None);
        // Slow ones long ago, then faster ones.
        records.extend((10..20).map(|second| task(second, "done", &merged(here, 100, 10_000))));
        assert_eq!(rate(&records), Some((ByteSize::mib(10), 10)));
        records.extend((20..26).map(|second| task(second, "done", &merged(here, 100, 500))));
        assert_eq!(rate(&records), Some((ByteSize::mib(200), 10)));
    }
}
