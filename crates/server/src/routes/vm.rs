//! Virtual machines.

use hostler_api::vm::{
    ChangePlan, Clone, Create, Delete, Exec, Flatten, List, Log, Migrate, MigrateRequest, Plan,
    PlanDeletion, Rename, Renew, Reset, Resume, Screenshot, Seal, Show, Start, Stats, Stop,
    Suspend, Unregister, Update, VmCloned, VmCreated, VmMigration, Why,
};
use hostler_control::services::vm::{self, Renewal, VmDelete, VmFilter, VmStop};
use hostler_control::services::{Changed, Options, placement, stats};
use hostler_endpoint::{ByteStream, Call, Page, Problem, Routes};
use hostler_types::{DeletionPlan, ExecAnswer, PlacementWhy, Revision, Task, Vm, VmStats};

use crate::app::{App, actor, keyed, page, paged, shown, task_of};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Clone, _>(clone)
        .serve::<Flatten, _>(flatten)
        .serve::<Migrate, _>(migrate)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Renew, _>(renew)
        .serve::<PlanDeletion, _>(plan_deletion)
        .serve::<Plan, _>(plan)
        .serve::<Delete, _>(delete)
        .serve::<Start, _>(start)
        .serve::<Stop, _>(stop)
        .serve::<Reset, _>(reset)
        .serve::<Suspend, _>(suspend)
        .serve::<Seal, _>(seal)
        .serve::<Resume, _>(resume)
        .serve::<Rename, _>(rename)
        .serve::<Unregister, _>(unregister)
        .serve::<Exec, _>(exec)
        .serve::<Log, _>(log)
        .serve::<Screenshot, _>(screenshot)
        .serve::<Stats, _>(vm_stats)
        .serve::<Why, _>(why)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Vm>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let filter = VmFilter {
        power: query.power,
        host: query.host,
        datastore: query.datastore,
        ..VmFilter::default()
    };
    let actor = actor(&call.extensions)?;
    vm::list(&app.world, actor, &filter, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<VmCreated, Problem> {
    let options = Options { dry_run: call.query.dry_run, idempotency_key: call.idempotency_key };
    let actor = actor(&call.extensions)?;
    let Changed { object, task, explanation, explained } =
        vm::create(&app.world, actor, call.body, &options).await.map_err(problem)?;
    let task = task.map(shown);
    Ok(VmCreated { vm: shown(object), task, placement: explanation, explained })
}

async fn clone(app: App, call: Call<Clone>) -> Result<VmCloned, Problem> {
    let options = Options { dry_run: call.query.dry_run, idempotency_key: call.idempotency_key };
    let actor = actor(&call.extensions)?;
    let parent = vm::CloneOf::Vm(&call.path.vm);
    let made = vm::clone(&app.world, actor, parent, call.body, &options).await;
    made.map(cloned).map_err(problem)
}

/// What came of a request for clones, of a VM or of a template.
pub(super) fn cloned(cloned: vm::Cloned) -> VmCloned {
    let vms = cloned.vms.into_iter().map(shown).collect();
    let (task, placement) = (cloned.task.map(shown), cloned.explanation);
    VmCloned { vms, task, placement, explained: cloned.explained }
}

async fn flatten(app: App, call: Call<Flatten>) -> Result<Task, Problem> {
    let request = vm::VmFlatten { disks: call.body.disks, max_rate: call.body.max_rate };
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let task = vm::flatten(&app.world, actor, &call.path.vm, &request, &options).await;
    task.map(shown).map_err(problem)
}

async fn migrate(app: App, call: Call<Migrate>) -> Result<VmMigration, Problem> {
    let MigrateRequest { host, datastore, downtime_ms, max_bandwidth, policy } = call.body;
    let request = vm::VmMigrate { host, datastore, downtime_ms, max_bandwidth, policy };
    let options = Options { dry_run: call.query.dry_run, idempotency_key: call.idempotency_key };
    let actor = actor(&call.extensions)?;
    let moved = vm::migrate(&app.world, actor, &call.path.vm, &request, &options).await;
    let vm::Migration { host, datastore, task, explanation } = moved.map_err(problem)?;
    Ok(VmMigration { host, datastore, task: task.map(shown), explanation })
}

async fn show(app: App, call: Call<Show>) -> Result<Vm, Problem> {
    let actor = actor(&call.extensions)?;
    vm::show(&app.world, actor, &call.path.vm).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<Task, Problem> {
    let (expected, options) = (call.if_match.map(Revision), keyed(call.idempotency_key));
    let actor = actor(&call.extensions)?;
    let changed = vm::update(&app.world, actor, &call.path.vm, call.body, expected, &options);
    task_of(changed.await.map_err(problem)?)
}

async fn plan(app: App, call: Call<Plan>) -> Result<ChangePlan, Problem> {
    let actor = actor(&call.extensions)?;
    let changes = vm::plan(&app.world, actor, &call.path.vm, &call.body).map_err(problem)?;
    Ok(ChangePlan { changes })
}

async fn rename(app: App, call: Call<Rename>) -> Result<Task, Problem> {
    let (expected, options) = (call.if_match.map(Revision), keyed(call.idempotency_key));
    let actor = actor(&call.extensions)?;
    let name = call.body.name;
    let changed = vm::rename(&app.world, actor, &call.path.vm, name, expected, &options);
    task_of(changed.await.map_err(problem)?)
}

async fn renew(app: App, call: Call<Renew>) -> Result<Vm, Problem> {
    let renewal = match (call.body.never, call.body.seconds) {
        (true, None) => Renewal::Never,
        (false, Some(seconds)) => Renewal::For(seconds),
        (false, None) => Renewal::Again,
        (true, Some(_)) => {
            let detail = "`never` and `seconds` exclude each other";
            return Err(hostler_api::code::INVALID.problem(detail));
        }
    };
    let actor = actor(&call.extensions)?;
    vm::renew(&app.world, actor, &call.path.vm, renewal).await.map(shown).map_err(problem)
}

async fn plan_deletion(app: App, call: Call<PlanDeletion>) -> Result<DeletionPlan, Problem> {
    let actor = actor(&call.extensions)?;
    vm::deletion_plan(&app.world, actor, &call.path.vm).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let query = call.query;
    let stop = query.stop.then_some(query.timeout_seconds.unwrap_or(120));
    let request = VmDelete { force: query.force, stop, now: query.now };
    let task = vm::delete(&app.world, actor, &call.path.vm, request, &options).await;
    task.map(shown).map_err(problem)
}

async fn start(app: App, call: Call<Start>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::start(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}

async fn stop(app: App, call: Call<Stop>) -> Result<Task, Problem> {
    let stop = VmStop { mode: call.body.mode, timeout_seconds: call.body.timeout_seconds };
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::stop(&app.world, actor, &call.path.vm, stop, &options).await.map(shown).map_err(problem)
}

async fn reset(app: App, call: Call<Reset>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::reset(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}

async fn suspend(app: App, call: Call<Suspend>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::suspend(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}

async fn seal(app: App, call: Call<Seal>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::seal(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}

async fn resume(app: App, call: Call<Resume>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::resume(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}

async fn unregister(app: App, call: Call<Unregister>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    vm::unregister(&app.world, actor, &call.path.vm, &options).await.map(shown).map_err(problem)
}

async fn exec(app: App, call: Call<Exec>) -> Result<ExecAnswer, Problem> {
    let actor = actor(&call.extensions)?;
    vm::exec(&app.world, actor, &call.path.vm, call.body).await.map_err(problem)
}

async fn log(app: App, call: Call<Log>) -> Result<ByteStream, Problem> {
    let actor = actor(&call.extensions)?;
    let log = vm::log(&app.world, actor, &call.path.vm, call.query.follow).await;
    Ok(app.until_closing(log.map_err(problem)?))
}

async fn screenshot(app: App, call: Call<Screenshot>) -> Result<ByteStream, Problem> {
    let actor = actor(&call.extensions)?;
    vm::screenshot(&app.world, actor, &call.path.vm).await.map_err(problem)
}

async fn vm_stats(app: App, call: Call<Stats>) -> Result<VmStats, Problem> {
    let actor = actor(&call.extensions)?;
    stats::vm(&app.world, actor, &call.path.vm).map_err(problem)
}

async fn why(app: App, call: Call<Why>) -> Result<PlacementWhy, Problem> {
    let actor = actor(&call.extensions)?;
    placement::why(&app.world, actor, &call.path.vm).await.map_err(problem)
}
