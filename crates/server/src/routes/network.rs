//! Networks.

use hostler_api::network::{Create, Delete, List, SetPool, Show};
use hostler_control::services::network::{self, NetworkCreate};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Network, Revision};

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<SetPool, _>(set_pool)
        .serve::<Delete, _>(delete)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Network>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let actor = actor(&call.extensions)?;
    network::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Network, Problem> {
    let body = call.body;
    let request = NetworkCreate { name: body.name, labels: body.labels, spec: body.spec };
    let actor = actor(&call.extensions)?;
    network::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Network, Problem> {
    let actor = actor(&call.extensions)?;
    network::show(&app.world, actor, &call.path.network).map(shown).map_err(problem)
}

async fn set_pool(app: App, call: Call<SetPool>) -> Result<Network, Problem> {
    let expected = call.if_match.map(Revision);
    let actor = actor(&call.extensions)?;
    let changed =
        network::set_pool(&app.world, actor, &call.path.network, call.body.pool, expected);
    changed.await.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    network::delete(&app.world, actor, &call.path.network).await.map_err(problem)
}
