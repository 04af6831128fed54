//! Resource pools.

use hostler_api::code;
use hostler_api::pool::{Create, Delete, Explain, ExplainQuery, List, Show, Tree, Update};
use hostler_control::services::pool::{self, Explained};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Pool, PoolExplanation, PoolTree, Revision};

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
        .serve::<Tree, _>(tree)
        .serve::<Explain, _>(explain)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Pool>, Problem> {
    let request = paged(call.query.limit, call.query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    pool::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Pool, Problem> {
    let actor = actor(&call.extensions)?;
    pool::create(&app.world, actor, call.body).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Pool, Problem> {
    let actor = actor(&call.extensions)?;
    pool::show(&app.world, actor, &call.path.pool).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Pool, Problem> {
    let expected = call.if_match.map(Revision);
    let (actor, pool) = (actor(&call.extensions)?, &call.path.pool);
    let changed = pool::update(&app.world, actor, pool, call.body, expected).await;
    changed.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    pool::delete(&app.world, actor, &call.path.pool).await.map_err(problem)
}

async fn tree(app: App, call: Call<Tree>) -> Result<PoolTree, Problem> {
    let actor = actor(&call.extensions)?;
    pool::tree(&app.world, actor).await.map_err(problem)
}

async fn explain(app: App, call: Call<Explain>) -> Result<PoolExplanation, Problem> {
    let actor = actor(&call.extensions)?;
    let what = match call.query {
        ExplainQuery { pool: Some(pool), vm: None, name: None } => Explained::Pool(pool),
        ExplainQuery { pool: None, vm: Some(vm), name: None } => Explained::Vm(vm),
        ExplainQuery { pool: None, vm: None, name: Some(name) } => Explained::Either(name),
        _ => return Err(code::INVALID.problem("say one of `pool`, `vm` and `name`")),
    };
    pool::explain(&app.world, actor, what).await.map_err(problem)
}
