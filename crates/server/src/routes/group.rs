//! Groups of VMs or hosts.

use hostler_api::group::{Create, Delete, List, Show, Update};
use hostler_control::services::group::{self, GroupCreate, GroupUpdate};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Group, Revision};

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Group>, Problem> {
    let request = paged(call.query.limit, call.query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    group::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Group, Problem> {
    let body = call.body;
    let request = GroupCreate { name: body.name, labels: body.labels, spec: body.spec };
    let actor = actor(&call.extensions)?;
    group::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Group, Problem> {
    let actor = actor(&call.extensions)?;
    group::show(&app.world, actor, &call.path.group).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Group, Problem> {
    let (expected, actor) = (call.if_match.map(Revision), actor(&call.extensions)?);
    let body = call.body;
    let request = GroupUpdate { members: body.members, description: body.description };
    let changed = group::update(&app.world, actor, &call.path.group, request, expected);
    changed.await.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    group::delete(&app.world, actor, &call.path.group).await.map_err(problem)
}
