//! Hosts, and how they join.

use std::time::Instant;

use hostler_api::host::{
    CreateJoinToken, Delete, EnterMaintenance, ExitMaintenance, HostVm, JoinHost, JoinTokenCreated,
    List, MaintenanceEnded, Register, Show, Stats, Unregistered, Update,
};
use hostler_control::Class;
use hostler_control::services::host::{self, HostFilter, HostUpdate};
use hostler_control::services::stats;
use hostler_control::services::vm::{self, VmRegisterFromHost};
use hostler_control::services::{Options, join_token};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Host, HostMaintenance, HostStats, JoinAnswer, Revision, Task};
use jiff::SignedDuration;

use crate::app::{App, actor, keyed, page, paged, shown, task_of};
use crate::peer::guesser;
use crate::problem::{problem, rate_limited};

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Show, _>(show)
        .serve::<Stats, _>(host_stats)
        .serve::<Update, _>(update)
        .serve::<EnterMaintenance, _>(enter_maintenance)
        .serve::<ExitMaintenance, _>(exit_maintenance)
        .serve::<Delete, _>(delete)
        .serve::<Unregistered, _>(unregistered)
        .serve::<Register, _>(register)
        .serve::<CreateJoinToken, _>(create_join_token)
        .serve::<JoinHost, _>(join)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Host>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let filter = HostFilter { state: query.state };
    let actor = actor(&call.extensions)?;
    host::list(&app.world, actor, &filter, &request).map(page).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<Host, Problem> {
    let actor = actor(&call.extensions)?;
    host::show(&app.world, actor, &call.path.host).map(shown).map_err(problem)
}

async fn host_stats(app: App, call: Call<Stats>) -> Result<HostStats, Problem> {
    let actor = actor(&call.extensions)?;
    stats::host(&app.world, actor, &call.path.host).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Host, Problem> {
    let (expected, actor) = (call.if_match.map(Revision), actor(&call.extensions)?);
    let request = HostUpdate { labels: call.body.labels };
    let changed = host::update(&app.world, actor, &call.path.host, request, expected);
    changed.await.map(shown).map_err(problem)
}

async fn enter_maintenance(
    app: App,
    call: Call<EnterMaintenance>,
) -> Result<HostMaintenance, Problem> {
    let options = Options { dry_run: call.query.dry_run, idempotency_key: call.idempotency_key };
    let actor = actor(&call.extensions)?;
    let entered = host::maintenance_enter(&app.world, actor, &call.path.host, &call.body, &options);
    entered.await.map_err(problem)
}

async fn exit_maintenance(
    app: App,
    call: Call<ExitMaintenance>,
) -> Result<MaintenanceEnded, Problem> {
    let (options, actor) = (keyed(call.idempotency_key), actor(&call.extensions)?);
    let left = host::maintenance_exit(&app.world, actor, &call.path.host, &call.body, &options);
    let host::Left { host, task } = left.await.map_err(problem)?;
    Ok(MaintenanceEnded { host: shown(host), task: task.map(shown) })
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    host::delete(&app.world, actor, &call.path.host).await.map_err(problem)
}

async fn unregistered(app: App, call: Call<Unregistered>) -> Result<Page<HostVm>, Problem> {
    let actor = actor(&call.extensions)?;
    let found = vm::on_host(&app.world, actor, &call.path.host).await.map_err(problem)?;
    let items = found.into_iter().map(|found| {
        let vm = found.vm.as_deref();
        HostVm {
            id: found.id,
            name: vm.map(|vm| vm.called().clone()),
            power: found.power,
            epoch: found.epoch,
            cpus: vm.map(|vm| vm.spec.cpus.count()),
            memory: vm.map(|vm| vm.spec.memory),
            problem: found.problem,
        }
    });
    let revision = app.world.snapshot().revision.0;
    Ok(Page { items: items.collect(), next: None, revision })
}

async fn register(app: App, call: Call<Register>) -> Result<Task, Problem> {
    let request =
        VmRegisterFromHost { host: call.path.host, vm: call.path.vm, name: call.body.name };
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let changed = vm::register_from_host(&app.world, actor, request, &options).await;
    task_of(changed.map_err(problem)?)
}

async fn create_join_token(
    app: App,
    call: Call<CreateJoinToken>,
) -> Result<JoinTokenCreated, Problem> {
    let life = call.body.lifetime_seconds.map(|s| SignedDuration::from_secs(i64::from(s)));
    let actor = actor(&call.extensions)?;
    let issued = join_token::create(&app.world, actor, life).await.map_err(problem)?;
    Ok(JoinTokenCreated { token: issued.text, expires_at: issued.token.spec.expires_at })
}

/// Open to everyone, so guessing is slowed down by address.
async fn join(app: App, call: Call<JoinHost>) -> Result<JoinAnswer, Problem> {
    let guesses = guesser(&call.extensions).into_iter().collect::<Vec<_>>();
    app.guesses.begin(&guesses, Instant::now()).map_err(rate_limited)?;
    let joined = host::join(&app.world, call.body).await;
    if !joined.as_ref().is_err_and(|error| error.class == Class::Unauthenticated) {
        app.guesses.forgive(&guesses);
    }
    joined.map_err(problem)
}
