//! The contract, served: one line per endpoint. The gate lets only the server in.

mod host;
mod image;
mod migrate;
mod vm;

use std::sync::Arc;

use axum::Router;
use hostler_agent_api as api;
use hostler_agent_api::code;
use hostler_endpoint::{Endpoint as _, Problem, Routes};
use hostler_pki::Identity;
use http::request::Parts;

use crate::context::HostContext;
use crate::export::Exports;
use crate::image::Images;
use crate::listener::Peer;
use crate::measure::Measured;
use crate::resources::Resources;
use crate::vm::Vms;

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) host: Arc<HostContext>,
    pub(crate) vms: Vms,
    pub(crate) images: Images,
    pub(crate) exports: Exports,
    pub(crate) resources: Resources,
    pub(crate) measured: Measured,
}

pub(crate) fn router(service: Service) -> Router {
    Routes::new(service)
        .gate(|_, meta, parts| async move { admit(meta.id, parts) })
        .serve::<api::Facts, _>(host::facts)
        .serve::<api::HostInventory, _>(host::inventory)
        .serve::<api::HostEvents, _>(host::events)
        .serve::<api::OperationCancel, _>(host::operation_cancel)
        .serve::<api::DatastoreEnsure, _>(host::datastore_ensure)
        .serve::<api::DatastoreRemove, _>(host::datastore_remove)
        .serve::<api::DatastoreUsers, _>(host::datastore_users)
        .serve::<api::DatastoreFiles, _>(host::datastore_files)
        .serve::<api::DatastoreRemoveFiles, _>(host::datastore_remove_files)
        .serve::<api::DatastoreUnregistered, _>(host::datastore_unregistered)
        .serve::<api::ResourcesSet, _>(host::resources_set)
        .serve::<api::NetworkEnsure, _>(host::network_ensure)
        .serve::<api::NetworkRemove, _>(host::network_remove)
        .serve::<api::ImageUpload, _>(image::image_upload)
        .serve::<api::ImageContent, _>(image::image_content)
        .serve::<api::ImageImport, _>(image::image_import)
        .serve::<api::ImageRemove, _>(image::image_remove)
        .serve::<api::VmCreate, _>(vm::vm_create)
        .serve::<api::VmDefine, _>(vm::vm_define)
        .serve::<api::VmDefined, _>(vm::vm_defined)
        .serve::<api::VmDiskTake, _>(vm::vm_disk_take)
        .serve::<api::VmRegister, _>(vm::vm_register)
        .serve::<api::VmRemove, _>(vm::vm_remove)
        .serve::<api::VmFreeze, _>(vm::vm_freeze)
        .serve::<api::VmFlatten, _>(vm::vm_flatten)
        .serve::<api::VmDisksMove, _>(vm::vm_disks_move)
        .serve::<api::VmStart, _>(vm::vm_start)
        .serve::<api::VmStop, _>(vm::vm_stop)
        .serve::<api::VmReset, _>(vm::vm_reset)
        .serve::<api::VmSuspend, _>(vm::vm_suspend)
        .serve::<api::VmSnapshot, _>(vm::vm_snapshot)
        .serve::<api::VmRevert, _>(vm::vm_revert)
        .serve::<api::VmSnapshotUpdate, _>(vm::vm_snapshot_update)
        .serve::<api::VmSnapshotDelete, _>(vm::vm_snapshot_delete)
        .serve::<api::VmFork, _>(vm::vm_fork)
        .serve::<api::VmSeal, _>(vm::vm_seal)
        .serve::<api::VmMigrationOffer, _>(migrate::offer)
        .serve::<api::VmMigrationPrepare, _>(migrate::prepare)
        .serve::<api::VmMigrate, _>(migrate::migrate)
        .serve::<api::VmMigrationMeasure, _>(migrate::measure)
        .serve::<api::VmMigrationReady, _>(migrate::ready)
        .serve::<api::VmMigrationTake, _>(migrate::take)
        .serve::<api::VmMigrationAbandon, _>(migrate::abandon)
        .serve::<api::VmMigrationForget, _>(migrate::forget)
        .serve::<api::VmExport, _>(vm::vm_export)
        .serve::<api::VmExportContent, _>(vm::vm_export_content)
        .serve::<api::VmExportRemove, _>(vm::vm_export_remove)
        .serve::<api::VmExec, _>(vm::vm_exec)
        .serve::<api::VmScreenshot, _>(vm::vm_screenshot)
        .serve::<api::VmConsole, _>(vm::vm_console)
        .serve::<api::VmLog, _>(vm::vm_log)
        .build()
}

/// What another host may ask, of a VM that the server has prepared here for that host.
const OF_HOSTS: [&str; 2] = [api::VmMigrationReady::ID, api::VmMigrationTake::ID];

/// The handshake has proved who the peer is. Only the server may ask for anything; a host may ask what
/// a migration needs, and whether that is answered its VM decides.
fn admit(endpoint: &str, parts: Parts) -> Result<Parts, Problem> {
    match parts.extensions.get::<Peer>() {
        Some(Peer(Ok(Identity::Server))) => Ok(parts),
        Some(Peer(Ok(Identity::Host(_)))) if OF_HOSTS.contains(&endpoint) => Ok(parts),
        Some(Peer(Ok(other))) => {
            let detail = format!("{other} may not command this agent; only the server may");
            Err(Problem::new(403, code::FORBIDDEN, detail))
        }
        Some(Peer(Err(error))) => Err(Problem::new(403, code::FORBIDDEN, error.to_string())),
        None => Err(Problem::internal()),
    }
}
