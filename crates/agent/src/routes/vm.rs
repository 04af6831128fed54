//! VMs.

use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{VmFrozen, VmReport};
use hostler_endpoint::{ByteStream, Call, Problem};
use hostler_types::{ExecAnswer, ExportManifest};

use super::Service;
use crate::blocking::blocking;
use crate::fault::Fault;
use crate::vm::{Action, TakeOrder, frozen};

/// A guest that needs longer to shut down is not shutting down.
const LONGEST_STOP: u32 = 24 * 3600;

pub(super) async fn vm_create(
    service: Service,
    call: Call<api::VmCreate>,
) -> Result<VmReport, Problem> {
    service.vms.create(call.path.vm, call.body).await
}

pub(super) async fn vm_define(
    service: Service,
    call: Call<api::VmDefine>,
) -> Result<VmReport, Problem> {
    let request = call.body;
    if request.definition.vm.id() != call.path.vm {
        return Err(Fault::Invalid("the definition is of another VM".to_owned()).into());
    }
    request.definition.vm.spec.validate().map_err(|error| Fault::Invalid(error.to_string()))?;
    let (definition, force) = (Box::new(request.definition), request.force);
    let action = Action::Define { definition, force };
    service.vms.command(call.path.vm, request.command, action).await
}

pub(super) async fn vm_defined(
    service: Service,
    call: Call<api::VmDefined>,
) -> Result<api::VmDefinition, Problem> {
    let vm = call.path.vm;
    let found = blocking(move || match service.vms.contains(vm) {
        true => service.host.records.get(vm),
        false => Ok(None),
    });
    let record = found.await?.ok_or(Fault::NoVm(vm))?;
    Ok(record.definition)
}

pub(super) async fn vm_disk_take(
    service: Service,
    call: Call<api::VmDiskTake>,
) -> Result<VmReport, Problem> {
    let api::VmDiskTakeRequest { command, from, disk, name } = call.body;
    let action = Action::DiskTake(Box::new(TakeOrder { from, disk, name }));
    service.vms.command(call.path.vm, command, action).await
}

pub(super) async fn vm_register(
    service: Service,
    call: Call<api::VmRegister>,
) -> Result<VmReport, Problem> {
    service.vms.register(call.path.vm, call.body).await
}

pub(super) async fn vm_remove(service: Service, call: Call<api::VmRemove>) -> Result<(), Problem> {
    service.vms.remove(call.path.vm, call.body).await
}

pub(super) async fn vm_freeze(
    service: Service,
    call: Call<api::VmFreeze>,
) -> Result<VmFrozen, Problem> {
    let (vm, request) = (call.path.vm, call.body);
    let action = Action::Freeze { snapshot: request.snapshot };
    let report = service.vms.command(vm, request.command, action).await?;
    let answer = move || frozen(&service.host, report, request.snapshot);
    Ok(blocking(answer).await?)
}

pub(super) async fn vm_flatten(
    service: Service,
    call: Call<api::VmFlatten>,
) -> Result<VmReport, Problem> {
    let request = call.body;
    let action = Action::Flatten { disks: request.disks, rate: request.max_rate };
    service.vms.command(call.path.vm, request.command, action).await
}

pub(super) async fn vm_disks_move(
    service: Service,
    call: Call<api::VmDisksMove>,
) -> Result<VmReport, Problem> {
    let request = call.body;
    let action = Action::DisksMove { to: request.datastore, rate: request.max_rate };
    service.vms.command(call.path.vm, request.command, action).await
}

pub(super) async fn vm_start(
    service: Service,
    call: Call<api::VmStart>,
) -> Result<VmReport, Problem> {
    let request = call.body;
    service.vms.command(call.path.vm, request.command, Action::Start { cpu: request.cpu }).await
}

