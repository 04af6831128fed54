//! A world of files in a directory, and steps made of closures.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hostler_store::{SqliteStore, Store};
use hostler_tasks::{
    Definition, Engine, EngineConfig, Outcome, Registry, Step, StepContext, StepError, Submit,
};
use hostler_types::{ObjectId, Task};
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// Remembers what was done, in order, and lets steps wait for the test.
#[derive(Debug)]
pub(crate) struct Toy {
    pub(crate) done: Mutex<Vec<String>>,
    /// Steps that wait take a permit each.
    pub(crate) gate: Semaphore,
    /// How often an undo still has to fail.
    pub(crate) undo_failures: Mutex<u32>,
}

impl Toy {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.done.lock().unwrap().push(text.into());
    }

    pub(crate) fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    pub(crate) async fn until(&self, text: &str) {
        let waiting = async {
            while !self.done().iter().any(|done| done == text) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    }
}

pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) toy: Arc<Toy>,
    pub(crate) engine: Engine<Toy>,
    _directory: TempDir,
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig { tries: 3, backoff: Duration::from_millis(5), ..EngineConfig::default() }
}

impl Bench {
    pub(crate) fn new(registry: Registry<Toy>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("toy.db");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(Path::new(&path)).unwrap());
        let toy = Arc::new(Toy {
            done: Mutex::default(),
            gate: Semaphore::new(0),
            undo_failures: Mutex::new(0),
        });
        let engine = Engine::new(store.clone(), toy.clone(), registry, config());
        Self { store, toy, engine, _directory: directory }
    }

    /// As after a restart of the process.
    pub(crate) async fn restart(&mut self, registry: Registry<Toy>) -> usize {
        self.engine.kill().await;
        self.engine = Engine::new(self.store.clone(), self.toy.clone(), registry, config());
        self.engine.recover().await.unwrap()
    }

    pub(crate) async fn run(&self, submit: Submit) -> Task {
        let task = self.engine.submit(submit).await.unwrap();
        self.end(&task).await
    }

    pub(crate) async fn end(&self, task: &Task) -> Task {
        let end = self.engine.wait(task.id());
        tokio::time::timeout(Duration::from_secs(20), end).await.unwrap().unwrap()
    }

    pub(crate) async fn no_locks(&self) {
        assert_eq!(self.store.locks().await.unwrap(), []);
    }
}

/// Notes `name`, and `undo name` when undone; its result is its name.
pub(crate) fn noting(name: &'static str) -> Step<Toy> {
    Step::new(name, move |step: StepContext<Toy>| async move {
        step.world().note(name);
        Ok(Outcome::of(name))
    })
    .undo(move |step| async move {
        step.world().note(format!("undo {name}"));
        Ok(Outcome::none())
    })
}

/// Notes that it waits, then waits for a permit or to be cancelled.
pub(crate) fn waiting(name: &'static str) -> Step<Toy> {
    Step::new(name, move |step: StepContext<Toy>| async move {
        step.world().note(format!("{name} waits"));
        tokio::select! {
            permit = step.world().gate.acquire() => {
                permit.unwrap().forget();
                step.world().note(name);
                Ok(Outcome::none())
            }
            () = step.cancelled().cancelled() => Err(StepError::cancelled()),
        }
    })
    .undo(move |step| async move {
        step.world().note(format!("undo {name}"));
        Ok(Outcome::none())
    })
}

pub(crate) fn failing(name: &'static str) -> Step<Toy> {
    Step::new(name, |_| async { Err(StepError::failed("no_space", "the disk is full")) })
}

/// Its undo fails as often as the world says.
pub(crate) fn stubborn(name: &'static str) -> Step<Toy> {
    noting(name).undo(move |step| async move {
        let left = {
            let mut failures = step.world().undo_failures.lock().unwrap();
            let left = *failures;
            *failures = left.saturating_sub(1);
            left
        };
        step.world().note(format!("undo {name}: {left} failures left"));
        if left > 0 {
            return Err(StepError::failed("agent_gone", "the agent does not answer"));
        }
        Ok(Outcome::none())
    })
}

pub(crate) fn registry(steps: impl IntoIterator<Item = Step<Toy>>) -> Registry<Toy> {
    Registry::new().with(definition("toy.run", steps))
}

pub(crate) fn definition(
    action: &'static str,
    steps: impl IntoIterator<Item = Step<Toy>>,
) -> Definition<Toy> {
    steps.into_iter().fold(Definition::new(action), Definition::step)
}

pub(crate) fn submit() -> Submit {
    Submit::new("toy.run", "toy/one", "ada", &())
}

pub(crate) fn object() -> ObjectId {
    ObjectId::generate()
}
