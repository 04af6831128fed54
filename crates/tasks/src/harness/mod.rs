//! The three tests that every task must pass, for the authors of tasks.
//!
//! Write a [`Scenario`] for the task and call [`fails_at_each_step`], [`repeats_each_step`] and
//! [`survives_a_crash_at_each_commit`], each in a test of its own. Every trial gets a fresh store
//! and a fresh world; what matters about both is compared as text.
//!
//! - *Fail*: each step fails, once without having done anything and once after it has done all. It
//!   was that step that failed, all is undone and nothing is locked.
//! - *Repeat*: each step and each undo is run twice, as after a crash. The end is the same.
//! - *Crash*: the process dies right before and right after each commit, on the way forward and on
//!   the way back, and is started again. The end is the same.

mod crash;
mod faults;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hostler_store::{SqliteStore, Store};
use hostler_types::{KindName, StepState, Task, TaskId, TaskState};
use tempfile::TempDir;

use crate::definition::{Definition, Registry};
use crate::engine::{Engine, EngineConfig};
use crate::submit::Submit;
use crash::{CrashingStore, Moment};
use faults::Fault;

/// The longest that one run of the task may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// More commits than any task makes.
const MANY: u64 = 500;

/// One task in a world of its own.
#[async_trait]
pub trait Scenario: Send + Sync {
    type World: Send + Sync + 'static;

    /// A fresh world over `store`, which is empty, and the order for the task. What the task needs
    /// is written here.
    async fn set_up(&self, store: Arc<dyn Store>) -> Stage<Self::World>;

    /// The world as the next process finds it. Override it if the world holds the store or
    /// anything else that dies with the process.
    async fn restart(&self, old: Arc<Self::World>, _store: Arc<dyn Store>) -> Arc<Self::World> {
        old
    }

    /// All that matters about the world and the store's objects (without tasks), in a form that
    /// has nothing in it that differs from run to run, such as generated ids and times.
    async fn describe(&self, world: &Self::World, store: &dyn Store) -> String;
}

/// What a trial begins with.
#[derive(Debug)]
pub struct Stage<C> {
    pub world: Arc<C>,
    pub registry: Registry<C>,
    pub submit: Submit,
}

/// The objects in the store but tasks, one a line: kind, name, spec and status. A help for
/// [`Scenario::describe`].
///
/// # Panics
/// When the store cannot be read.
pub async fn describe_objects(store: &dyn Store) -> String {
    let snapshot = store.load_all().await.expect("the store can be read");
    let objects = snapshot.records.iter().filter(|record| record.kind != KindName::Task);
    let line = |record: &hostler_store::Record| {
        let (spec, status) = (record.spec.as_str(), record.status.as_str());
        format!("{}/{} {spec} {status}\n", record.kind, record.name)
    };
    objects.map(line).collect()
}

/// # Panics
/// When the task does not behave as the module says.
pub async fn fails_at_each_step<S: Scenario>(scenario: &S) {
    let (steps, clean) = run_clean(scenario).await;
    for (index, step) in steps.iter().enumerate() {
        let once = step.forward_only;
        for fault in [Fault::FailBefore { once }, Fault::FailAfter { once }] {
            let trial = Trial::set_up(scenario).await;
            let context = format!("`{}` fails: {fault:?}", step.name);
            let registry = trial.registry_with(|definition| faults::put(definition, index, fault));
            let task = trial.run(registry).await;
            let end = trial.describe(scenario).await;
            if step.forward_only {
                assert_eq!(task.status.state, TaskState::Done, "{context}");
                assert_eq!(end, clean, "{context}: it goes on to the same end");
                continue;
            }
            assert_eq!(task.status.state, TaskState::Failed, "{context}");
            assert_eq!(task.status.error_code.as_deref(), Some(faults::CODE), "{context}");
            for (number, record) in task.status.steps.iter().enumerate() {
                let expected = if number <= index { StepState::Undone } else { StepState::Waiting };
                assert_eq!(record.state, expected, "{context}: the step `{}`", record.name);
            }
            assert_eq!(end, trial.initial, "{context}: all is undone");
        }
    }
}

