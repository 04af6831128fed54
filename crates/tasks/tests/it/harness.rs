//! The harness, on tasks that keep its rules and on tasks that break them.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use hostler_store::conformance::record;
use hostler_store::{Json, Record, Store, Write};
use hostler_tasks::harness::{
    Scenario, Stage, describe_objects, fails_at_each_step, repeats_each_step,
    survives_a_crash_at_each_commit,
};
use hostler_tasks::{
    Definition, Outcome, Registry, Step, StepContext, StepError, StepResult, Submit,
};
use hostler_types::{Id, KindName};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

/// A directory that stands for a datastore.
struct Files {
    directory: Arc<TempDir>,
    store: Arc<dyn Store>,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn vm() -> Record {
    let id = Id::from_uuid(Uuid::from_u128(7));
    Record { id, ..record(KindName::Vm, "web01", 1) }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn io(error: std::io::Error) -> StepError {
    StepError::failed("io", error.to_string())
}

fn remove(path: PathBuf) -> Result<(), StepError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(error)),
        _ => Ok(()),
    }
}

/// Disk, definition, record.
fn create() -> Definition<Files> {
    Definition::new("toy.create")
        .step(Step::new("make-disk", make_disk).undo(delete_disk))
        .step(Step::new("count", count))
        .step(Step::new("write-definition", write_definition).undo(delete_definition))
        .step(Step::new("publish", publish).undo(unpublish))
}

async fn make_disk(step: StepContext<Files>) -> StepResult {
    std::fs::write(step.world().path("disk"), "blocks").map_err(io)?;
    Ok(Outcome::of("disk"))
}

async fn delete_disk(step: StepContext<Files>) -> StepResult {
    remove(step.world().path("disk"))?;
    Ok(Outcome::none())
}

async fn count(step: StepContext<Files>) -> StepResult {
    let length = std::fs::metadata(step.world().path("disk")).map_err(io)?.len();
    Ok(Outcome::of(&length))
}

async fn write_definition(step: StepContext<Files>) -> StepResult {
    let length: u64 = step.result("count")?;
    std::fs::write(step.world().path("vm.json"), format!("{length}")).map_err(io)?;
    Ok(Outcome::none())
}

async fn delete_definition(step: StepContext<Files>) -> StepResult {
    remove(step.world().path("vm.json"))?;
    Ok(Outcome::none())
}

async fn publish(_step: StepContext<Files>) -> StepResult {
    let ready = Record { status: Json::from(json!({ "state": "stopped" })), ..vm() };
    Ok(Outcome::none().with(Write::UpdateAny(ready)))
}

/// The record was created with the submission, so it goes with the last undo that is run: the
/// first step's. This one has nothing to do.
async fn unpublish(_step: StepContext<Files>) -> StepResult {
    Ok(Outcome::none())
}

/// Deletes the record, whether it is there or not.
async fn forget(step: StepContext<Files>) -> StepResult {
    let vm = vm();
    let there = step.world().store.get(vm.kind, vm.id).await?.is_some();
    let delete = Write::Delete { kind: vm.kind, id: vm.id, expected: None };
    Ok(Outcome::none().with_all(there.then_some(delete)))
}

/// A definition whose first step is to forget the record when it is undone.
fn create_with_record() -> Definition<Files> {
    let mut create = create();
    create.steps.insert(0, Step::new("reserve", |_| async { Ok(Outcome::none()) }).undo(forget));
    create
}

/// Cannot be undone once the disk is being deleted.
fn delete() -> Definition<Files> {
    Definition::new("toy.delete")
        .step(Step::new("mark", mark).undo(unmark))
        .step(Step::new("delete-disk", delete_disk).no_return())
        .step(Step::new("forget", forget))
}

async fn mark(_step: StepContext<Files>) -> StepResult {
    let marked = Record { status: Json::from(json!({ "state": "deleting" })), ..vm() };
    Ok(Outcome::none().with(Write::UpdateAny(marked)))
}

