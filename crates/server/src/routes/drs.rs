//! Balancing.

use hostler_api::drs::{Apply, DrsHistory, History, ListRecommendations};
use hostler_control::services::{Options, drs};
use hostler_endpoint::{Call, Problem, Routes};
use hostler_types::{DrsApplied, Recommendations};

use crate::app::{App, actor};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<ListRecommendations, _>(list_recommendations)
        .serve::<Apply, _>(apply)
        .serve::<History, _>(history)
}

async fn list_recommendations(
    app: App,
    call: Call<ListRecommendations>,
) -> Result<Recommendations, Problem> {
    let actor = actor(&call.extensions)?;
    drs::recommendations(&app.world, actor).await.map_err(problem)
}

async fn apply(app: App, call: Call<Apply>) -> Result<DrsApplied, Problem> {
    let options = Options { dry_run: call.query.dry_run, idempotency_key: call.idempotency_key };
    let actor = actor(&call.extensions)?;
    drs::apply(&app.world, actor, &call.body, &options).await.map_err(problem)
}

async fn history(app: App, call: Call<History>) -> Result<DrsHistory, Problem> {
    let (query, actor) = (&call.query, actor(&call.extensions)?);
    let runs = drs::history(&app.world, actor, query.before, query.limit).await;
    Ok(DrsHistory { runs: runs.map_err(problem)? })
}
