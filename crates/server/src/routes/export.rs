//! VMs as archives.

use hostler_api::export::{Content, Export, Remove};
use hostler_control::services::vm;
use hostler_endpoint::{ByteStream, Call, Problem, Routes};
use hostler_types::Task;

use crate::app::{App, actor, keyed, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes.serve::<Export, _>(export).serve::<Content, _>(content).serve::<Remove, _>(remove)
}

async fn export(app: App, call: Call<Export>) -> Result<Task, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let task = vm::export(&app.world, actor, &call.path.vm, &options).await;
    task.map(shown).map_err(problem)
}

async fn content(app: App, call: Call<Content>) -> Result<ByteStream, Problem> {
    let actor = actor(&call.extensions)?;
    vm::exported(&app.world, actor, &call.path.vm).await.map_err(problem)
}

async fn remove(app: App, call: Call<Remove>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    vm::remove_export(&app.world, actor, &call.path.vm).await.map_err(problem)
}
