//! The cluster.

use hostler_api::cluster::{CpuBaseline, Show, Update};
use hostler_control::services::cluster;
use hostler_endpoint::{Call, Problem, Routes};
use hostler_types::{Cluster, CpuBaselineReport, Revision};

use crate::app::{App, actor, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    let routes = routes.serve::<Show, _>(show).serve::<Update, _>(update);
    routes.serve::<CpuBaseline, _>(cpu_baseline)
}

async fn show(app: App, call: Call<Show>) -> Result<Cluster, Problem> {
    let actor = actor(&call.extensions)?;
    cluster::show(&app.world, actor).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Cluster, Problem> {
    let expected = call.if_match.map(Revision);
    let actor = actor(&call.extensions)?;
    cluster::update(&app.world, actor, call.body, expected).await.map(shown).map_err(problem)
}

async fn cpu_baseline(app: App, call: Call<CpuBaseline>) -> Result<CpuBaselineReport, Problem> {
    cluster::cpu_baseline(&app.world, actor(&call.extensions)?).map_err(problem)
}
