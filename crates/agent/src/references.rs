//! What needs a disk file: held against the headers on the datastore before any file goes.
//!
//! The server has looked at its inventory by then. But what lies on a datastore may be another
//! server's, or in no inventory at all, so the files themselves have the last word; and where a file
//! can say nothing any more, the definition of its VM says what it was made of.

use std::collections::HashSet;

use hostler_agent_api::FileUser;
use hostler_host::{Datastore, DefinitionError, LayerGraph};
use hostler_types::{LayerFile, LayerOwner, Vm, VmId};

use crate::fault::{Fault, chain};

/// Users that are told of; more are of no use to anyone.
const TOLD: usize = 20;

/// Refuses when anything that is not itself among `files` lies on one of them. The caller has
/// condemned the files, so that the answer stays true. Blocks: some 20 µs for each file on the
/// datastore.
///
/// # Errors
/// [`Fault::InUse`], naming who needs them.
pub(crate) fn require_unused(datastore: &Datastore, files: &[LayerFile]) -> Result<(), Fault> {
    let users = users(datastore, files)?;
    if users.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = users.into_iter().map(|user| user.text).collect();
    Err(Fault::InUse(texts.join("; ")))
}

/// What lies on one of `files` without being one of them, the first [`TOLD`]. Blocks.
pub(crate) fn users(datastore: &Datastore, files: &[LayerFile]) -> Result<Vec<FileUser>, Fault> {
    let files: HashSet<&LayerFile> = files.iter().collect();
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let graph = LayerGraph::survey(datastore)?;
    let mut users = Vec::new();
    for used in &files {
        for user in graph.dependents(used).filter(|user| !files.contains(user)) {
            users.push(told(datastore, user, &format!("lies on {used}")));
        }
    }
    for (file, reason) in graph.unreadable().filter(|(file, _)| !files.contains(file)) {
        users.extend(silent_user(datastore, file, reason, &files));
    }
    users.sort_by(|one, two| one.text.cmp(&two.text));
    users.truncate(TOLD);
    Ok(users)
}

/// Whether a file whose header says nothing may lie on one of `files`: as its VM's definition has it.
fn silent_user(
    datastore: &Datastore,
    file: &LayerFile,
    reason: &str,
    files: &HashSet<&LayerFile>,
) -> Option<FileUser> {
    let LayerOwner::Vm(vm) = file.owner() else {
        // An image lies on nothing: that was looked at when it was imported.
        return None;
    };
    match datastore.vm(vm).read_definition() {
        Ok(Some(definition)) if !names_any(&definition, files) => None,
        Ok(Some(_)) => Some(told(datastore, file, &format!("lay on it, and is damaged: {reason}"))),
        Ok(None) | Err(_) => {
            let text = format!("cannot be read ({reason}), so what it needs cannot be told");
            Some(told(datastore, file, &text))
        }
    }
}

fn names_any(vm: &Vm, files: &HashSet<&LayerFile>) -> bool {
    let disks = vm.status.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let snapshots = vm.status.snapshots.snapshots.iter();
    let snapshots = snapshots.flat_map(|snapshot| &snapshot.disks).flat_map(|disk| &disk.layers);
    disks.chain(snapshots).any(|file| files.contains(file))
}

fn told(datastore: &Datastore, file: &LayerFile, does: &str) -> FileUser {
    let (vm, owner) = match file.owner() {
        LayerOwner::Vm(vm) => (Some(vm), vm_called(datastore, vm)),
        LayerOwner::Image(image) => (None, format!("image {image}")),
    };
    FileUser { vm, text: format!("{} of the {owner} {does}", file.file_name()) }
}

fn vm_called(datastore: &Datastore, vm: VmId) -> String {
    match datastore.vm(vm).read_definition() {
        Ok(Some(found)) => format!("VM `{}`", found.called()),
        Ok(None) => format!("VM {vm}"),
        Err(error) => format!("VM {vm} (whose definition cannot be read: {})", short(&error)),
    }
}

fn short(error: &DefinitionError) -> String {
    chain(error).chars().filter(|c| !c.is_control()).take(200).collect()
}
