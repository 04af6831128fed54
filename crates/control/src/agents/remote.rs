//! The agent contract over HTTP/2 with mutual TLS.
//!
//! One client, and so one connection, per host. HTTP/2 pings find out within seconds that a host is
//! gone, also while a call waits for work that takes minutes; so calls have no limit of their own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hostler_agent_api as contract;
use hostler_agent_api::{
    AgentEvent, ConsoleKind, DatastoreCheck, DatastorePath, DatastoreReport, FactsAnswer,
    ImageContentAnswer, ImageContentQuery, ImageImportRequest, ImageImported, ImagePath,
    ImageRemoveRequest, NetworkPath, OperationPath, VmCommand, VmConsoleQuery, VmCreateRequest,
    VmDefineRequest, VmDiskTakeRequest, VmDisksMoveRequest, VmFlattenRequest, VmForkAnswer,
    VmForkRequest, VmFreezeRequest, VmFrozen, VmLogQuery, VmPath, VmRemoveRequest, VmReport,
    VmRevertRequest, VmSnapshotDeleteRequest, VmSnapshotRequest, VmSnapshotUpdateRequest,
    VmStartRequest, VmStopRequest,
};
use hostler_endpoint::{
    Answer, Body, ByteStream, CallOptions, Client, ClientError, Endpoint, EventStream, NoParams,
};
use hostler_pki::{CredentialFile, Identity, tls};
use hostler_types::{
    DatastoreId, ExecAnswer, ExecRequest, Host, ImageId, NetworkId, NetworkSpec, OperationId, Vm,
    VmId,
};

use super::{AgentError, AgentLink, Connector};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A dead host is noticed within their sum; a host that is only busy has the time to answer. With the
/// second of grace that the controller gives, a host is shown as away less than 5 s after it died.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(2500);
/// Longer than any work at a host; dead connections are found by pings.
const LONGEST_CALL: Duration = Duration::from_secs(25 * 3600);

/// Connects to hosts with the server's certificate, and accepts only the host that is meant.
#[derive(Debug)]
pub struct RemoteConnector {
    credentials: CredentialFile,
}

impl RemoteConnector {
    /// `credentials` are the server's.
    pub fn new(credentials: CredentialFile) -> Self {
        Self { credentials }
    }

    fn client(&self, host: &Host) -> Result<Client, String> {
        let config = tls::agent_client(&self.credentials, Identity::Host(host.id()))
            .map_err(|error| error.to_string())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .http2_prior_knowledge()
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Client::new(http, &format!("https://{}", host.spec.address)))
    }
}

impl Connector for RemoteConnector {
    fn connect(&self, host: &Host) -> Result<Arc<dyn AgentLink>, AgentError> {
        let name = host.name().to_string();
        match self.client(host) {
            Ok(client) => Ok(Arc::new(Remote { host: name, client })),
            Err(reason) => Err(AgentError::Unreachable { host: name, reason }),
        }
    }
}

#[derive(Debug)]
struct Remote {
    host: String,
    client: Client,
}

impl Remote {
    async fn call<E>(
        &self,
        path: &E::Path,
        query: &E::Query,
        body: <E::Body as Body>::Value,
    ) -> Result<<E::Answer as Answer>::Value, AgentError>
    where
        E: Endpoint,
        E::Answer: hostler_endpoint::Receive,
    {
        let options = CallOptions { timeout: Some(LONGEST_CALL), ..CallOptions::default() };
        let answer = self.client.call_with::<E>(path, query, body, options).await;
        answer.map_err(|error| match error {
            ClientError::Problem(problem) => AgentError::Refused(*problem),
            error => AgentError::Unreachable { host: self.host.clone(), reason: error.to_string() },
        })
    }

    async fn vm<E>(
        &self,
        vm: VmId,
        body: <E::Body as Body>::Value,
    ) -> Result<<E::Answer as Answer>::Value, AgentError>
    where
        E: Endpoint<Path = VmPath, Query = NoParams>,
        E::Answer: hostler_endpoint::Receive,
    {
        self.call::<E>(&VmPath { vm }, &NoParams {}, body).await
    }
}

#[async_trait]
impl AgentLink for Remote {
    async fn facts(&self) -> Result<FactsAnswer, AgentError> {
        self.call::<contract::Facts>(&NoParams {}, &NoParams {}, ()).await
    }
    async fn events(&self) -> Result<EventStream<AgentEvent>, AgentError> {
        self.call::<contract::HostEvents>(&NoParams {}, &NoParams {}, ()).await
    }
    async fn operation_cancel(&self, op: OperationId) -> Result<(), AgentError> {
        let path = OperationPath { op };
        self.call::<contract::OperationCancel>(&path, &NoParams {}, ()).await
    }

