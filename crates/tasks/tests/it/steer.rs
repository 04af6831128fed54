//! Cancelling, deadlines, locks, stuck tasks and what operators do about them.

use std::time::Duration;

use hostler_tasks::{Outcome, Step, StepContext, StepError, TaskError};
use hostler_types::{StepState, TaskState};
use jiff::Timestamp;

use super::toy::{Bench, Toy, failing, noting, object, registry, stubborn, submit, waiting};

#[tokio::test]
async fn a_task_is_cancelled_in_the_middle() {
    let bench = Bench::new(registry([noting("a"), waiting("b"), noting("c")]));
    let task = bench.engine.submit(submit().object(object())).await.unwrap();
    bench.toy.until("b waits").await;
    bench.engine.cancel(task.id(), "grace").await.unwrap();
    let end = bench.end(&task).await;
    assert_eq!(end.status.state, TaskState::Cancelled);
    assert!(end.status.cancel_requested);
    assert_eq!(end.status.error_code.as_deref(), Some(StepError::CANCELLED));
    assert_eq!(bench.toy.done(), ["a", "b waits", "undo b", "undo a"]);
    assert_eq!(end.status.steps[2].state, StepState::Waiting);
    bench.no_locks().await;
    let log = bench.store.changes_after(hostler_types::Revision(0), 100).await.unwrap();
    let asked = log.iter().find(|change| change.reason == "toy.run: cancel requested").unwrap();
    assert_eq!(asked.actor, "grace");

    let again = bench.engine.cancel(task.id(), "grace").await.unwrap_err();
    assert!(matches!(again, TaskError::Finished { state: TaskState::Cancelled, .. }), "{again:?}");
}

/// A step that does not look at the token ends; the next one does not begin.
#[tokio::test]
async fn a_cancellation_is_observed_between_steps() {
    let deaf = Step::new("deaf", |step: StepContext<Toy>| async move {
        step.world().note("deaf waits");
        step.world().gate.acquire().await.unwrap().forget();
        Ok(Outcome::none())
    });
    let bench = Bench::new(registry([deaf, noting("b")]));
    let task = bench.engine.submit(submit()).await.unwrap();
    bench.toy.until("deaf waits").await;
    bench.engine.cancel(task.id(), "ada").await.unwrap();
    bench.toy.gate.add_permits(1);
    assert_eq!(bench.end(&task).await.status.state, TaskState::Cancelled);
    assert!(!bench.toy.done().contains(&"b".to_owned()));
}

#[tokio::test]
async fn a_cancellation_outlives_a_crash() {
    let deaf = || {
        let step = Step::new("deaf", |step: StepContext<Toy>| async move {
            step.world().note("deaf waits");
            std::future::pending().await
        });
        registry([step, noting("b")])
    };
    let mut bench = Bench::new(deaf());
    let task = bench.engine.submit(submit()).await.unwrap();
    bench.toy.until("deaf waits").await;
    bench.engine.cancel(task.id(), "ada").await.unwrap();
    bench.restart(deaf()).await;
    assert_eq!(bench.end(&task).await.status.state, TaskState::Cancelled);
    assert_eq!(bench.toy.done(), ["deaf waits"], "it is not run again");
}

#[tokio::test]
async fn a_cancellation_ends_the_wait_for_another_try() {
    let never = Step::new("never", |step: StepContext<Toy>| async move {
        step.world().note("tried");
        Err(StepError::retry(Duration::from_secs(3600), "no agent"))
    });
    let bench = Bench::new(registry([never]));
    let task = bench.engine.submit(submit()).await.unwrap();
    bench.toy.until("tried").await;
    bench.engine.cancel(task.id(), "ada").await.unwrap();
    assert_eq!(bench.end(&task).await.status.state, TaskState::Cancelled);
}

#[tokio::test]
async fn past_the_point_of_no_return_a_task_only_goes_forward() {
    let bench = Bench::new(registry([noting("a"), waiting("b").no_return(), stubborn_run("c")]));
    let soon = Timestamp::now() + Duration::from_millis(600);
    let task = bench.engine.submit(submit().deadline(soon)).await.unwrap();
    bench.toy.until("b waits").await;
    let refused = bench.engine.cancel(task.id(), "ada").await.unwrap_err();
    assert!(matches!(refused, TaskError::PastNoReturn { .. }));
    tokio::time::sleep(Duration::from_millis(650)).await;
    *bench.toy.undo_failures.lock().unwrap() = 4;
    bench.toy.gate.add_permits(1);
    let stuck = bench.end(&task).await;
    assert_eq!(stuck.status.state, TaskState::Stuck);
    assert_eq!(stuck.status.steps[2].state, StepState::Doing);
    assert_eq!(
        stuck.status.stuck.as_deref(),
        Some("`c` has failed 3 times: the agent does not answer")
    );
    let retried = bench.engine.retry(task.id(), "ada").await.unwrap();
    assert_eq!(retried.status.state, TaskState::Running);
    let end = bench.end(&task).await;
    assert_eq!(end.status.state, TaskState::Done, "{:?}", end.status);
    assert_eq!(end.status.stuck, None);
}

