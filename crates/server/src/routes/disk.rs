//! Disks of VMs.

use hostler_api::disk::{Add, Attach, Detach, DiskAttachQuery, DiskRemoveQuery, Remove, Update};
use hostler_control::ServiceError;
use hostler_control::services::vm::disk;
use hostler_endpoint::{Call, Problem, Routes};
use hostler_types::Task;

use crate::app::{App, actor, keyed, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<Add, _>(disk_add)
        .serve::<Update, _>(update)
        .serve::<Detach, _>(detach)
        .serve::<Attach, _>(attach)
        .serve::<Remove, _>(remove)
}

async fn disk_add(app: App, call: Call<Add>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let task = disk::add(&app.world, actor, &call.path.vm, &call.body, &options).await;
    task.map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let (vm, disk) = (&call.path.vm, &call.path.disk);
    let task = disk::update(&app.world, actor, vm, disk, &call.body, &options).await;
    task.map(shown).map_err(problem)
}

async fn detach(app: App, call: Call<Detach>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let (vm, disk, force) = (&call.path.vm, &call.path.disk, call.query.force);
    let task = disk::detach(&app.world, actor, vm, disk, force, &options).await;
    task.map(shown).map_err(problem)
}

async fn attach(app: App, call: Call<Attach>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let (vm, disk) = (&call.path.vm, &call.path.disk);
    let DiskAttachQuery { from, name } = call.query;
    let task = match (from, name) {
        (Some(from), name) => {
            let taking = disk::DiskTake { from, name };
            disk::take(&app.world, actor, vm, disk, &taking, &options).await
        }
        (None, None) => disk::attach(&app.world, actor, vm, disk, &options).await,
        (None, Some(_)) => {
            Err(ServiceError::invalid("name", "only with `from`: a VM's own disk keeps its name"))
        }
    };
    task.map(shown).map_err(problem)
}

async fn remove(app: App, call: Call<Remove>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let DiskRemoveQuery { delete_data, force } = call.query;
    let (vm, disk, removal) =
        (&call.path.vm, &call.path.disk, disk::Removal { delete_data, force });
    let task = disk::remove(&app.world, actor, vm, disk, removal, &options).await;
    task.map(shown).map_err(problem)
}