/// # Panics
/// When the task does not behave as the module says.
pub async fn repeats_each_step<S: Scenario>(scenario: &S) {
    let (steps, clean) = run_clean(scenario).await;
    for (index, step) in steps.iter().enumerate() {
        let trial = Trial::set_up(scenario).await;
        let registry =
            trial.registry_with(|definition| faults::put(definition, index, Fault::Twice));
        let task = trial.run(registry).await;
        assert_eq!(task.status.state, TaskState::Done, "`{}` runs twice", step.name);
        let end = trial.describe(scenario).await;
        assert_eq!(end, clean, "`{}` runs twice: the end is the same", step.name);
    }
    let Some(last) = last_that_can_fail(&steps) else { return };
    for (index, step) in steps.iter().enumerate().take(last + 1) {
        let trial = Trial::set_up(scenario).await;
        let registry = trial.registry_with(|definition| {
            faults::put(definition, last, Fault::FailAfter { once: false });
            faults::put(definition, index, Fault::UndoTwice);
        });
        let task = trial.run(registry).await;
        let context = format!("`{}` is undone twice", step.name);
        assert_eq!(task.status.state, TaskState::Failed, "{context}");
        assert_eq!(trial.describe(scenario).await, trial.initial, "{context}: all is undone");
    }
}

/// # Panics
/// When the task does not behave as the module says.
pub async fn survives_a_crash_at_each_commit<S: Scenario>(scenario: &S) {
    let (steps, clean) = run_clean(scenario).await;
    for moment in [Moment::Before, Moment::After] {
        let forward = crash_at_each_commit(scenario, moment, None, Some(&clean)).await;
        assert!(forward > u64::try_from(steps.len()).unwrap_or(0), "only {forward} commits");
        if let Some(last) = last_that_can_fail(&steps) {
            crash_at_each_commit(scenario, moment, Some(last), None).await;
        }
    }
}

/// Crashes at the first commit, at the second, and so on until the task ends before the crash.
/// With `fails_at`, that step fails and all must be as it was. Returns how many commits there are.
async fn crash_at_each_commit<S: Scenario>(
    scenario: &S,
    moment: Moment,
    fails_at: Option<usize>,
    clean: Option<&str>,
) -> u64 {
    for number in 1..MANY {
        let context = format!("crash {moment:?} commit {number}, failing step {fails_at:?}");
        let mut trial = Trial::set_up(scenario).await;
        let registry = trial.registry_with(|definition| {
            if let Some(index) = fails_at {
                faults::put(definition, index, Fault::FailAfter { once: false });
            }
        });
        trial.store.arm(number, moment);
        let Err(Crashed) = trial.try_run(registry.clone()).await else { return number - 1 };
        trial.store = Arc::new(trial.store.survivor());
        let store: Arc<dyn Store> = trial.store.clone();
        trial.world = scenario.restart(Arc::clone(&trial.world), store).await;
        let ended = trial.recover(registry).await;
        let end = trial.describe(scenario).await;
        match ended {
            None => {
                let first = number == 1 && moment == Moment::Before;
                assert!(first, "{context}: the task is not stored");
                assert_eq!(end, trial.initial, "{context}: nothing was begun");
            }
            Some(task) => {
                let state = if clean.is_some() { TaskState::Done } else { TaskState::Failed };
                assert_eq!(task.status.state, state, "{context}: {:?}", task.status.error);
                assert_eq!(end, clean.unwrap_or(&trial.initial), "{context}");
            }
        }
    }
    panic!("the task makes {MANY} commits and more");
}

struct StepFacts {
    name: &'static str,
    /// At or past the point of no return.
    forward_only: bool,
}

