//! The recycle bin.

use hostler_api::recycle_bin::{List, Purge, Undelete};
use hostler_control::services::vm;
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Task, Vm};

use crate::app::{App, actor, keyed, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes.serve::<List, _>(list).serve::<Undelete, _>(undelete).serve::<Purge, _>(purge)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Vm>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    vm::recycled(&app.world, actor, &request).map(page).map_err(problem)
}

async fn undelete(app: App, call: Call<Undelete>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let name = call.body.name.as_ref();
    let task = vm::undelete(&app.world, actor, &call.path.vm, name, &options).await;
    task.map(shown).map_err(problem)
}

async fn purge(app: App, call: Call<Purge>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::purge(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}
