//! What the agent remembers of a VM across its own death: one file per VM.
//!
//! A record exists from the first instant of a VM's creation to the last of its removal, so that
//! nothing of a VM is ever left unowned. It is written before the world is changed where the change
//! could not be found again otherwise, and after it where it can (a running QEMU is found through
//! its cgroup).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use hostler_agent_api::{VmDefinition, VmElsewhere, VmMoved};
use hostler_endpoint::Problem;
use hostler_host::{Replacement, VmUid};
use hostler_types::{
    CpuBaseline, CustomizationStatus, DatastoreId, Epoch, HostId, LayerFile, Name, OperationId,
    Seal, VmId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disks_move::DisksMove;
use super::hardware::Running;
use super::nics::Plug;
use super::snapshot::Layering;
use super::take::Taking;
use crate::fault::Fault;
use crate::state_file;

/// Operations that are remembered; a server asks again for its last one, not for older ones.
const REMEMBERED: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    pub(crate) definition: VmDefinition,
    pub(crate) epoch: Epoch,
    /// The user that QEMU runs as; nobody else's while the record exists.
    pub(crate) uid: VmUid,
    pub(crate) state: RecordedState,
    pub(crate) since: Timestamp,
    /// When QEMU was started again without being told to, newest last.
    #[serde(default)]
    pub(crate) restarts: Vec<Timestamp>,
    /// What the guest has said of its customization, in the run that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) customization: Option<CustomizationStatus>,
    /// What was taken out of the guest, which has not run since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Seal>,
    /// Whose seal it is while the guest still runs, on its way to having its plug pulled. Until then
    /// the guest is not sealed for anybody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealing: Option<OperationId>,
    #[serde(default)]
    pub(crate) journal: Journal,
    /// What QEMU runs with, or what a suspended VM is to resume with.
    #[serde(default)]
    pub(crate) running: Option<Running>,
    /// What its NICs may occupy; `None` in a record of an agent that numbered NICs by their order.
    #[serde(default)]
    pub(crate) plugs: Option<Vec<Plug>>,
    /// The definition has changed since the files and networks were last made to fit it.
    #[serde(default)]
    pub(crate) unsettled: bool,
    /// Disks that have no file yet, because they have never been plugged in. Whatever else lacks a file
    /// has lost it; none is made in its place. `None`: an agent that did not say.
    #[serde(default)]
    pub(crate) unmade: Option<Vec<Name>>,
    /// What of its snapshots, and the files beneath its disks, is on its way.
    #[serde(default)]
    pub(crate) layering: Layering,
    /// The disk that is being made independent: what its header says of the files beneath is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flattening: Option<Name>,
    /// Files of disks that another process of the VM may be about to write to. They are the VM's
    /// once its chains have them; until then nobody needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) forking: Vec<LayerFile>,
    /// The disk of another VM that is just becoming one of the VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taking: Option<Taking>,
    /// It is an instant clone whose guest still has to take its own identity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) identity_due: bool,
    /// Its files are going to another datastore, or have just gone there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moving: Option<DisksMove>,
    /// How often they have; see [`hostler_qemu::layer_node`].
    #[serde(default)]
    pub(crate) moved: u32,
    /// The host that it came from, running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) came_from: Option<HostId>,
    /// The CPU that its guest sees from the next start on, unless it asks for a model; `None`: all of the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_baseline: Option<CpuBaseline>,
}

/// What the VM should be doing, as far as the agent knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum RecordedState {
    /// Its files are being made; the definition comes last. It is not written anew when they are
    /// complete: at the agent's start the definition tells whether the creation came to its end.
    Creating {
        op: OperationId,
    },
    /// Its files are being taken in; they were there before and stay if this does not end.
    Registering,
    /// It is becoming an instant clone. Until it runs nothing of it is of use.
    Forking,
    Stopped,
    Running {
        process: ProcessId,
    },
    Suspended,
    Failed {
        message: String,
    },
    /// It is on its way here from another host, which owns it until that says otherwise. Nobody is
    /// told of it.
    Incoming {
        op: OperationId,
        from: HostId,
        /// The user that the files belong to until then.
        owner: VmUid,
        /// They may be this host's user's: QEMU was just opening them.
        #[serde(default)]
        ours: bool,
    },
    /// It has gone to another host, for good. Nobody is told of it any more.
    Given(Box<Given>),
}

/// Where a VM has gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Given {
    /// Where the agent listens that has it.
    pub(crate) address: String,
    pub(crate) moved: VmMoved,
}

impl RecordedState {
    /// Whether the VM is another host's: it is in no list and no report.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Incoming { .. } | Self::Given(_))
    }
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Clock ticks after the host's boot, from `/proc/PID/stat`.
    pub(crate) start_time: u64,
    /// Where its sockets are: 0 for one that was started, more for one that took another's place.
    #[serde(default)]
    pub(crate) place: u32,
}

/// The last operations and how they ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Journal(VecDeque<Entry>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    op: OperationId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<Problem>,
}