fn last_that_can_fail(steps: &[StepFacts]) -> Option<usize> {
    steps.iter().rposition(|step| !step.forward_only)
}

/// The task without faults: its steps, and the end that the others are compared with.
async fn run_clean<S: Scenario>(scenario: &S) -> (Vec<StepFacts>, String) {
    let trial = Trial::set_up(scenario).await;
    let mut forward_only = false;
    let steps = trial.definition().steps.iter().map(|step| {
        forward_only |= step.no_return;
        StepFacts { name: step.name, forward_only }
    });
    let steps = steps.collect();
    let task = trial.run(trial.registry.clone()).await;
    let error = &task.status.error;
    assert_eq!(task.status.state, TaskState::Done, "without any fault: {error:?}");
    (steps, trial.describe(scenario).await)
}

struct Crashed;

/// One run in a fresh world.
struct Trial<C> {
    store: Arc<CrashingStore>,
    world: Arc<C>,
    registry: Registry<C>,
    submit: Submit,
    /// How all was before the task.
    initial: String,
    /// Last, so that it goes away last.
    _directory: TempDir,
}

impl<C: Send + Sync + 'static> Trial<C> {
    async fn set_up<S: Scenario<World = C>>(scenario: &S) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let store = SqliteStore::open(directory.path().join("trial.db"));
        let store = Arc::new(CrashingStore::new(Arc::new(store.expect("a fresh store opens"))));
        let stage = scenario.set_up(store.clone()).await;
        let initial = scenario.describe(&stage.world, &*store).await;
        let Stage { world, registry, submit } = stage;
        Self { store, world, registry, submit, initial, _directory: directory }
    }

    fn definition(&self) -> &Definition<C> {
        self.registry.get(&self.submit.action).expect("the scenario's action is registered")
    }

    fn registry_with(&self, change: impl FnOnce(&mut Definition<C>)) -> Registry<C> {
        let mut definition = self.definition().clone();
        change(&mut definition);
        self.registry.clone().replacing(definition)
    }

    fn engine(&self, registry: Registry<C>) -> Engine<C> {
        let config =
            EngineConfig { tries: 5, backoff: Duration::from_millis(1), ..EngineConfig::default() };
        Engine::new(self.store.clone(), Arc::clone(&self.world), registry, config)
    }

    async fn run(&self, registry: Registry<C>) -> Task {
        let Ok(task) = self.try_run(registry).await else { panic!("no crash was asked for") };
        self.check_locks().await;
        task
    }

    async fn try_run(&self, registry: Registry<C>) -> Result<Task, Crashed> {
        let engine = self.engine(registry);
        let work = async {
            let task = engine.submit(self.submit.clone()).await.expect("the task is taken");
            engine.wait(task.id()).await.expect("the task ends")
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(PATIENCE, work) => Ok(ended.expect("the task ends in time")),
            () = self.store.crashed() => Err(Crashed),
        };
        engine.kill().await;
        ended
    }

    /// The task after a restart; `None` if it had not been stored.
    async fn recover(&self, registry: Registry<C>) -> Option<Task> {
        let engine = self.engine(registry);
        engine.recover().await.expect("the store can be read");
        let id: TaskId = self.submit.id;
        let stored = self.store.get(KindName::Task, id.untyped()).await.expect("it can be read");
        stored.as_ref()?;
        let ended = tokio::time::timeout(PATIENCE, engine.wait(id)).await;
        let task = ended.expect("the recovered task ends in time").expect("it ends");
        engine.kill().await;
        self.check_locks().await;
        Some(task)
    }

    async fn check_locks(&self) {
        let locks = self.store.locks().await.expect("the store can be read");
        assert_eq!(locks, [], "an ended task holds no locks");
    }

    async fn describe<S: Scenario<World = C>>(&self, scenario: &S) -> String {
        scenario.describe(&self.world, &*self.store).await
    }
}
