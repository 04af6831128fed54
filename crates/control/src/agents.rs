//! How the server talks to the hosts' agents.
//!
//! [`AgentLink`] is the agent contract as a trait, so that tests can put a simulated host behind
//! it; [`RemoteConnector`] makes the real thing. Only two kinds of failure exist for a caller: the
//! agent answered with a problem (it is final, and nothing has changed), or there was no answer
//! (nothing is known; ask again with the same operation id).

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hostler_agent_api::{
    AgentEvent, ConsoleKind, DatastoreCheck, DatastoreReport, FactsAnswer, FileOwner, FileUser,
    FoundFiles, HostResources, ImageContentAnswer, ImageImportRequest, ImageImported,
    ImageRemoveRequest, RemoveFilesRequest, RemovedFile, VmCommand, VmCreateRequest,
    VmDefineRequest, VmDefinition, VmDiskTakeRequest, VmDisksMoveRequest, VmEpoch, VmExportRequest,
    VmFlattenRequest, VmForkAnswer, VmForkRequest, VmFreezeRequest, VmFrozen, VmMigrateRequest,
    VmMigrationMeasureRequest, VmMigrationMeasured, VmMigrationPrepareRequest, VmMoved, VmOffer,
    VmRemoveRequest, VmReport, VmRevertRequest, VmSnapshotDeleteRequest, VmSnapshotRequest,
    VmSnapshotUpdateRequest, VmStartRequest, VmStopRequest,
};
use hostler_endpoint::{ByteStream, EventStream, Problem};
use hostler_types::{
    DatastoreId, ExecAnswer, ExecRequest, ExportManifest, Host, HostId, ImageId, NetworkId,
    NetworkSpec, OperationId, Vm, VmId,
};

use crate::error::{Class, ServiceError};

mod remote;

pub use remote::RemoteConnector;

#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentError {
    /// The agent looked at the command and refused, or tried and took back what it had begun.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// No answer: whether anything has happened is not known.
    #[error("the host `{host}` does not answer: {reason}")]
    Unreachable { host: String, reason: String },
}

impl From<AgentError> for ServiceError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Refused(problem) => problem.into(),
            AgentError::Unreachable { .. } => {
                Self::new(Class::Unavailable, "host_unreachable", error.to_string())
                    .hint("check that its agent runs and that its address is reachable")
            }
        }
    }
}

/// The agent of one host. Calls wait as long as the work takes; who calls puts a limit to it.
#[async_trait]
pub trait AgentLink: Send + Sync + Debug {
    async fn facts(&self) -> Result<FactsAnswer, AgentError>;
    /// The whole inventory first, then each change. The link ends the stream when the host has
    /// been silent for too long.
    async fn events(&self) -> Result<EventStream<AgentEvent>, AgentError>;
    async fn operation_cancel(&self, op: OperationId) -> Result<(), AgentError>;

