//! Tasks.

use hostler_api::task::{Abandon, Cancel, List, Retry, Show, Watch};
use hostler_control::services::task::{self, TaskFilter};
use hostler_endpoint::{Call, EventStream, Item, Page, Problem, Routes};
use hostler_types::{Ref, Task};

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Show, _>(show)
        .serve::<Cancel, _>(cancel)
        .serve::<Retry, _>(retry)
        .serve::<Abandon, _>(abandon)
        .serve::<Watch, _>(watch)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Task>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, Vec::new(), None);
    let filter = TaskFilter {
        state: query.state,
        active: query.active,
        action: query.action,
        object: query.object,
        parent: query.parent,
        ..TaskFilter::default()
    };
    let actor = actor(&call.extensions)?;
    task::list(&app.world, actor, &filter, &request).map(page).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Task, Problem> {
    let actor = actor(&call.extensions)?;
    task::show(&app.world, actor, &Ref::by_id(call.path.task)).map(shown).map_err(problem)
}

async fn cancel(app: App, call: Call<Cancel>) -> Result<Task, Problem> {
    let actor = actor(&call.extensions)?;
    let task = task::cancel(&app.world, actor, &Ref::by_id(call.path.task)).await;
    task.map(shown).map_err(problem)
}

async fn retry(app: App, call: Call<Retry>) -> Result<Task, Problem> {
    let actor = actor(&call.extensions)?;
    let task = task::retry(&app.world, actor, &Ref::by_id(call.path.task)).await;
    task.map(shown).map_err(problem)
}

async fn abandon(app: App, call: Call<Abandon>) -> Result<Task, Problem> {
    let actor = actor(&call.extensions)?;
    let task = task::abandon(&app.world, actor, &Ref::by_id(call.path.task)).await;
    task.map(shown).map_err(problem)
}

async fn watch(app: App, call: Call<Watch>) -> Result<EventStream<Task>, Problem> {
    let actor = actor(&call.extensions)?;
    let updates = task::watch(&app.world, actor, &Ref::by_id(call.path.task)).map_err(problem)?;
    Ok(app.events(updates, |task| Item { id: task.metadata.revision.0, data: shown(task) }))
}
