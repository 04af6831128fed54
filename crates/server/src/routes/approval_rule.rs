//! Approval rules.

use hostler_api::approval_rule::{Create, Delete, List, Show, Update};
use hostler_control::services::approval_rule::{self, ApprovalRuleCreate};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{ApprovalRule, Revision};

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

async fn list(app: App, call: Call<List>) -> Result<Page<ApprovalRule>, Problem> {
    let request = paged(call.query.limit, call.query.after, Vec::new(), None);
    let actor = actor(&call.extensions)?;
    approval_rule::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<ApprovalRule, Problem> {
    let request = ApprovalRuleCreate { name: call.body.name, spec: call.body.spec };
    let actor = actor(&call.extensions)?;
    approval_rule::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<ApprovalRule, Problem> {
    let actor = actor(&call.extensions)?;
    approval_rule::show(&app.world, actor, &call.path.rule).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<ApprovalRule, Problem> {
    let expected = call.if_match.map(Revision);
    let actor = actor(&call.extensions)?;
    let rule = &call.path.rule;
    let changed = approval_rule::update(&app.world, actor, rule, call.body, expected).await;
    changed.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    approval_rule::delete(&app.world, actor, &call.path.rule).await.map_err(problem)
}
