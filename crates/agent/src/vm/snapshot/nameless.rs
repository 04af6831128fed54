//! New layers that no snapshot tells of: what lies beneath them can be built upon by clones.
//!
//! They come as those of a snapshot do, and an agent that dies in the middle leaves them as it would
//! leave those. When nothing of another VM lies on what is beneath them any more, the next deletion of
//! snapshots merges them.

use hostler_agent_api::{VmCommand, VmSnapshotRequest};
use hostler_types::{Name, OperationId, SnapshotId};

use crate::fault::Fault;
use crate::vm::actor::Actor;

impl Actor {
    /// Puts new layers on disks, at one instant; `only` some of those that are plugged in.
    pub(in crate::vm) async fn put_nameless(&mut self, only: Option<&[Name]>) -> Result<(), Fault> {
        let snapshot = SnapshotId::generate();
        let request = VmSnapshotRequest {
            command: VmCommand { op: OperationId::generate(), epoch: self.record.epoch },
            snapshot,
            name: "nameless".parse().map_err(|error| Fault::Internal(format!("{error}")))?,
            description: String::new(),
            by: String::new(),
            memory: false,
            quiesce: false,
        };
        let taking = self.intend(&request, only).await?;
        let put = match self.make(&taking, false).await {
            Ok(ready) => self.take(ready, &taking).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = put {
            self.not_taken(&taking).await;
            return Err(fault);
        }
        self.record.put_layers(&taking);
        self.record.layering.taking = None;
        // What lies beside a snapshot is not needed.
        self.sweep().await;
        self.save_chains().await
    }
}