/// Fails as often as the world says.
fn stubborn_run(name: &'static str) -> Step<Toy> {
    Step::new(name, |step: StepContext<Toy>| async move {
        let mut failures = step.world().undo_failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(StepError::failed("agent_gone", "the agent does not answer"));
        }
        Ok(Outcome::none())
    })
}

#[tokio::test]
async fn a_deadline_fails_the_task() {
    for steps in [registry([noting("a"), waiting("b")]), registry([noting("a"), retrying()])] {
        let bench = Bench::new(steps);
        let soon = Timestamp::now() + Duration::from_millis(100);
        let end = bench.run(submit().object(object()).deadline(soon)).await;
        assert_eq!(end.status.state, TaskState::Failed);
        assert_eq!(end.status.error_code.as_deref(), Some(StepError::DEADLINE));
        assert_eq!(bench.toy.done().last().unwrap(), "undo a");
        bench.no_locks().await;
    }
}

fn retrying() -> Step<Toy> {
    Step::new("retrying", |_| async {
        Err(StepError::retry(Duration::from_secs(3600), "the agent does not answer"))
    })
}

#[tokio::test]
async fn a_locked_object_is_refused_with_the_name_of_its_holder() {
    let bench = Bench::new(registry([waiting("a")]));
    let object = object();
    let first = bench.engine.submit(submit().object(object)).await.unwrap();
    let refused = bench.engine.submit(submit().object(object)).await.unwrap_err();
    let TaskError::Locked { object: which, by, action } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!((*which, *by, action.as_str()), (object, first.id(), "toy.run"));
    bench.toy.gate.add_permits(2);
    bench.end(&first).await;
    assert_eq!(bench.run(submit().object(object)).await.status.state, TaskState::Done);
}

#[tokio::test]
async fn an_undo_that_fails_a_few_times_is_tried_again() {
    let bench = Bench::new(registry([stubborn("a"), failing("b")]));
    *bench.toy.undo_failures.lock().unwrap() = 2;
    let end = bench.run(submit()).await;
    assert_eq!(end.status.state, TaskState::Failed);
    assert_eq!(end.status.messages.len(), 2);
    assert_eq!(end.status.messages[0].text, "undoing `a` failed: the agent does not answer");
}

#[tokio::test]
async fn an_undo_that_keeps_failing_makes_the_task_stuck_until_an_operator_acts() {
    for retry in [true, false] {
        let steps = || registry([noting("first"), stubborn("a"), failing("b")]);
        let mut bench = Bench::new(steps());
        *bench.toy.undo_failures.lock().unwrap() = 3;
        let stuck = bench.run(submit().object(object())).await;
        let id = stuck.id();
        assert_eq!(stuck.status.state, TaskState::Stuck);
        assert_eq!(stuck.status.error.as_deref(), Some("the disk is full"));
        let reason = "undoing `a` has failed 3 times: the agent does not answer";
        assert_eq!(stuck.status.stuck.as_deref(), Some(reason));
        assert_eq!(bench.store.locks().await.unwrap().len(), 1, "it keeps its locks");
        let refused = bench.engine.cancel(id, "ada").await.unwrap_err();
        assert!(matches!(refused, TaskError::Stuck { .. }));
        assert_eq!(bench.restart(steps()).await, 0, "it stays stuck over a restart");

        let end = if retry {
            bench.engine.retry(id, "ada").await.unwrap();
            bench.end(&stuck).await
        } else {
            bench.engine.abandon(id, "ada").await.unwrap()
        };
        assert_eq!(end.status.state, TaskState::Failed);
        assert_eq!(end.status.stuck, None);
        let undone = bench.toy.done().contains(&"undo first".to_owned());
        assert_eq!(undone, retry);
        let error = end.status.error.unwrap();
        let left = "the disk is full (abandoned; not undone: `first`, `a`)";
        assert_eq!(error, if retry { "the disk is full" } else { left });
        bench.no_locks().await;
        let refused = bench.engine.retry(id, "ada").await.unwrap_err();
        assert!(matches!(refused, TaskError::NotStuck { .. }));
    }
}
