//! Datastores, and the VMs whose files lie on them without being in the inventory.

use hostler_api::datastore::{
    self as api, Adopt, Check, Create, Delete, List, Register, RemoveOrphans, Show, Unregistered,
    UnregisteredVm, Update,
};
use hostler_control::services::datastore::{
    self, DatastoreCreate, DatastoreFilter, DatastoreUpdate,
};
use hostler_control::services::vm::{self, VmRegister};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Datastore, DatastoreFindings, Ref, Revision, Task};

use crate::app::{App, actor, keyed, page, paged, shown, task_of};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
        .serve::<Unregistered, _>(unregistered)
        .serve::<Register, _>(register)
        .serve::<Check, _>(check)
        .serve::<Adopt, _>(adopt)
        .serve::<RemoveOrphans, _>(remove_orphans)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Datastore>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let filter = DatastoreFilter { host: query.host };
    let actor = actor(&call.extensions)?;
    datastore::list(&app.world, actor, &filter, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Datastore, Problem> {
    let body = call.body;
    let request = DatastoreCreate {
        name: body.name,
        labels: body.labels,
        hosts: body.host.into_iter().chain(body.hosts).collect(),
        kind: body.kind,
        limits: body.limits,
        path: body.path,
    };
    let actor = actor(&call.extensions)?;
    datastore::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Datastore, Problem> {
    let actor = actor(&call.extensions)?;
    datastore::show(&app.world, actor, &call.path.datastore).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Datastore, Problem> {
    let api::DatastoreUpdate { labels, maintenance, limits, hosts } = call.body;
    let request = DatastoreUpdate { labels, maintenance, limits, hosts };
    let (expected, actor) = (call.if_match.map(Revision), actor(&call.extensions)?);
    let datastore = &call.path.datastore;
    let changed = datastore::update(&app.world, actor, datastore, request, expected).await;
    changed.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    datastore::delete(&app.world, actor, &call.path.datastore).await.map_err(problem)
}

async fn unregistered(app: App, call: Call<Unregistered>) -> Result<Page<UnregisteredVm>, Problem> {
    let actor = actor(&call.extensions)?;
    let found = vm::unregistered(&app.world, actor, &call.path.datastore).await;
    let items = found.map_err(problem)?.into_iter().map(|vm| UnregisteredVm {
        id: vm.id(),
        name: Some(vm.name().clone()),
        problem: None,
    });
    let revision = app.world.snapshot().revision.0;
    Ok(Page { items: items.collect(), next: None, revision })
}

async fn register(app: App, call: Call<Register>) -> Result<Task, Problem> {
    let request = VmRegister {
        datastore: call.path.datastore,
        vm: Ref::by_id(call.path.vm),
        name: call.body.name,
    };
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let changed = vm::register(&app.world, actor, request, &options).await;
    task_of(changed.map_err(problem)?)
}

async fn check(app: App, call: Call<Check>) -> Result<DatastoreFindings, Problem> {
    let actor = actor(&call.extensions)?;
    datastore::check_files(&app.world, actor, &call.path.datastore).await.map_err(problem)
}

async fn adopt(app: App, call: Call<Adopt>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let api::AdoptRequest { path, name } = call.body;
    let store = &call.path.datastore;
    let task = datastore::adopt(&app.world, actor, store, &path, name.as_ref(), &options).await;
    task.map(shown).map_err(problem)
}

async fn remove_orphans(app: App, call: Call<RemoveOrphans>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let (store, paths) = (&call.path.datastore, &call.body.paths);
    let task = datastore::remove_orphans(&app.world, actor, store, paths, &options).await;
    task.map(shown).map_err(problem)
}
