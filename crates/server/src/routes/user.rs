//! Users, logins and who one is.

use std::time::Instant;

use hostler_api::code;
use hostler_api::user::{
    Create, Delete, Identity, List, Login, LoginAnswer, Logout, SetPassword, Whoami,
};
use hostler_control::services::token;
use hostler_control::services::user::{self, UserCreate, UserUpdate};
use hostler_control::{Class, ServiceError, Via};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Name, Ref, Revision, SecretText, User};

use crate::app::{App, actor, page, paged, shown};
use crate::limits::Guess;
use crate::peer::guesser;
use crate::problem::{problem, rate_limited};

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<Login, _>(login)
        .serve::<Logout, _>(logout)
        .serve::<Whoami, _>(whoami)
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Delete, _>(delete)
        .serve::<SetPassword, _>(set_password)
}

/// Open to everyone, so guessing is slowed down, by address and by user.
async fn login(app: App, call: Call<Login>) -> Result<LoginAnswer, Problem> {
    let name = call.body.user;
    // A name that cannot be is refused like one that is not there.
    let name: Name = name.parse().map_err(|_| wrong_login())?;
    let guesses = [guesser(&call.extensions), Some(Guess::User(name.to_string()))];
    let guesses = guesses.into_iter().flatten().collect::<Vec<_>>();
    app.guesses.begin(&guesses, Instant::now()).map_err(rate_limited)?;
    let password = call.body.password.reveal().to_owned();
    let issued = user::login(&app.world, &name, password).await;
    if !issued.as_ref().is_err_and(|error| error.class == Class::Unauthenticated) {
        app.guesses.forgive(&guesses);
    }
    let issued = issued.map_err(problem)?;
    let expires_at = issued.token.spec.expires_at.ok_or_else(|| {
        tracing::error!("a session does not expire");
        Problem::internal()
    })?;
    Ok(LoginAnswer { token: SecretText::new(issued.text), expires_at })
}

fn wrong_login() -> Problem {
    code::UNAUTHENTICATED.problem("the user name or password is wrong")
}

async fn logout(app: App, call: Call<Logout>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    let Via::Token(id) = actor.via else {
        return Err(Problem::invalid(None, "this connection has no token that could end"));
    };
    token::delete(&app.world, actor, &Ref::by_id(id)).await.map_err(problem)
}

async fn whoami(_: App, call: Call<Whoami>) -> Result<Identity, Problem> {
    let actor = actor(&call.extensions)?;
    Ok(Identity { name: actor.name.clone(), role: actor.role })
}

async fn list(app: App, call: Call<List>) -> Result<Page<User>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let actor = actor(&call.extensions)?;
    user::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<User, Problem> {
    let body = call.body;
    let password = body.password.map(|password| password.reveal().to_owned());
    let request = UserCreate { name: body.name, role: body.role, password };
    let actor = actor(&call.extensions)?;
    user::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    user::delete(&app.world, actor, &call.path.user).await.map_err(problem)
}

async fn set_password(app: App, call: Call<SetPassword>) -> Result<(), Problem> {
    let password = Some(call.body.password.reveal().to_owned());
    let request = UserUpdate { role: None, password };
    let expected = call.if_match.map(Revision);
    let actor = actor(&call.extensions)?;
    let changed = user::update(&app.world, actor, &call.path.user, request, expected).await;
    changed.map(drop).map_err(|error: ServiceError| problem(error))
}