    async fn vm_create(&self, vm: VmId, request: VmCreateRequest) -> Result<VmReport, AgentError>;
    async fn vm_define(&self, vm: VmId, request: VmDefineRequest) -> Result<VmReport, AgentError>;
    async fn vm_defined(&self, vm: VmId) -> Result<VmDefinition, AgentError>;
    async fn vm_register(&self, vm: VmId, request: VmCreateRequest)
    -> Result<VmReport, AgentError>;
    async fn vm_remove(&self, vm: VmId, request: VmRemoveRequest) -> Result<(), AgentError>;
    async fn vm_start(&self, vm: VmId, request: VmStartRequest) -> Result<VmReport, AgentError>;
    async fn vm_stop(&self, vm: VmId, request: VmStopRequest) -> Result<VmReport, AgentError>;
    async fn vm_reset(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError>;
    async fn vm_suspend(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError>;
    async fn vm_snapshot(
        &self,
        vm: VmId,
        request: VmSnapshotRequest,
    ) -> Result<VmReport, AgentError>;
    async fn vm_snapshot_update(
        &self,
        vm: VmId,
        request: VmSnapshotUpdateRequest,
    ) -> Result<VmReport, AgentError>;
    async fn vm_snapshot_delete(
        &self,
        vm: VmId,
        request: VmSnapshotDeleteRequest,
    ) -> Result<VmReport, AgentError>;
    async fn vm_revert(&self, vm: VmId, request: VmRevertRequest) -> Result<VmReport, AgentError>;
    async fn vm_freeze(&self, vm: VmId, request: VmFreezeRequest) -> Result<VmFrozen, AgentError>;
    async fn vm_flatten(&self, vm: VmId, request: VmFlattenRequest)
    -> Result<VmReport, AgentError>;
    async fn vm_disks_move(
        &self,
        vm: VmId,
        request: VmDisksMoveRequest,
    ) -> Result<VmReport, AgentError>;
    async fn vm_disk_take(
        &self,
        vm: VmId,
        request: VmDiskTakeRequest,
    ) -> Result<VmReport, AgentError>;
    async fn vm_fork(&self, vm: VmId, request: VmForkRequest) -> Result<VmForkAnswer, AgentError>;
    async fn vm_seal(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError>;
    async fn vm_migration_offer(&self, vm: VmId, command: VmCommand)
    -> Result<VmOffer, AgentError>;
    async fn vm_migration_prepare(
        &self,
        vm: VmId,
        request: VmMigrationPrepareRequest,
    ) -> Result<(), AgentError>;
    async fn vm_migrate(&self, vm: VmId, request: VmMigrateRequest) -> Result<VmMoved, AgentError>;
    async fn vm_migration_measure(
        &self,
        vm: VmId,
        request: VmMigrationMeasureRequest,
    ) -> Result<VmMigrationMeasured, AgentError>;
    async fn vm_migration_take(&self, vm: VmId, epoch: VmEpoch) -> Result<VmReport, AgentError>;
    async fn vm_migration_abandon(&self, vm: VmId, command: VmCommand) -> Result<(), AgentError>;
    async fn vm_migration_forget(&self, vm: VmId, command: VmCommand) -> Result<(), AgentError>;
    async fn vm_export(
        &self,
        vm: VmId,
        request: VmExportRequest,
    ) -> Result<ExportManifest, AgentError>;
    async fn vm_export_content(&self, vm: VmId) -> Result<ByteStream, AgentError>;
    async fn vm_export_remove(&self, vm: VmId) -> Result<(), AgentError>;
    async fn vm_exec(&self, vm: VmId, request: ExecRequest) -> Result<ExecAnswer, AgentError>;
    async fn vm_screenshot(&self, vm: VmId) -> Result<ByteStream, AgentError>;
    async fn vm_console(
        &self,
        vm: VmId,
        kind: ConsoleKind,
        input: ByteStream,
    ) -> Result<ByteStream, AgentError>;
    async fn vm_log(&self, vm: VmId, follow: bool) -> Result<ByteStream, AgentError>;

    async fn image_upload(
        &self,
        image: ImageId,
        datastore: DatastoreId,
        offset: u64,
        content: ByteStream,
    ) -> Result<ImageContentAnswer, AgentError>;
    async fn image_content(
        &self,
        image: ImageId,
        datastore: DatastoreId,
    ) -> Result<ImageContentAnswer, AgentError>;
    async fn image_import(
        &self,
        image: ImageId,
        request: ImageImportRequest,
    ) -> Result<ImageImported, AgentError>;
    async fn image_remove(
        &self,
        image: ImageId,
        request: ImageRemoveRequest,
    ) -> Result<(), AgentError>;

    async fn datastore_ensure(
        &self,
        datastore: DatastoreId,
        check: DatastoreCheck,
    ) -> Result<DatastoreReport, AgentError>;
    async fn datastore_remove(
        &self,
        datastore: DatastoreId,
        release: bool,
    ) -> Result<(), AgentError>;
    async fn datastore_unregistered(&self, datastore: DatastoreId) -> Result<Vec<Vm>, AgentError>;
    async fn datastore_users(
        &self,
        datastore: DatastoreId,
        owner: FileOwner,
    ) -> Result<Vec<FileUser>, AgentError>;
    async fn datastore_files(&self, datastore: DatastoreId) -> Result<FoundFiles, AgentError>;
    async fn datastore_remove_files(
        &self,
        datastore: DatastoreId,
        request: RemoveFilesRequest,
    ) -> Result<Vec<RemovedFile>, AgentError>;
    /// What pools and VMs may use of the host from now on.
    async fn resources_set(&self, resources: HostResources) -> Result<(), AgentError>;
    async fn network_ensure(&self, network: NetworkId, spec: NetworkSpec)
    -> Result<(), AgentError>;
    async fn network_remove(&self, network: NetworkId) -> Result<(), AgentError>;
}

/// Makes links. A link connects when it is used, and again when the connection was lost.
pub trait Connector: Send + Sync + Debug {
    /// # Errors
    /// The host's address cannot be one.
    fn connect(&self, host: &Host) -> Result<Arc<dyn AgentLink>, AgentError>;
}

type Addressed = (String, Arc<dyn AgentLink>);

/// One link per host, made when first asked for and again when the host's address has changed.
#[derive(Debug)]
pub(crate) struct Agents {
    connector: Arc<dyn Connector>,
    /// With the address that each was made for.
    links: Mutex<HashMap<HostId, Addressed>>,
}

impl Agents {
    pub(crate) fn new(connector: Arc<dyn Connector>) -> Self {
        Self { connector, links: Mutex::default() }
    }

    pub(crate) fn link(&self, host: &Host) -> Result<Arc<dyn AgentLink>, AgentError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, link)) = links.get(&host.id())
            && *address == host.spec.address
        {
            return Ok(link.clone());
        }
        let link = self.connector.connect(host)?;
        links.insert(host.id(), (host.spec.address.clone(), link.clone()));
        Ok(link)
    }

    pub(crate) fn forget(&self, host: HostId) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
    }
}
