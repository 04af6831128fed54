//! The contract between server and agent, over HTTP/2 with mutual TLS: the agent listens, the
//! server calls. It is all that both sides share.
//!
//! How the two stay in step, whatever dies in between:
//! * A command that changes something carries an **operation id** and the VM's ownership **epoch**.
//!   The agent journals both: the same operation again is answered from the journal (or joins the
//!   one still running), and a lower epoch than the VM's is refused (`stale_epoch`).
//! * An error *answer* means that the operation has failed for good and that the agent has taken
//!   back what it began. A broken connection means nothing, nor does the answer `unsettled`: ask again
//!   with the same operation id.
//! * The event stream begins with everything the agent knows ([`AgentEvent::Inventory`]), then
//!   tells each change. A server that was away needs nothing else to be up to date.
//! * Both sides tolerate unknown fields in answers and events: server N talks to agents N and N-1.

mod datastore;
mod export;
mod fork;
mod host;
mod image;
mod migrate;
mod network;
mod resources;
mod snapshot;
mod vm;

pub mod code;

pub use datastore::{
    DatastoreCheck, DatastoreEnsure, DatastoreFiles, DatastorePath, DatastoreRemove,
    DatastoreRemoveFiles, DatastoreRemoveQuery, DatastoreReport, DatastoreUnregistered,
    DatastoreUsers, FileOwner, FileUser, FoundDefinition, FoundFile, FoundFiles, FoundKind,
    RemoveFilesRequest, RemovedFile,
};
pub use export::{VmExport, VmExportContent, VmExportRemove, VmExportRequest};
pub use fork::{VmFork, VmForkAnswer, VmForkRequest};
pub use host::{
    AgentEvent, Facts, FactsAnswer, HostEvents, HostInventory, Inventory, OperationCancel,
    OperationPath, OperationProgress, SERVER_IDENTITY, VmElsewhere, host_identity,
};
pub use image::{
    ImageContent, ImageContentAnswer, ImageContentQuery, ImageImport, ImageImportRequest,
    ImageImportSource, ImageImported, ImagePath, ImageRemove, ImageRemoveRequest, ImageUpload,
};
pub use migrate::{
    VmEpoch, VmMigrate, VmMigrateRequest, VmMigrationAbandon, VmMigrationForget,
    VmMigrationMeasure, VmMigrationMeasureRequest, VmMigrationMeasured, VmMigrationOffer,
    VmMigrationPrepare, VmMigrationPrepareRequest, VmMigrationReady, VmMigrationTake, VmMoved,
    VmOffer,
};
pub use network::{NetworkDefinition, NetworkEnsure, NetworkPath, NetworkRemove};
pub use resources::{HostResources, PoolSlice, ResourcesSet, Slice, VmSlice, VmUse};
pub use snapshot::{
    VmDisksMove, VmDisksMoveRequest, VmFlatten, VmFlattenRequest, VmFreeze, VmFreezeRequest,
    VmFrozen, VmRevert, VmRevertRequest, VmSnapshot, VmSnapshotDelete, VmSnapshotDeleteRequest,
    VmSnapshotRequest, VmSnapshotUpdate, VmSnapshotUpdateRequest,
};
pub use vm::{
    ConsoleKind, GuestDisk, VmCommand, VmConsole, VmConsoleQuery, VmCreate, VmCreateRequest,
    VmDefine, VmDefineRequest, VmDefined, VmDefinition, VmDiskTake, VmDiskTakeRequest, VmExec,
    VmLog, VmLogQuery, VmPath, VmRegister, VmRemove, VmRemoveRequest, VmReport, VmReset,
    VmScreenshot, VmSeal, VmStart, VmStartRequest, VmStop, VmStopRequest, VmSuspend,
};

/// The version of this contract.
pub const VERSION: u32 = 1;
