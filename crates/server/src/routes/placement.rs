//! Where VMs are and could be.

use hostler_api::placement::{
    Decisions, Export, ListDecisions, ReplayDecision, ShowDecision, Simulate, SimulationAnswer,
    WhyNot,
};
use hostler_control::services::placement;
use hostler_endpoint::{Call, Problem, Routes};
use hostler_types::{DecisionRecord, DecisionReplay, InventoryExport, PlacementWhyNot};

use crate::app::{App, actor};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<WhyNot, _>(why_not)
        .serve::<ListDecisions, _>(list_decisions)
        .serve::<ShowDecision, _>(show_decision)
        .serve::<ReplayDecision, _>(replay_decision)
        .serve::<Export, _>(export)
        .serve::<Simulate, _>(simulate)
}

async fn why_not(app: App, call: Call<WhyNot>) -> Result<PlacementWhyNot, Problem> {
    let actor = actor(&call.extensions)?;
    placement::why_not(&app.world, actor, &call.path.vm, &call.path.host).map_err(problem)
}

async fn list_decisions(app: App, call: Call<ListDecisions>) -> Result<Decisions, Problem> {
    let (query, actor) = (&call.query, actor(&call.extensions)?);
    let (vm, before, limit) = (query.vm.as_ref(), query.before, query.limit);
    let found = placement::list_decisions(&app.world, actor, vm, before, limit);
    Ok(Decisions { decisions: found.await.map_err(problem)? })
}

async fn show_decision(app: App, call: Call<ShowDecision>) -> Result<DecisionRecord, Problem> {
    let actor = actor(&call.extensions)?;
    placement::show_decision(&app.world, actor, call.path.decision).await.map_err(problem)
}

async fn replay_decision(app: App, call: Call<ReplayDecision>) -> Result<DecisionReplay, Problem> {
    let actor = actor(&call.extensions)?;
    placement::replay_decision(&app.world, actor, call.path.decision).await.map_err(problem)
}

async fn export(app: App, call: Call<Export>) -> Result<InventoryExport, Problem> {
    let actor = actor(&call.extensions)?;
    placement::export(&app.world, actor).map_err(problem)
}

async fn simulate(app: App, call: Call<Simulate>) -> Result<SimulationAnswer, Problem> {
    let actor = actor(&call.extensions)?;
    let answer = placement::simulate(&app.world, actor, call.body).await;
    answer.map(|answer| SimulationAnswer { answer }).map_err(problem)
}
