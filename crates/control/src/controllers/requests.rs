//! Requests go on by themselves: those that are approved (or need nobody any more, because a rule
//! was changed) are provisioned, those that nobody has approved in time expire, and those whose task
//! was given up have failed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_store::{Batch, StoreError};
use hostler_tasks::{Engine, TaskError};
use hostler_types::{Request, RequestEvent, RequestId, RequestState, Task, TaskKind};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::inventory::Snapshot;
use crate::services::request::decided;
use crate::tasks::request_provision;
use crate::world::Core;

/// No sleep is longer: the machine's clock may have been set.
const LONGEST: Duration = Duration::from_secs(3600);
/// The wait before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(30);

pub(super) async fn run(core: Arc<Core>, engine: Engine<Core>) {
    let mut revisions = core.inventory.revisions();
    let mut refused: HashMap<RequestId, Instant> = HashMap::new();
    loop {
        revisions.borrow_and_update();
        let snapshot = core.snapshot();
        refused.retain(|_, at| at.elapsed() < AGAIN);
        for request in snapshot.open_requests() {
            let id = request.id();
            if !refused.contains_key(&id) && !go_on(&core, &engine, &snapshot, request).await {
                refused.insert(id, Instant::now());
            }
        }
        let again = if refused.is_empty() { LONGEST } else { AGAIN };
        tokio::select! {
            () = tokio::time::sleep(until(&snapshot).min(again)) => {}
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

/// How long it is until the first of those that wait expires.
fn until(snapshot: &Snapshot) -> Duration {
    let waiting = snapshot.open_requests().filter_map(|request| match request.status.state {
        RequestState::Pending { until } => Some(until),
        _ => None,
    });
    let now = Timestamp::now();
    let next = waiting.min().map(|at| Duration::try_from(at.duration_since(now)));
    // Not a moment too early: a timer may be.
    next.map_or(LONGEST, |left| left.unwrap_or_default() + Duration::from_millis(1))
}

/// Whether all that is to be done now is done.
async fn go_on(core: &Core, engine: &Engine<Core>, snapshot: &Snapshot, request: &Request) -> bool {
    match &request.status.state {
        RequestState::Approved => provision(engine, request).await,
        RequestState::Pending { until } if *until <= Timestamp::now() => {
            note(core, request, RequestEvent::Expire, "nobody has approved it in time").await
        }
        RequestState::Pending { .. } => {
            // A rule was changed or deleted since the last approval.
            let decision = decided(core, snapshot, request);
            if !decision.approved {
                return true;
            }
            let mut request = request.clone();
            request.status.decision = decision;
            note(core, &request, RequestEvent::Approve, "the rules ask for nobody else").await
        }
        RequestState::Provisioning { task } => {
            let task = match snapshot.get::<TaskKind>(*task) {
                Some(task) => Some(Task::clone(task)),
                // The store knows better than any snapshot whether it is gone.
                None => match core.stored::<TaskKind>(*task).await {
                    Ok(stored) => stored,
                    Err(error) => {
                        tracing::warn!(request = %request.name(), %error, "its task is not known");
                        return false;
                    }
                },
            };
            if task.as_ref().is_some_and(|task| !task.status.state.is_terminal()) {
                return true;
            }
            // Its last undo would have said so: an operator has given it up.
            let why = task.and_then(|task| task.status.error);
            let reason = why.unwrap_or_else(|| "its task is gone".to_owned());
            let event = RequestEvent::Fail { step: "undo".to_owned(), reason };
            note(core, request, event, "its task was given up").await
        }
        RequestState::Delivered { .. }
        | RequestState::Rejected { .. }
        | RequestState::Failed { .. }
        | RequestState::Cancelled { .. }
        | RequestState::Expired => true,
    }
}

async fn provision(engine: &Engine<Core>, request: &Request) -> bool {
    let Ok(submit) = request_provision::submit(request, "system") else { return true };
    match engine.submit(submit).await {
        Ok(task) => {
            tracing::info!(request = %request.name(), task = %task.name(), "it is provisioned");
            true
        }
        // What has come between is seen at once: the revision has changed.
        Err(TaskError::Store(StoreError::Stale { .. })) => true,
        Err(error) => {
            tracing::warn!(request = %request.name(), %error, "it cannot be provisioned now");
            false
        }
    }
}

async fn note(core: &Core, request: &Request, event: RequestEvent, reason: &str) -> bool {
    let Ok(write) = request_provision::after(request.clone(), event) else { return true };
    let batch = Batch::new("system", format!("request: {reason}"), Timestamp::now());
    match core.commit(batch.with(write)).await {
        Ok(_) | Err(StoreError::Stale { .. }) => true,
        Err(error) => {
            tracing::warn!(request = %request.name(), %error, "its state cannot be noted now");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_store::{SqliteStore, Store, Write};
    use hostler_tasks::EngineConfig;
    use hostler_types::{Host, Labels, RequestKind};
    use serde_json::json;

    use super::*;
    use crate::agents::{AgentError, AgentLink, Connector};
    use crate::testing;

    #[derive(Debug)]
    struct NoAgents;

    impl Connector for NoAgents {
        fn connect(&self, host: &Host) -> Result<Arc<dyn AgentLink>, AgentError> {
            panic!("nothing is asked of {}", host.name())
        }
    }

    fn provisioning() -> (Request, hostler_tasks::Submit) {
        let order = json!({"vm": {"name": "web01", "image": "tiny"}});
        let spec = json!({
            "order": order, "requester": {"name": "anna"}, "owner": "anna",
            "images": [], "cpus": 1, "memory": "1GiB", "disk": "2GiB",
        });
        let status = json!({"state": "approved", "since": "2026-01-01T00:00:00Z"});
        let (spec, status) = (serde_json::from_value(spec), serde_json::from_value(status));
        let name = "web01-1".parse().unwrap();
        let mut request = Request::new(
            name,
            Labels::new(),
            Timestamp::UNIX_EPOCH,
            spec.unwrap(),
            status.unwrap(),
        );
        let submit = request_provision::submit(&request, "tester").unwrap();
        request.status.state = RequestState::Provisioning { task: submit.id };
        (request, submit)
    }

    fn running(submit: &hostler_tasks::Submit) -> Task {
        let spec = json!({
            "action": submit.action, "target": submit.target, "objects": submit.objects,
            "actor": submit.actor, "input": submit.input,
        });
        let status = json!({"state": "running", "steps": []});
        let (spec, status) = (serde_json::from_value(spec), serde_json::from_value(status));
        let (name, now) = ("request-provision-1".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let mut task = Task::new(name, Labels::new(), now, spec.unwrap(), status.unwrap());
        task.metadata.id = submit.id;
        task
    }

    /// The state of the request after the controller has looked, with a snapshot without tasks.
    async fn looked_at(stored: bool) -> RequestState {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hostler.db");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(path).unwrap());
        let core = testing::core(store.clone(), Arc::new(NoAgents)).await.unwrap();
        let (request, submit) = provisioning();
        let mut batch =
            Batch::new("tester", "test", Timestamp::now()).with(Write::create(&request));
        if stored {
            batch = batch.with(Write::create(&running(&submit)));
        }
        let request = core.commit(batch).await.unwrap();
        let request = request.all::<RequestKind>().iter().next().unwrap().clone();
        let config = EngineConfig::default();
        let engine = Engine::new(store, core.clone(), crate::tasks::registry(), config);
        assert!(go_on(&core, &engine, &Snapshot::default(), &request).await);
        let now = core.stored::<RequestKind>(request.id()).await.unwrap().unwrap();
        now.status.state
    }

    #[tokio::test]
    async fn a_task_that_the_snapshot_lacks_is_looked_for_in_the_store() {
        let state = looked_at(true).await;
        assert!(matches!(state, RequestState::Provisioning { .. }), "{state:?}");
        let state = looked_at(false).await;
        let RequestState::Failed { step, reason } = state else { panic!("{state:?}") };
        assert_eq!((step.as_str(), reason.as_str()), ("undo", "its task is gone"));
    }
}
