//! A host that answers what these tests ask of one, and is unreachable for the rest.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream;
use hostler_agent_api::{
    AgentEvent, ConsoleKind, DatastoreCheck, DatastoreReport, FactsAnswer, ImageContentAnswer,
    ImageImportRequest, ImageImported, ImageRemoveRequest, VmCommand, VmCreateRequest,
    VmRemoveRequest, VmReport, VmStopRequest,
};
use hostler_control::{AgentError, AgentLink, Connector};
use hostler_endpoint::{ByteStream, Bytes, EventStream};
use hostler_types::{
    ByteSize, DatastoreId, ExecAnswer, ExecRequest, Host, ImageId, NetworkId, NetworkSpec,
    OperationId, Vm, VmId,
};

#[derive(Debug)]
pub(crate) struct SimulatedHosts;

impl Connector for SimulatedHosts {
    fn connect(&self, _: &Host) -> Result<Arc<dyn AgentLink>, AgentError> {
        Ok(Arc::new(SimulatedHost))
    }
}

#[derive(Debug)]
struct SimulatedHost;

fn away<T>() -> Result<T, AgentError> {
    Err(AgentError::Unreachable { host: "sim".to_owned(), reason: "not simulated".to_owned() })
}

fn bytes(text: &'static str) -> ByteStream {
    Box::pin(stream::iter([Ok(Bytes::from(text))]))
}

#[async_trait]
impl AgentLink for SimulatedHost {
    async fn facts(&self) -> Result<FactsAnswer, AgentError> {
        away()
    }
    async fn events(&self) -> Result<EventStream<AgentEvent>, AgentError> {
        away()
    }
    async fn operation_cancel(&self, _: OperationId) -> Result<(), AgentError> {
        away()
    }
    async fn vm_create(&self, _: VmId, _: VmCreateRequest) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_define(&self, _: VmId, _: VmCreateRequest) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_register(&self, _: VmId, _: VmCreateRequest) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_remove(&self, _: VmId, _: VmRemoveRequest) -> Result<(), AgentError> {
        away()
    }
    async fn vm_start(&self, _: VmId, _: VmCommand) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_stop(&self, _: VmId, _: VmStopRequest) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_reset(&self, _: VmId, _: VmCommand) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_suspend(&self, _: VmId, _: VmCommand) -> Result<VmReport, AgentError> {
        away()
    }
    async fn vm_exec(&self, _: VmId, _: ExecRequest) -> Result<ExecAnswer, AgentError> {
        away()
    }
    async fn vm_screenshot(&self, _: VmId) -> Result<ByteStream, AgentError> {
        Ok(bytes("\u{89}PNG"))
    }
    /// Sends back what comes in.
    async fn vm_console(
        &self,
        _: VmId,
        _: ConsoleKind,
        input: ByteStream,
    ) -> Result<ByteStream, AgentError> {
        Ok(input)
    }
    /// With `follow` it never ends.
    async fn vm_log(&self, _: VmId, follow: bool) -> Result<ByteStream, AgentError> {
        use futures::StreamExt as _;
        let log = bytes("login: ");
        Ok(if follow { Box::pin(log.chain(stream::pending())) } else { log })
    }
    async fn image_upload(
        &self,
        _: ImageId,
        _: DatastoreId,
        offset: u64,
        content: ByteStream,
    ) -> Result<ImageContentAnswer, AgentError> {
        use futures::TryStreamExt as _;
        let length = content.try_fold(0, async |sum, part| Ok(sum + part.len() as u64)).await;
        Ok(ImageContentAnswer { received: ByteSize(offset + length.unwrap_or(0)) })
    }
    async fn image_content(
        &self,
        _: ImageId,
        _: DatastoreId,
    ) -> Result<ImageContentAnswer, AgentError> {
        Ok(ImageContentAnswer { received: ByteSize(0) })
    }
    async fn image_import(
        &self,
        _: ImageId,
        _: ImageImportRequest,
    ) -> Result<ImageImported, AgentError> {
        away()
    }
    async fn image_remove(&self, _: ImageId, _: ImageRemoveRequest) -> Result<(), AgentError> {
        away()
    }
    async fn datastore_ensure(
        &self,
        _: DatastoreId,
        _: DatastoreCheck,
    ) -> Result<DatastoreReport, AgentError> {
        away()
    }
    async fn datastore_unregistered(&self, _: DatastoreId) -> Result<Vec<Vm>, AgentError> {
        Ok(Vec::new())
    }
    async fn network_ensure(&self, _: NetworkId, _: NetworkSpec) -> Result<(), AgentError> {
        away()
    }
    async fn network_remove(&self, _: NetworkId) -> Result<(), AgentError> {
        away()
    }
}