pub(super) async fn vm_stop(
    service: Service,
    call: Call<api::VmStop>,
) -> Result<VmReport, Problem> {
    let request = call.body;
    let timeout = Duration::from_secs(request.timeout_seconds.min(LONGEST_STOP).into());
    let action = Action::Stop { mode: request.mode, timeout };
    service.vms.command(call.path.vm, request.command, action).await
}

pub(super) async fn vm_reset(
    service: Service,
    call: Call<api::VmReset>,
) -> Result<VmReport, Problem> {
    service.vms.command(call.path.vm, call.body, Action::Reset).await
}

pub(super) async fn vm_suspend(
    service: Service,
    call: Call<api::VmSuspend>,
) -> Result<VmReport, Problem> {
    service.vms.command(call.path.vm, call.body, Action::Suspend).await
}

pub(super) async fn vm_snapshot(
    service: Service,
    call: Call<api::VmSnapshot>,
) -> Result<VmReport, Problem> {
    let (command, action) = (call.body.command, Action::Snapshot(Box::new(call.body)));
    service.vms.command(call.path.vm, command, action).await
}

pub(super) async fn vm_snapshot_update(
    service: Service,
    call: Call<api::VmSnapshotUpdate>,
) -> Result<VmReport, Problem> {
    let (command, action) = (call.body.command, Action::SnapshotUpdate(Box::new(call.body)));
    service.vms.command(call.path.vm, command, action).await
}

pub(super) async fn vm_revert(
    service: Service,
    call: Call<api::VmRevert>,
) -> Result<VmReport, Problem> {
    let request = call.body;
    let action = Action::Revert { snapshot: request.snapshot, start: request.start };
    service.vms.command(call.path.vm, request.command, action).await
}

pub(super) async fn vm_snapshot_delete(
    service: Service,
    call: Call<api::VmSnapshotDelete>,
) -> Result<VmReport, Problem> {
    let api::VmSnapshotDeleteRequest { command, snapshots, max_rate } = call.body;
    let action = Action::SnapshotDelete { snapshots, max_rate };
    service.vms.command(call.path.vm, command, action).await
}

pub(super) async fn vm_fork(
    service: Service,
    call: Call<api::VmFork>,
) -> Result<api::VmForkAnswer, Problem> {
    Box::pin(service.vms.fork(call.path.vm, call.body)).await
}

pub(super) async fn vm_seal(
    service: Service,
    call: Call<api::VmSeal>,
) -> Result<VmReport, Problem> {
    service.vms.command(call.path.vm, call.body, Action::Seal).await
}

pub(super) async fn vm_export(
    service: Service,
    call: Call<api::VmExport>,
) -> Result<ExportManifest, Problem> {
    service.exports.export(call.path.vm, call.body).await
}

pub(super) async fn vm_export_content(
    service: Service,
    call: Call<api::VmExportContent>,
) -> Result<ByteStream, Problem> {
    Ok(service.exports.content(call.path.vm).await?)
}

pub(super) async fn vm_export_remove(
    service: Service,
    call: Call<api::VmExportRemove>,
) -> Result<(), Problem> {
    Ok(service.exports.remove(call.path.vm).await?)
}

pub(super) async fn vm_exec(
    service: Service,
    call: Call<api::VmExec>,
) -> Result<ExecAnswer, Problem> {
    Ok(service.vms.exec(call.path.vm, call.body).await?)
}

pub(super) async fn vm_screenshot(
    service: Service,
    call: Call<api::VmScreenshot>,
) -> Result<ByteStream, Problem> {
    Ok(service.vms.screenshot(call.path.vm).await?)
}

pub(super) async fn vm_console(
    service: Service,
    call: Call<api::VmConsole>,
) -> Result<ByteStream, Problem> {
    Ok(service.vms.console(call.path.vm, call.query.kind, call.body).await?)
}

pub(super) async fn vm_log(
    service: Service,
    call: Call<api::VmLog>,
) -> Result<ByteStream, Problem> {
    Ok(service.vms.log(&service.host, call.path.vm, call.query.follow).await?)
}
