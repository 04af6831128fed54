//! Naming rules.

use hostler_api::naming_rule::{Create, Delete, List, Next, Show, TakenName};
use hostler_control::services::naming_rule::{self, NamingRuleCreate};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::NamingRule;

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Delete, _>(delete)
        .serve::<Next, _>(next)
}

async fn list(app: App, call: Call<List>) -> Result<Page<NamingRule>, Problem> {
    let request = paged(call.query.limit, call.query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    naming_rule::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<NamingRule, Problem> {
    let request = NamingRuleCreate { name: call.body.name, spec: call.body.spec };
    let actor = actor(&call.extensions)?;
    naming_rule::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<NamingRule, Problem> {
    let actor = actor(&call.extensions)?;
    naming_rule::show(&app.world, actor, &call.path.rule).map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    naming_rule::delete(&app.world, actor, &call.path.rule).await.map_err(problem)
}

async fn next(app: App, call: Call<Next>) -> Result<TakenName, Problem> {
    let actor = actor(&call.extensions)?;
    let name = naming_rule::next(&app.world, actor, &call.path.rule).await.map_err(problem)?;
    Ok(TakenName { name })
}
