//! Snapshots of VMs.

use hostler_api::snapshot::{
    Consolidate, Create, Delete, DeleteSeveral, List, PlanDeletion, Revert, Show,
    SnapshotSelection, Update,
};
use hostler_control::services::vm::snapshot::{
    self, SnapshotCreate, SnapshotDelete, SnapshotRevert, SnapshotUpdate,
};
use hostler_endpoint::{Call, Problem, Routes};
use hostler_types::{Snapshot, SnapshotDeletionPlan, Task, VmSnapshots};

use crate::app::{App, actor, keyed, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
        .serve::<DeleteSeveral, _>(delete_several)
        .serve::<PlanDeletion, _>(deletion_plan)
        .serve::<Revert, _>(revert)
        .serve::<Consolidate, _>(consolidate)
}

async fn list(app: App, call: Call<List>) -> Result<VmSnapshots, Problem> {
    let actor = actor(&call.extensions)?;
    snapshot::list(&app.world, actor, &call.path.vm).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let body = call.body;
    let request = SnapshotCreate {
        name: body.name,
        description: body.description,
        memory: body.memory,
        quiesce: body.quiesce,
    };
    let task = snapshot::create(&app.world, actor, &call.path.vm, &request, &options).await;
    task.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Snapshot, Problem> {
    let actor = actor(&call.extensions)?;
    snapshot::show(&app.world, actor, &call.path.vm, &call.path.snapshot).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let request = SnapshotUpdate { name: call.body.name, description: call.body.description };
    let (vm, snapshot) = (&call.path.vm, &call.path.snapshot);
    let task = snapshot::update(&app.world, actor, vm, snapshot, &request, &options).await;
    task.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let request = SnapshotDelete {
        snapshots: vec![call.path.snapshot],
        children: call.query.children,
        all: false,
        max_rate: call.query.max_rate,
    };
    let task = snapshot::delete(&app.world, actor, &call.path.vm, &request, &options).await;
    task.map(shown).map_err(problem)
}

async fn delete_several(app: App, call: Call<DeleteSeveral>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let request = selected(call.query);
    let task = snapshot::delete(&app.world, actor, &call.path.vm, &request, &options).await;
    task.map(shown).map_err(problem)
}

async fn deletion_plan(
    app: App,
    call: Call<PlanDeletion>,
) -> Result<SnapshotDeletionPlan, Problem> {
    let actor = actor(&call.extensions)?;
    let request = selected(call.query);
    snapshot::plan(&app.world, actor, &call.path.vm, &request).map_err(problem)
}

async fn revert(app: App, call: Call<Revert>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let request = SnapshotRevert { start: call.body.start, force: call.body.force };
    let (vm, snapshot) = (&call.path.vm, &call.path.snapshot);
    let task = snapshot::revert(&app.world, actor, vm, snapshot, request, &options).await;
    task.map(shown).map_err(problem)
}

async fn consolidate(app: App, call: Call<Consolidate>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let (vm, rate) = (&call.path.vm, call.body.max_rate);
    let task = snapshot::consolidate(&app.world, actor, vm, rate, &options).await;
    task.map(shown).map_err(problem)
}

fn selected(query: SnapshotSelection) -> SnapshotDelete {
    SnapshotDelete {
        snapshots: query.snapshot,
        children: query.children,
        all: query.all,
        max_rate: query.max_rate,
    }
}
