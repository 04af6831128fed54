//! What becomes of a VM's files when snapshots are deleted: decided here, purely; the server shows
//! it before, the host's agent acts by it.
//!
//! ```text
//!  before:  image <- d <- d.1 <- d.2 (active)     snapshots: "a" names d, "b" names d.1
//!  delete "a":  d.1 is merged into d              "b" names d, which reads as d.1 did
//!  delete "b":  d.2 is merged into d.1            the disk is d.1 <- d
//! ```
//!
//! *Named* files are the tops of what must go on to read as it does: the active file of every disk
//! and the first file of every disk of a snapshot that stays. A file that is beneath no named one is
//! removed. One that is, and is not named itself, takes in what lies on it, if that is one file only.
//! A file that something of another VM lies on, directly or not, is neither written to nor removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{SnapshotId, VmId};
use crate::layer::{LayerFile, LayerOwner};
use crate::name::Name;
use crate::size::ByteSize;
use crate::snapshot::{Snapshot, SnapshotTree};
use crate::vm::DiskStatus;

/// What the deletion of some snapshots does to the files of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergePlan {
    /// What is merged, one after the other. They do not depend on each other.
    pub merges: Vec<Merge>,
    /// Files that nothing reads any more, each after those that lie on it.
    pub removed: Vec<PlannedFile>,
    /// Files that no snapshot names and that stay, and why.
    pub kept: Vec<KeptFile>,
}

/// Files that are merged into the one beneath them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Merge {
    pub disk: Name,
    /// The highest first; they are gone afterwards. Each lies on the next, the last on `into`.
    pub from: Vec<LayerFile>,
    /// Reads afterwards as the first of `from` did, and is named wherever that one was.
    pub into: LayerFile,
    /// What has to be copied, as far as it is known.
    pub bytes: ByteSize,
}

/// A file and its size, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedFile {
    pub file: LayerFile,
    pub bytes: ByteSize,
}

/// A file that stays although nothing names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptFile {
    pub file: LayerFile,
    pub why: KeptWhy,
}

/// Why a file stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeptWhy {
    /// It is an image.
    Image,
    /// It is another VM's: this one is a linked clone.
    OtherVms,
    /// Something of another VM lies on it, or on something that lies on it.
    LinkedClones,
    /// Several files lie on it.
    SeveralChildren,
}

/// Plans the deletion of `delete`, or with none the merging of what earlier ones left. `has_clones`
/// says on which files something lies that is not part of this VM: a linked clone, or a file that
/// stayed because of one. Directly is enough; what is beneath follows.
pub fn plan_merges(
    vm: VmId,
    disks: &[DiskStatus],
    tree: &SnapshotTree,
    delete: &[SnapshotId],
    has_clones: impl Fn(&LayerFile) -> bool,
) -> MergePlan {
    Files::new(vm, disks, tree, delete, has_clones).plan()
}

impl MergePlan {
    pub fn is_empty(&self) -> bool {
        self.merges.is_empty() && self.removed.is_empty()
    }

    /// All bytes that have to be copied.
    pub fn bytes(&self) -> ByteSize {
        ByteSize(self.merges.iter().map(|merge| merge.bytes.bytes()).sum())
    }

    /// With sizes from who can look at the files.
    #[must_use]
    pub fn measured(mut self, size: impl Fn(&LayerFile) -> ByteSize) -> Self {
        for merge in &mut self.merges {
            merge.bytes = ByteSize(merge.from.iter().map(|file| size(file).bytes()).sum());
        }
        for removed in &mut self.removed {
            removed.bytes = size(&removed.file);
        }
        self
    }
}

impl Merge {
    /// A chain of files as it is afterwards.
    pub fn apply(&self, chain: &mut Vec<LayerFile>) {
        chain.retain(|file| !self.from.contains(file));
    }
}