    async fn vm_create(&self, vm: VmId, request: VmCreateRequest) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmCreate>(vm, request).await
    }
    async fn vm_define(&self, vm: VmId, request: VmDefineRequest) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmDefine>(vm, request).await
    }
    async fn vm_defined(&self, vm: VmId) -> Result<contract::VmDefinition, AgentError> {
        self.call::<contract::VmDefined>(&VmPath { vm }, &NoParams {}, ()).await
    }
    async fn vm_register(
        &self,
        vm: VmId,
        request: VmCreateRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmRegister>(vm, request).await
    }
    async fn vm_remove(&self, vm: VmId, request: VmRemoveRequest) -> Result<(), AgentError> {
        self.vm::<contract::VmRemove>(vm, request).await
    }
    async fn vm_start(&self, vm: VmId, command: VmStartRequest) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmStart>(vm, command).await
    }
    async fn vm_stop(&self, vm: VmId, request: VmStopRequest) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmStop>(vm, request).await
    }
    async fn vm_reset(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmReset>(vm, command).await
    }
    async fn vm_suspend(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmSuspend>(vm, command).await
    }
    async fn vm_snapshot(
        &self,
        vm: VmId,
        request: VmSnapshotRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmSnapshot>(vm, request).await
    }
    async fn vm_snapshot_update(
        &self,
        vm: VmId,
        request: VmSnapshotUpdateRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmSnapshotUpdate>(vm, request).await
    }
    async fn vm_snapshot_delete(
        &self,
        vm: VmId,
        request: VmSnapshotDeleteRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmSnapshotDelete>(vm, request).await
    }
    async fn vm_revert(&self, vm: VmId, request: VmRevertRequest) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmRevert>(vm, request).await
    }
    async fn vm_freeze(&self, vm: VmId, request: VmFreezeRequest) -> Result<VmFrozen, AgentError> {
        self.vm::<contract::VmFreeze>(vm, request).await
    }
    async fn vm_flatten(
        &self,
        vm: VmId,
        request: VmFlattenRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmFlatten>(vm, request).await
    }
    async fn vm_disks_move(
        &self,
        vm: VmId,
        request: VmDisksMoveRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmDisksMove>(vm, request).await
    }
    async fn vm_disk_take(
        &self,
        vm: VmId,
        request: VmDiskTakeRequest,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmDiskTake>(vm, request).await
    }
    async fn vm_fork(&self, vm: VmId, request: VmForkRequest) -> Result<VmForkAnswer, AgentError> {
        self.vm::<contract::VmFork>(vm, request).await
    }
    async fn vm_seal(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmSeal>(vm, command).await
    }
    async fn vm_migration_offer(
        &self,
        vm: VmId,
        command: VmCommand,
    ) -> Result<contract::VmOffer, AgentError> {
        self.vm::<contract::VmMigrationOffer>(vm, command).await
    }
    async fn vm_migration_prepare(
        &self,
        vm: VmId,
        request: contract::VmMigrationPrepareRequest,
    ) -> Result<(), AgentError> {
        self.vm::<contract::VmMigrationPrepare>(vm, request).await
    }
    async fn vm_migrate(
        &self,
        vm: VmId,
        request: contract::VmMigrateRequest,
    ) -> Result<contract::VmMoved, AgentError> {
        self.vm::<contract::VmMigrate>(vm, request).await
    }
    async fn vm_migration_measure(
        &self,
        vm: VmId,
        request: contract::VmMigrationMeasureRequest,
    ) -> Result<contract::VmMigrationMeasured, AgentError> {
        self.vm::<contract::VmMigrationMeasure>(vm, request).await
    }
    async fn vm_migration_take(
        &self,
        vm: VmId,
        epoch: contract::VmEpoch,
    ) -> Result<VmReport, AgentError> {
        self.vm::<contract::VmMigrationTake>(vm, epoch).await
    }
    async fn vm_migration_abandon(&self, vm: VmId, command: VmCommand) -> Result<(), AgentError> {
        self.vm::<contract::VmMigrationAbandon>(vm, command).await
    }
    async fn vm_migration_forget(&self, vm: VmId, command: VmCommand) -> Result<(), AgentError> {
        self.vm::<contract::VmMigrationForget>(vm, command).await
    }
    async fn vm_exec(&self, vm: VmId, request: ExecRequest) -> Result<ExecAnswer, AgentError> {
        self.vm::<contract::VmExec>(vm, request).await
    }
    async fn vm_export(
        &self,
        vm: VmId,
        request: contract::VmExportRequest,
    ) -> Result<hostler_types::ExportManifest, AgentError> {
        self.vm::<contract::VmExport>(vm, request).await
    }
    async fn vm_export_content(&self, vm: VmId) -> Result<ByteStream, AgentError> {
        self.vm::<contract::VmExportContent>(vm, ()).await
    }
    async fn vm_export_remove(&self, vm: VmId) -> Result<(), AgentError> {
        self.vm::<contract::VmExportRemove>(vm, ()).await
    }
    async fn vm_screenshot(&self, vm: VmId) -> Result<ByteStream, AgentError> {
        self.vm::<contract::VmScreenshot>(vm, ()).await
    }
    async fn vm_console(
        &self,
        vm: VmId,
        kind: ConsoleKind,
        input: ByteStream,
    ) -> Result<ByteStream, AgentError> {
        let (path, query) = (VmPath { vm }, VmConsoleQuery { kind });
        self.call::<contract::VmConsole>(&path, &query, input).await
    }
    async fn vm_log(&self, vm: VmId, follow: bool) -> Result<ByteStream, AgentError> {
        self.call::<contract::VmLog>(&VmPath { vm }, &VmLogQuery { follow }, ()).await
    }

    async fn image_upload(
        &self,
        image: ImageId,
        datastore: DatastoreId,
        offset: u64,
        content: ByteStream,
    ) -> Result<ImageContentAnswer, AgentError> {
        let (path, query) = (ImagePath { image }, ImageContentQuery { datastore, offset });
        self.call::<contract::ImageUpload>(&path, &query, content).await
    }
    async fn image_content(
        &self,
        image: ImageId,
        datastore: DatastoreId,
    ) -> Result<ImageContentAnswer, AgentError> {
        let (path, query) = (ImagePath { image }, ImageContentQuery { datastore, offset: 0 });
        self.call::<contract::ImageContent>(&path, &query, ()).await
    }
    async fn image_import(
        &self,
        image: ImageId,
        request: ImageImportRequest,
    ) -> Result<ImageImported, AgentError> {
        self.call::<contract::ImageImport>(&ImagePath { image }, &NoParams {}, request).await
    }
    async fn image_remove(
        &self,
        image: ImageId,
        request: ImageRemoveRequest,
    ) -> Result<(), AgentError> {
        self.call::<contract::ImageRemove>(&ImagePath { image }, &NoParams {}, request).await
    }

    async fn datastore_ensure(
        &self,
        datastore: DatastoreId,
        check: DatastoreCheck,
    ) -> Result<DatastoreReport, AgentError> {
        let path = DatastorePath { datastore };
        self.call::<contract::DatastoreEnsure>(&path, &NoParams {}, check).await
    }
    async fn datastore_remove(
        &self,
        datastore: DatastoreId,
        release: bool,
    ) -> Result<(), AgentError> {
        let (path, query) =
            (DatastorePath { datastore }, contract::DatastoreRemoveQuery { release });
        self.call::<contract::DatastoreRemove>(&path, &query, ()).await
    }
    async fn datastore_unregistered(&self, datastore: DatastoreId) -> Result<Vec<Vm>, AgentError> {
        let path = DatastorePath { datastore };
        self.call::<contract::DatastoreUnregistered>(&path, &NoParams {}, ()).await
    }
    async fn datastore_users(
        &self,
        datastore: DatastoreId,
        owner: contract::FileOwner,
    ) -> Result<Vec<contract::FileUser>, AgentError> {
        let path = DatastorePath { datastore };
        self.call::<contract::DatastoreUsers>(&path, &NoParams {}, owner).await
    }
    async fn datastore_files(
        &self,
        datastore: DatastoreId,
    ) -> Result<contract::FoundFiles, AgentError> {
        let path = DatastorePath { datastore };
        self.call::<contract::DatastoreFiles>(&path, &NoParams {}, ()).await
    }
    async fn datastore_remove_files(
        &self,
        datastore: DatastoreId,
        request: contract::RemoveFilesRequest,
    ) -> Result<Vec<contract::RemovedFile>, AgentError> {
        let path = DatastorePath { datastore };
        self.call::<contract::DatastoreRemoveFiles>(&path, &NoParams {}, request).await
    }
    async fn resources_set(&self, resources: contract::HostResources) -> Result<(), AgentError> {
        let none = NoParams {};
        self.call::<contract::ResourcesSet>(&none, &none, resources).await
    }
    async fn network_ensure(
        &self,
        network: NetworkId,
        spec: NetworkSpec,
    ) -> Result<(), AgentError> {
        let path = NetworkPath { network };
        self.call::<contract::NetworkEnsure>(&path, &NoParams {}, spec).await
    }
    async fn network_remove(&self, network: NetworkId) -> Result<(), AgentError> {
        let path = NetworkPath { network };
        self.call::<contract::NetworkRemove>(&path, &NoParams {}, ()).await
    }
}