async fn unmark(_step: StepContext<Files>) -> StepResult {
    Ok(Outcome::none().with(Write::UpdateAny(vm())))
}

/// `existing`: the VM is there already.
struct Toy {
    definition: fn() -> Definition<Files>,
    existing: bool,
}

#[async_trait]
impl Scenario for Toy {
    type World = Files;

    async fn set_up(&self, store: Arc<dyn Store>) -> Stage<Files> {
        let world = Files { directory: Arc::new(tempfile::tempdir().unwrap()), store };
        let definition = (self.definition)();
        let mut submit = Submit::new(definition.action, "vm/web01", "ada", &()).object(vm().id);
        if self.existing {
            std::fs::write(world.path("disk"), "blocks").unwrap();
            hostler_store::conformance::create(&*world.store, vm()).await;
        } else {
            submit = submit.with(Write::Create(vm()));
        }
        Stage { world: Arc::new(world), registry: Registry::new().with(definition), submit }
    }

    async fn restart(&self, old: Arc<Files>, store: Arc<dyn Store>) -> Arc<Files> {
        Arc::new(Files { directory: Arc::clone(&old.directory), store })
    }

    async fn describe(&self, world: &Files, store: &dyn Store) -> String {
        let mut text = describe_objects(store).await;
        let entries = std::fs::read_dir(world.directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let content = std::fs::read_to_string(world.directory.path().join(&name)).unwrap();
            writeln!(text, "{}: {content}", name.display()).unwrap();
        }
        text
    }
}

const CREATE: Toy = Toy { definition: create_with_record, existing: false };
const DELETE: Toy = Toy { definition: delete, existing: true };

#[tokio::test]
async fn create_fails_at_each_step() {
    fails_at_each_step(&CREATE).await;
}

#[tokio::test]
async fn create_repeats_each_step() {
    repeats_each_step(&CREATE).await;
}

#[tokio::test]
async fn create_survives_a_crash_at_each_commit() {
    survives_a_crash_at_each_commit(&CREATE).await;
}

#[tokio::test]
async fn delete_fails_at_each_step() {
    fails_at_each_step(&DELETE).await;
}

#[tokio::test]
async fn delete_repeats_each_step() {
    repeats_each_step(&DELETE).await;
}

#[tokio::test]
async fn delete_survives_a_crash_at_each_commit() {
    survives_a_crash_at_each_commit(&DELETE).await;
}

/// A step whose undo does nothing.
fn leaky() -> Definition<Files> {
    let mut leaky = create_with_record();
    leaky.steps[1] = Step::new("make-disk", make_disk).undo(unpublish);
    leaky
}

#[tokio::test]
#[should_panic(expected = "all is undone")]
async fn an_undo_that_forgets_something_is_found_by_failing() {
    fails_at_each_step(&Toy { definition: leaky, existing: false }).await;
}

#[tokio::test]
#[should_panic(expected = "failing step Some(4)")]
async fn an_undo_that_forgets_something_is_found_by_crashing() {
    survives_a_crash_at_each_commit(&Toy { definition: leaky, existing: false }).await;
}

/// A step that appends.
fn growing() -> Definition<Files> {
    let grow = |step: StepContext<Files>| async move {
        let path = step.world().path("disk");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, before + "x").map_err(io)?;
        Ok(Outcome::none())
    };
    Definition::new("toy.create")
        .step(Step::new("reserve", |_| async { Ok(Outcome::none()) }).undo(forget))
        .step(Step::new("grow", grow).undo(delete_disk))
}

#[tokio::test]
#[should_panic(expected = "`grow` runs twice: the end is the same")]
async fn a_step_that_is_not_idempotent_is_found_by_repeating() {
    repeats_each_step(&Toy { definition: growing, existing: false }).await;
}

#[tokio::test]
#[should_panic(expected = "crash Before commit 3")]
async fn a_step_that_is_not_idempotent_is_found_by_crashing() {
    survives_a_crash_at_each_commit(&Toy { definition: growing, existing: false }).await;
}
