//! Snapshot policies.

use hostler_api::snapshot_policy::{Create, Delete, List, Show, Update};
use hostler_control::services::snapshot_policy::{
    self, SnapshotPolicyCreate, SnapshotPolicyUpdate,
};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Revision, SnapshotPolicy};

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

async fn list(app: App, call: Call<List>) -> Result<Page<SnapshotPolicy>, Problem> {
    let request = paged(call.query.limit, call.query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    snapshot_policy::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<SnapshotPolicy, Problem> {
    let request = SnapshotPolicyCreate { name: call.body.name, spec: call.body.spec };
    let actor = actor(&call.extensions)?;
    snapshot_policy::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<SnapshotPolicy, Problem> {
    let actor = actor(&call.extensions)?;
    snapshot_policy::show(&app.world, actor, &call.path.policy).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<SnapshotPolicy, Problem> {
    let (expected, actor) = (call.if_match.map(Revision), actor(&call.extensions)?);
    let body = call.body;
    let request = SnapshotPolicyUpdate { selector: body.selector, limits: body.limits };
    let changed = snapshot_policy::update(&app.world, actor, &call.path.policy, request, expected);
    changed.await.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    snapshot_policy::delete(&app.world, actor, &call.path.policy).await.map_err(problem)
}