impl SnapshotTree {
    /// The tree without some snapshots: their children become their parents'.
    #[must_use]
    pub fn without(&self, delete: &[SnapshotId]) -> Self {
        let stays = |mut id: Option<SnapshotId>| {
            // No tree is deeper than it has snapshots, whoever wrote it.
            for _ in 0..=self.snapshots.len() {
                match id {
                    Some(gone) if delete.contains(&gone) => {
                        id = self.get(gone).and_then(|snapshot| snapshot.parent);
                    }
                    other => return other,
                }
            }
            None
        };
        let kept = self.snapshots.iter().filter(|snapshot| !delete.contains(&snapshot.id));
        let kept =
            kept.map(|snapshot| Snapshot { parent: stays(snapshot.parent), ..snapshot.clone() });
        Self { current: stays(self.current), snapshots: kept.collect() }
    }
}

/// The files of a VM and what lies on what.
struct Files {
    vm: VmId,
    /// The chains, present ones first, each with its disk.
    chains: Vec<(Name, Vec<LayerFile>)>,
    named: BTreeSet<LayerFile>,
    /// All that is beneath a named file, and those themselves.
    needed: BTreeSet<LayerFile>,
    /// Directly on each file, of what is needed.
    children: BTreeMap<LayerFile, BTreeSet<LayerFile>>,
    /// Beneath something of another VM.
    pinned: BTreeSet<LayerFile>,
    sizes: BTreeMap<LayerFile, ByteSize>,
}

impl Files {
    fn new(
        vm: VmId,
        disks: &[DiskStatus],
        tree: &SnapshotTree,
        delete: &[SnapshotId],
        has_clones: impl Fn(&LayerFile) -> bool,
    ) -> Self {
        let file = |layer: &crate::layer::Layer| layer.file.clone();
        let present =
            disks.iter().map(|disk| (disk.name.clone(), disk.layers.iter().map(file).collect()));
        let chains = |gone: bool| {
            let which = move |snapshot: &&Snapshot| delete.contains(&snapshot.id) == gone;
            let disks = tree.snapshots.iter().filter(which).flat_map(|snapshot| &snapshot.disks);
            disks.map(|disk| (disk.name.clone(), disk.layers.clone()))
        };
        let kept: Vec<(Name, Vec<LayerFile>)> = present.chain(chains(false)).collect();
        let named = kept.iter().filter_map(|(_, chain)| chain.first().cloned()).collect();
        let needed = kept.iter().flat_map(|(_, chain)| chain.iter().cloned()).collect();
        let mut children: BTreeMap<LayerFile, BTreeSet<LayerFile>> = BTreeMap::new();
        for pair in kept.iter().flat_map(|(_, chain)| chain.windows(2)) {
            children.entry(pair[1].clone()).or_default().insert(pair[0].clone());
        }
        let all: Vec<_> = kept.into_iter().chain(chains(true)).collect();
        let beneath = all.iter().flat_map(|(_, chain)| {
            let first = chain.iter().position(&has_clones).unwrap_or(chain.len());
            chain[first..].iter().cloned()
        });
        let sizes = disks.iter().flat_map(|disk| &disk.layers);
        Self {
            vm,
            pinned: beneath.collect(),
            chains: all,
            named,
            needed,
            children,
            sizes: sizes.map(|layer| (layer.file.clone(), layer.allocated)).collect(),
        }
    }

    fn plan(&self) -> MergePlan {
        let mut plan = MergePlan::default();
        let mut seen = BTreeSet::new();
        for (disk, chain) in &self.chains {
            for (depth, file) in chain.iter().enumerate() {
                if !seen.insert(file) {
                    continue;
                }
                match self.fate(file) {
                    Fate::Named | Fate::Merged => {}
                    Fate::Removed => plan
                        .removed
                        .push(PlannedFile { file: file.clone(), bytes: self.size(file) }),
                    Fate::Kept(why) => {
                        let file = self.merged_into(file).unwrap_or(file).clone();
                        plan.kept.push(KeptFile { file, why });
                    }
                    Fate::TakesIn => {
                        // A file that takes in is needed, so it is found in a chain that stays, in
                        // which what it takes in lies above it.
                        let above = chain[..depth].iter().rev();
                        plan.merges.extend(self.merge(disk, file, above));
                    }
                }
            }
        }
        plan
    }

