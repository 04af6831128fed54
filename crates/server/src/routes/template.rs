//! Templates.

use hostler_api::code;
use hostler_api::template::{Clone, Create, Delete, List, Seal, Show, ToVm, Update};
use hostler_api::vm::VmCloned;
use hostler_control::services::vm::{self, CloneOf};
use hostler_control::services::{Options, template};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Revision, Task, Template};

use crate::app::{App, actor, keyed, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Clone, _>(clone)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
        .serve::<Seal, _>(seal)
        .serve::<ToVm, _>(to_vm)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Template>, Problem> {
    let request = paged(call.query.limit, call.query.after, call.query.label, None);
    let actor = actor(&call.extensions)?;
    template::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    template::create(&app.world, actor, &call.body, &options).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Template, Problem> {
    let actor = actor(&call.extensions)?;
    template::show(&app.world, actor, &call.path.template).map(shown).map_err(problem)
}

async fn clone(app: App, call: Call<Clone>) -> Result<VmCloned, Problem> {
    let options = Options { dry_run: call.query.dry_run, idempotency_key: call.idempotency_key };
    let (actor, parent) = (actor(&call.extensions)?, CloneOf::Template(&call.path.template));
    let cloned = vm::clone(&app.world, actor, parent, call.body, &options).await;
    cloned.map(super::vm::cloned).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Template, Problem> {
    let reference = call.path.template;
    if reference.version.is_some() {
        let detail = "a version stays as it is; only the template changes: leave the number out";
        return Err(code::INVALID.problem(detail));
    }
    let expected = call.if_match.map(Revision);
    let actor = actor(&call.extensions)?;
    let changed =
        template::update(&app.world, actor, &reference.template, &call.body, expected).await;
    changed.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let task = template::delete(&app.world, actor, &call.path.template, &options).await;
    task.map(shown).map_err(problem)
}

async fn seal(app: App, call: Call<Seal>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let task = template::seal(&app.world, actor, &call.path.template, &options).await;
    task.map(shown).map_err(problem)
}

async fn to_vm(app: App, call: Call<ToVm>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let name = call.body.name.as_ref();
    let task = template::to_vm(&app.world, actor, &call.path.template, name, &options).await;
    task.map(shown).map_err(problem)
}
