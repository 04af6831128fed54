//! What a snapshot is called: the one thing about it that people may change.

use hostler_agent_api::VmSnapshotUpdateRequest;

use crate::fault::Fault;
use crate::vm::actor::Actor;

impl Actor {
    pub(in crate::vm) async fn snapshot_update(
        &mut self,
        request: VmSnapshotUpdateRequest,
    ) -> Result<(), Fault> {
        let id = request.snapshot;
        let before = self.record.snapshots().clone();
        if let Some(name) = &request.name
            && before.snapshots.iter().any(|other| other.id != id && other.name == *name)
        {
            let text = format!("the VM has a snapshot `{name}` already");
            return Err(Fault::WrongState(text));
        }
        let all = &mut self.record.snapshots_mut().snapshots;
        let found = all.iter_mut().find(|snapshot| snapshot.id == id);
        let found = found.ok_or(Fault::NoSnapshot(id))?;
        found.name = request.name.unwrap_or_else(|| found.name.clone());
        found.description = request.description.unwrap_or_else(|| found.description.clone());
        if let Err(fault) = self.save_chains().await {
            *self.record.snapshots_mut() = before;
            return Err(fault);
        }
        Ok(())
    }
}
