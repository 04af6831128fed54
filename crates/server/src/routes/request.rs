//! Requests for VMs.

use hostler_api::request::{Approve, Cancel, Create, List, Reject, Retry, Show, Why};
use hostler_control::services::request::{self, RequestFilter};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{ApprovalDecision, Request};

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Why, _>(why)
        .serve::<Approve, _>(approve)
        .serve::<Reject, _>(reject)
        .serve::<Cancel, _>(cancel)
        .serve::<Retry, _>(retry)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Request>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, Vec::new(), None);
    let filter = RequestFilter { state: query.state, requester: query.requester };
    let actor = actor(&call.extensions)?;
    request::list(&app.world, actor, &filter, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<Request, Problem> {
    let actor = actor(&call.extensions)?;
    request::create(&app.world, actor, call.body).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Request, Problem> {
    let actor = actor(&call.extensions)?;
    request::show(&app.world, actor, &call.path.request).map(shown).map_err(problem)
}

async fn why(app: App, call: Call<Why>) -> Result<ApprovalDecision, Problem> {
    let actor = actor(&call.extensions)?;
    request::why(&app.world, actor, &call.path.request).map_err(problem)
}

async fn approve(app: App, call: Call<Approve>) -> Result<Request, Problem> {
    let actor = actor(&call.extensions)?;
    let approved = request::approve(&app.world, actor, &call.path.request, call.body.comment).await;
    approved.map(shown).map_err(problem)
}

async fn reject(app: App, call: Call<Reject>) -> Result<Request, Problem> {
    let actor = actor(&call.extensions)?;
    let rejected = request::reject(&app.world, actor, &call.path.request, call.body.reason).await;
    rejected.map(shown).map_err(problem)
}

async fn cancel(app: App, call: Call<Cancel>) -> Result<Request, Problem> {
    let actor = actor(&call.extensions)?;
    request::cancel(&app.world, actor, &call.path.request).await.map(shown).map_err(problem)
}

async fn retry(app: App, call: Call<Retry>) -> Result<Request, Problem> {
    let actor = actor(&call.extensions)?;
    request::retry(&app.world, actor, &call.path.request).await.map(shown).map_err(problem)
}
