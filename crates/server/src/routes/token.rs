//! Tokens.

use hostler_api::token::{Create, Delete, List, TokenCreated};
use hostler_control::services::token::{self, TokenCreate};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{SecretText, Token};
use jiff::SignedDuration;

use crate::app::{App, actor, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes.serve::<List, _>(list).serve::<Create, _>(create).serve::<Delete, _>(delete)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Token>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let actor = actor(&call.extensions)?;
    token::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<TokenCreated, Problem> {
    let body = call.body;
    let life = body.lifetime_seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let life = life.map(SignedDuration::from_secs);
    let request = TokenCreate { name: Some(body.name), user: body.user, role: body.role, life };
    let actor = actor(&call.extensions)?;
    let issued = token::create(&app.world, actor, request).await.map_err(problem)?;
    Ok(TokenCreated { token: shown(issued.token), secret: SecretText::new(issued.text) })
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    token::delete(&app.world, actor, &call.path.token).await.map_err(problem)
}
