//! Placement rules.

use hostler_api::rule::{Create, Delete, List, ListViolations, Show, Update, Violations};
use hostler_control::services::rule::{self, RuleCreate, RuleUpdate};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Revision, Rule};

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
        .serve::<ListViolations, _>(list_violations)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Rule>, Problem> {
    let request = paged(call.query.limit, call.query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    rule::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Rule, Problem> {
    let body = call.body;
    let request = RuleCreate { name: body.name, labels: body.labels, spec: body.spec };
    let actor = actor(&call.extensions)?;
    rule::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Rule, Problem> {
    let actor = actor(&call.extensions)?;
    rule::show(&app.world, actor, &call.path.rule).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Rule, Problem> {
    let (expected, actor) = (call.if_match.map(Revision), actor(&call.extensions)?);
    let body = call.body;
    let request = RuleUpdate {
        relation: body.relation,
        strength: body.strength,
        vms: body.vms,
        hosts: body.hosts,
        scope: body.scope,
        description: body.description,
    };
    let changed = rule::update(&app.world, actor, &call.path.rule, request, expected);
    changed.await.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    rule::delete(&app.world, actor, &call.path.rule).await.map_err(problem)
}

async fn list_violations(app: App, call: Call<ListViolations>) -> Result<Violations, Problem> {
    let actor = actor(&call.extensions)?;
    let violations = rule::list_violations(&app.world, actor).map_err(problem)?;
    Ok(Violations { violations })
}