impl Journal {
    /// How an operation ended, if it is remembered.
    pub(crate) fn outcome(&self, op: OperationId) -> Option<Result<(), Problem>> {
        let entry = self.0.iter().find(|entry| entry.op == op)?;
        Some(entry.failed.clone().map_or(Ok(()), Err))
    }

    pub(crate) fn add(&mut self, op: OperationId, outcome: &Result<(), Problem>) {
        self.0.retain(|entry| entry.op != op);
        self.0.push_back(Entry { op, failed: outcome.clone().err() });
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }
}

impl VmRecord {
    pub(crate) fn id(&self) -> VmId {
        self.definition.vm.id()
    }

    pub(crate) fn datastore(&self) -> DatastoreId {
        self.definition.vm.status.datastore
    }

    /// Where its files are: the one that it lies on first.
    pub(crate) fn datastores(&self) -> Vec<DatastoreId> {
        let other = self.moving.map(DisksMove::other);
        [Some(self.datastore()), other].into_iter().flatten().collect()
    }

    /// What is to be told of it when it is another host's.
    pub(crate) fn elsewhere(&self) -> Option<VmElsewhere> {
        let (epoch, awaited) = match &self.state {
            RecordedState::Incoming { .. } => (self.epoch, true),
            RecordedState::Given(given) => (given.moved.epoch, false),
            _ => return None,
        };
        Some(VmElsewhere { vm: self.id(), epoch, awaited })
    }

    /// Whether a disk may lack its file.
    pub(crate) fn is_unmade(&self, disk: &Name) -> bool {
        self.unmade.as_ref().is_none_or(|unmade| unmade.contains(disk))
    }

    /// These disks are to be, or come into being.
    pub(crate) fn begin_disks(&mut self, disks: impl Iterator<Item = Name>) {
        if let Some(unmade) = &mut self.unmade {
            unmade.extend(disks);
        }
    }

    /// All disks that can be plugged in have their files.
    pub(crate) fn disks_are_made(&mut self) {
        let spec = &self.definition.vm.spec;
        let detached = |name: &Name| spec.detached.iter().any(|disk| disk.name == *name);
        match &mut self.unmade {
            Some(unmade) => unmade.retain(detached),
            None => self.unmade = Some(spec.detached.iter().map(|d| d.name.clone()).collect()),
        }
    }

    /// One of them has.
    pub(crate) fn disk_is_made(&mut self, disk: &Name) {
        if let Some(unmade) = &mut self.unmade {
            unmade.retain(|name| name != disk);
        }
    }
}

/// The directory of the records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// All records. One that cannot be read is reported and left alone: its VM may run. Blocks.
    pub(crate) fn load(&self) -> Result<Vec<VmRecord>, Fault> {
        let entries =
            std::fs::read_dir(&self.dir).map_err(|error| Fault::internal("list VMs", &error))?;
        let mut records = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let Some(id) = vm_of(&path) else {
                // A temporary file of an interrupted write.
                let _ = std::fs::remove_file(&path);
                continue;
            };
            match state_file::read::<VmRecord>(&path) {
                Ok(Some(record)) if record.id() == id => records.push(record),
                Ok(_) => tracing::error!(path = %path.display(), "not this VM's record; ignored"),
                Err(error) => tracing::error!(%error, "a VM's record is damaged; ignored"),
            }
        }
        records.sort_by_key(VmRecord::id);
        Ok(records)
    }

    /// One record, if there is such a VM. Blocks.
    pub(crate) fn get(&self, vm: VmId) -> Result<Option<VmRecord>, Fault> {
        state_file::read(&self.path(vm))
    }

    /// Blocks for two flushes.
    pub(crate) fn save(&self, record: &VmRecord) -> Result<(), Fault> {
        state_file::write(&self.path(record.id()), record)
    }

    /// Blocks for a flush.
    pub(crate) fn prepare(&self, record: &VmRecord) -> Result<Replacement, Fault> {
        state_file::prepare(&self.path(record.id()), record)
    }

    pub(crate) fn remove(&self, vm: VmId) -> Result<(), Fault> {
        state_file::remove(&self.path(vm))
    }

    fn path(&self, vm: VmId) -> PathBuf {
        self.dir.join(format!("{vm}.json"))
    }
}

fn vm_of(path: &Path) -> Option<VmId> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_remembers_the_last_operations() {
        let mut journal = Journal::default();
        let (first, last) = (OperationId::generate(), OperationId::generate());
        journal.add(first, &Ok(()));
        let problem = Problem::new(502, "qemu_failed", "it did not start");
        journal.add(last, &Err(problem.clone()));
        assert_eq!(journal.outcome(first), Some(Ok(())));
        assert_eq!(journal.outcome(last), Some(Err(problem)));
        assert_eq!(journal.outcome(OperationId::generate()), None);
        for _ in 0..REMEMBERED {
            journal.add(OperationId::generate(), &Ok(()));
        }
        assert_eq!(journal.outcome(first), None);
        let text = serde_json::to_string(&journal).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), journal);
    }
}