    fn merge<'a>(
        &self,
        disk: &Name,
        into: &LayerFile,
        above: impl Iterator<Item = &'a LayerFile>,
    ) -> Option<Merge> {
        let mut from: Vec<LayerFile> = Vec::new();
        for file in above {
            from.insert(0, file.clone());
            if !self.takes_in(file) {
                break;
            }
        }
        let bytes = ByteSize(from.iter().map(|file| self.size(file).bytes()).sum());
        (!from.is_empty()).then(|| Merge { disk: disk.clone(), from, into: into.clone(), bytes })
    }

    fn fate(&self, file: &LayerFile) -> Fate {
        let takes_in = || self.takes_in(file);
        match file.owner() {
            LayerOwner::Image(_) => Fate::Kept(KeptWhy::Image),
            LayerOwner::Vm(owner) if owner != self.vm => Fate::Kept(KeptWhy::OtherVms),
            LayerOwner::Vm(_) if self.named.contains(file) => Fate::Named,
            LayerOwner::Vm(_) if self.pinned.contains(file) => Fate::Kept(KeptWhy::LinkedClones),
            LayerOwner::Vm(_) if !self.needed.contains(file) => Fate::Removed,
            LayerOwner::Vm(_) if !takes_in() => Fate::Kept(KeptWhy::SeveralChildren),
            // What takes in and lies on another that does is part of that one's merge.
            LayerOwner::Vm(_) if self.beneath(file).is_some_and(|b| self.takes_in(b)) => {
                Fate::Merged
            }
            LayerOwner::Vm(_) => Fate::TakesIn,
        }
    }

    /// The file that takes in this one, if one does: the lowest of those beneath that are nothing
    /// but layers of it. What lies on this file lies on that one afterwards.
    fn merged_into<'a>(&'a self, file: &'a LayerFile) -> Option<&'a LayerFile> {
        let beneath = |file: &&'a LayerFile| self.beneath(file).filter(|b| self.takes_in(b));
        std::iter::successors(Some(file), beneath).skip(1).last()
    }

    fn takes_in(&self, file: &LayerFile) -> bool {
        file.owner() == LayerOwner::Vm(self.vm)
            && self.needed.contains(file)
            && !self.named.contains(file)
            && !self.pinned.contains(file)
            && self.children.get(file).is_some_and(|children| children.len() == 1)
    }

    fn beneath(&self, file: &LayerFile) -> Option<&LayerFile> {
        self.chains.iter().find_map(|(_, chain)| {
            let at = chain.iter().position(|found| found == file)?;
            chain.get(at + 1)
        })
    }

    fn size(&self, file: &LayerFile) -> ByteSize {
        self.sizes.get(file).copied().unwrap_or(ByteSize(0))
    }
}

enum Fate {
    Named,
    TakesIn,
    /// Goes into another together with what lies on it.
    Merged,
    Removed,
    Kept(KeptWhy),
}

impl KeptWhy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "it is an image",
            Self::OtherVms => "it is another VM's",
            Self::LinkedClones => "a linked clone of another VM lies on it",
            Self::SeveralChildren => "several files lie on it",
        }
    }
}

impl fmt::Display for MergePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() && self.kept.is_empty() {
            return writeln!(f, "nothing is merged or removed");
        }
        for merge in &self.merges {
            let from: Vec<_> = merge.from.iter().map(LayerFile::file_name).collect();
            let (from, into) = (from.join(", "), merge.into.file_name());
            writeln!(f, "merge   {from} into {into} ({})", merge.bytes)?;
        }
        for removed in &self.removed {
            writeln!(f, "remove  {} ({})", removed.file.file_name(), removed.bytes)?;
        }
        for kept in &self.kept {
            writeln!(f, "keep    {}: {}", kept.file, kept.why.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
