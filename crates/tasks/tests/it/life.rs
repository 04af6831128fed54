//! A task's life: steps, results, failures, commits, recovery.

use std::time::{Duration, Instant};

use futures::FutureExt;
use hostler_store::conformance::{batch, create, record};
use hostler_store::{Json, Record, StoreError, Write};
use hostler_tasks::{Outcome, Registry, Step, StepContext, StepError, TaskError};
use hostler_types::{KindName, OperationId, Revision, StepState, TaskState};
use jiff::Timestamp;
use serde_json::json;

use super::toy::{Bench, Toy, definition, failing, noting, object, registry, submit, waiting};

#[tokio::test]
async fn a_task_of_n_steps_costs_n_plus_one_commits() {
    for steps in 1..5 {
        let names = ["a", "b", "c", "d"];
        let bench = Bench::new(registry(names.into_iter().take(steps).map(noting)));
        let task = bench.run(submit().object(object())).await;
        assert_eq!(task.status.state, TaskState::Done);
        assert_eq!(bench.toy.done(), names[..steps]);
        let revision = bench.store.revision().await.unwrap();
        assert_eq!(revision, Revision(u64::try_from(steps).unwrap() + 1));
        let stored = bench.store.get(KindName::Task, task.id().untyped()).await.unwrap().unwrap();
        let stored = stored.object::<hostler_types::TaskKind>().unwrap();
        assert_eq!(stored.status, task.status);
        assert_eq!(stored.metadata.revision, task.metadata.revision);
        bench.no_locks().await;
    }
}

#[tokio::test]
async fn a_step_sees_the_input_and_earlier_results() {
    let sum = Step::new("sum", |step: StepContext<Toy>| async move {
        let input: u64 = step.input()?;
        let first: u64 = step.result("first")?;
        step.world().note(format!("{}", input + first));
        Ok(Outcome::none())
    });
    let first = Step::new("first", |_| async { Ok(Outcome::of(&40)) });
    let bench = Bench::new(registry([first, sum]));
    bench.run(hostler_tasks::Submit::new("toy.run", "toy/one", "ada", &2_u64)).await;
    assert_eq!(bench.toy.done(), ["42"]);

    let wrong = bench.run(hostler_tasks::Submit::new("toy.run", "toy/one", "ada", "two")).await;
    assert_eq!(wrong.status.error_code.as_deref(), Some(StepError::INTERNAL));
}

#[tokio::test]
async fn a_failed_task_is_undone_from_the_failing_step_backwards() {
    let own_undo = failing("c").undo(|step| async move {
        step.world().note("undo c");
        Ok(Outcome::none())
    });
    let bench = Bench::new(registry([noting("a"), noting("b"), own_undo, noting("d")]));
    let task = bench.run(submit().object(object())).await;
    assert_eq!(task.status.state, TaskState::Failed);
    assert_eq!(task.status.error_code.as_deref(), Some("no_space"));
    assert_eq!(task.status.error.as_deref(), Some("the disk is full"));
    assert!(task.status.finished_at.is_some());
    assert_eq!(bench.toy.done(), ["a", "b", "undo c", "undo b", "undo a"]);
    assert_eq!(task.status.steps[3].state, StepState::Waiting);
    bench.no_locks().await;
}

#[tokio::test]
async fn a_panic_fails_the_step() {
    let panics = Step::new("panics", |_| async { panic!("at the disco") });
    let bench = Bench::new(registry([noting("a"), panics]));
    let task = bench.run(submit()).await;
    assert_eq!(task.status.state, TaskState::Failed);
    assert_eq!(task.status.error.as_deref(), Some("the step panicked: at the disco"));
    assert_eq!(task.status.error_code.as_deref(), Some(StepError::INTERNAL));
    assert_eq!(bench.toy.done(), ["a", "undo a"]);
}

#[tokio::test]
async fn a_step_that_asks_for_it_is_run_again() {
    let third_time = Step::new("third", |step: StepContext<Toy>| async move {
        step.world().note("try");
        if step.world().done().len() < 3 {
            return Err(StepError::retry(Duration::from_millis(5), "not yet"));
        }
        Ok(Outcome::none())
    });
    let bench = Bench::new(registry([third_time]));
    assert_eq!(bench.run(submit()).await.status.state, TaskState::Done);
    assert_eq!(bench.toy.done().len(), 3);
}

#[tokio::test]
async fn the_writes_of_a_step_are_committed_with_its_end() {
    let vm = record(KindName::Vm, "web01", 1);
    let later = Record { status: Json::from(json!({ "state": "ready" })), ..vm.clone() };
    let publish = Step::new("publish", move |_| {
        let later = later.clone();
        async move { Ok(Outcome::none().with(Write::UpdateAny(later))) }
    });
    let bench = Bench::new(registry([publish]));
    let task = bench.run(submit().with(Write::Create(vm.clone()))).await;
    let log = bench.store.changes_after(Revision(0), 10).await.unwrap();
    let entries: Vec<_> = log.iter().map(|change| (change.kind, change.reason.as_str())).collect();
    assert_eq!(
        entries,
        [
            (KindName::Vm, "toy.run: submitted"),
            (KindName::Task, "toy.run: submitted"),
            (KindName::Vm, "toy.run: `publish` done"),
            (KindName::Task, "toy.run: `publish` done"),
        ]
    );
    assert!(log.iter().all(|change| change.task == Some(task.id()) && change.actor == "ada"));
    assert_eq!(log[2].new.as_ref().unwrap().status.value(), json!({ "state": "ready" }));
}

/// A step whose world has changed under it runs again and sees the new one.
#[tokio::test]
async fn a_stale_write_runs_the_step_again() {
    let count = Step::new("count", |step: StepContext<Toy>| async move {
        step.world().note("count");
        let store = step.store();
        let vm = store.list(KindName::Vm, None, 1).await?.remove(0);
        let size = vm.spec.value()["size"].as_u64().unwrap();
        if step.world().done().len() == 1 {
            // Someone else is faster, once.
            let faster = Record { spec: Json::from(json!({ "size": size + 10 })), ..vm.clone() };
            store.commit(batch(1, [Write::UpdateAny(faster)])).await?;
        }
        let expected = vm.revision;
        let record = Record { spec: Json::from(json!({ "size": size + 1 })), ..vm };
        Ok(Outcome::none().with(Write::Update { record, expected }))
    });
    let bench = Bench::new(registry([count]));
    let vm = create(&*bench.store, record(KindName::Vm, "web01", 1)).await;
    let task = bench.run(submit()).await;
    assert_eq!(task.status.state, TaskState::Done, "{:?}", task.status.error);
    assert_eq!(bench.toy.done(), ["count", "count"]);
    let end = bench.store.get(KindName::Vm, vm.id).await.unwrap().unwrap();
    assert_eq!(end.spec.value(), json!({ "size": 12 }));
}

#[tokio::test]
async fn a_refused_write_fails_the_step() {
    let taken = Step::new("take", |_| async {
        Ok(Outcome::none().with(Write::Create(record(KindName::Vm, "web01", 1))))
    });
    let bench = Bench::new(registry([noting("a"), taken]));
    create(&*bench.store, record(KindName::Vm, "web01", 1)).await;
    let task = bench.run(submit()).await;
    assert_eq!(task.status.error_code.as_deref(), Some("name_taken"));
    assert_eq!(bench.toy.done(), ["a", "undo a"]);
}

#[tokio::test]
async fn a_refused_submission_leaves_nothing() {
    let bench = Bench::new(registry([noting("a")]));
    create(&*bench.store, record(KindName::Vm, "web01", 1)).await;
    let again = submit().object(object()).with(Write::Create(record(KindName::Vm, "web01", 2)));
    let id = again.id;
    let refused = bench.engine.submit(again).await.unwrap_err();
    assert!(matches!(refused, TaskError::Store(StoreError::NameTaken { .. })), "{refused:?}");
    assert!(matches!(bench.engine.wait(id).await, Err(TaskError::NotFound(_))));
    bench.no_locks().await;
    assert_eq!(bench.toy.done(), [""; 0]);

    let mut unknown = submit();
    unknown.action = "toy.fly".to_owned();
    let refused = bench.engine.submit(unknown).await.unwrap_err();
    assert!(matches!(refused, TaskError::UnknownAction(_)));
}

#[tokio::test]
async fn a_task_is_submitted_once_under_an_id() {
    let bench = Bench::new(registry([waiting("a")]));
    let submit = submit();
    let task = bench.engine.submit(submit.clone()).await.unwrap();
    for _ in 0..2 {
        let again = bench.engine.submit(submit.clone()).await.unwrap_err();
        assert!(matches!(again, TaskError::Store(StoreError::Exists { .. })), "{again:?}");
        bench.toy.gate.add_permits(1);
        bench.end(&task).await;
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_task_running() {
    let bench = Bench::new(registry([noting("a")]));
    assert!(bench.engine.submit(submit()).now_or_never().is_none());
    bench.toy.until("a").await;
}

#[tokio::test]
async fn operation_ids_outlive_a_crash_and_differ_by_direction() {
    fn id_step(fails: bool) -> Step<Toy> {
        let note = |step: &StepContext<Toy>| {
            let (plain, labelled): (OperationId, _) =
                (step.operation_id(), step.operation_id_for("second"));
            assert_ne!(plain, labelled);
            step.world().note(plain.to_string());
        };
        Step::new("a", move |step: StepContext<Toy>| async move {
            note(&step);
            step.world().note("begun");
            step.world().gate.acquire().await.unwrap().forget();
            if fails { Err(StepError::internal("no")) } else { Ok(Outcome::none()) }
        })
        .undo(move |step| async move {
            note(&step);
            Ok(Outcome::none())
        })
    }
    let mut bench = Bench::new(registry([id_step(true)]));
    let task = bench.engine.submit(submit()).await.unwrap();
    bench.toy.until("begun").await;
    assert_eq!(bench.restart(registry([id_step(true)])).await, 1);
    bench.toy.gate.add_permits(1);
    bench.end(&task).await;
    let ids = bench.toy.done();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert_eq!(ids[0], ids[2], "the step was run again under the same id");
    assert_ne!(ids[0], ids[4], "the undo has another");
}

#[tokio::test]
async fn progress_is_live_at_once_and_stored_now_and_then() {
    let busy = Step::new("busy", |step: StepContext<Toy>| async move {
        for number in 0..=100 {
            step.progress(number, format!("block {number}"));
            tokio::time::sleep(Duration::from_millis(12)).await;
        }
        step.message("it was a lot");
        Ok(Outcome::none())
    });
    let bench = Bench::new(registry([busy]));
    let start = Instant::now();
    let task = bench.engine.submit(submit()).await.unwrap();
    let mut live = bench.engine.live(task.id()).unwrap();
    let mut seen = Vec::new();
    while live.changed().await.is_ok() {
        seen.extend(live.borrow_and_update().progress.percent);
    }
    let end = bench.end(&task).await;
    assert!(seen.len() > 50 && seen.is_sorted(), "{seen:?}");
    assert_eq!(end.status.messages[0].text, "it was a lot");
    let log = bench.store.changes_after(Revision(0), 1000).await.unwrap();
    let stored = log.iter().filter(|change| change.reason == "toy.run: progress").count();
    let half_seconds = start.elapsed().as_millis() / 500;
    assert!(stored > 0 && stored as u128 <= half_seconds, "{stored} writes in {half_seconds}");
}

#[tokio::test]
async fn two_hundred_tasks_at_once() {
    let bench = Bench::new(registry([noting("a"), noting("b"), failing("c")]));
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let engine = bench.engine.clone();
            tokio::spawn(async move {
                let task = engine.submit(submit().object(object())).await.unwrap();
                engine.wait(task.id()).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().status.state, TaskState::Failed);
    }
    assert_eq!(bench.toy.done().len(), 800);
    bench.no_locks().await;
}

#[tokio::test]
async fn a_shutdown_lets_steps_end_and_leaves_the_rest_to_the_next_start() {
    let steps = || registry([waiting("a"), noting("b")]);
    let mut bench = Bench::new(steps());
    let task = bench.engine.submit(submit()).await.unwrap();
    bench.toy.until("a waits").await;
    let engine = bench.engine.clone();
    let shutdown = tokio::spawn(async move { engine.shutdown(Duration::from_secs(10)).await });
    while bench.engine.submit(submit()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.toy.gate.add_permits(100);
    shutdown.await.unwrap();
    assert!(!bench.toy.done().contains(&"b".to_owned()), "no new step was begun");
    let interrupted = bench.engine.wait(task.id()).await;
    assert!(matches!(interrupted, Err(TaskError::Interrupted { .. })));
    bench.restart(steps()).await;
    assert_eq!(bench.end(&task).await.status.state, TaskState::Done);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let mut bench = Bench::new(registry([waiting("a")]));
    let task = bench.engine.submit(submit()).await.unwrap();
    bench.toy.until("a waits").await;
    bench.engine.shutdown(Duration::from_millis(20)).await;
    bench.restart(registry([waiting("a")])).await;
    bench.toy.gate.add_permits(1);
    assert_eq!(bench.end(&task).await.status.state, TaskState::Done);
}

#[tokio::test]
async fn a_task_that_this_version_does_not_know_is_stuck() {
    let mut bench = Bench::new(registry([waiting("a")]));
    let task = bench.engine.submit(submit().object(object())).await.unwrap();
    bench.restart(registry([waiting("a"), noting("new")])).await;
    let stuck = bench.end(&task).await;
    assert_eq!(stuck.status.state, TaskState::Stuck);
    let reason = stuck.status.stuck.unwrap();
    assert!(reason.contains("toy.run has other steps in this version"), "{reason}");
    assert!(matches!(bench.engine.retry(task.id(), "ada").await, Err(TaskError::UnknownAction(_))));
    let abandoned = bench.engine.abandon(task.id(), "ada").await.unwrap();
    assert_eq!(abandoned.status.state, TaskState::Failed);
    bench.no_locks().await;
}

#[tokio::test]
async fn old_tasks_are_pruned_and_the_newest_kept() {
    let steps = [definition("toy.run", [noting("a")]), definition("toy.wait", [waiting("w")])];
    let bench = Bench::new(steps.into_iter().fold(Registry::new(), Registry::with));
    let mut waits = submit();
    waits.action = "toy.wait".to_owned();
    let running = bench.engine.submit(waits).await.unwrap();
    let mut ended = Vec::new();
    for _ in 0..5 {
        ended.push(bench.run(submit()).await);
    }
    let mut child = submit();
    child.parent = Some(running.id());
    let child = bench.run(child).await;

    let past = Timestamp::now() - Duration::from_secs(60);
    assert_eq!(bench.engine.prune_finished(past, 0).await.unwrap(), 0);
    let future = Timestamp::now() + Duration::from_secs(60);
    assert_eq!(bench.engine.prune_finished(future, 3).await.unwrap(), 3);
    let left: Vec<_> = (bench.store.list(KindName::Task, None, 100).await.unwrap().iter())
        .map(|record| record.id)
        .collect();
    assert_eq!(left.len(), 4);
    for kept in [&running, &ended[3], &ended[4], &child] {
        assert!(left.contains(&kept.id().untyped()));
    }
    assert_eq!(bench.engine.prune_finished(future, 0).await.unwrap(), 2, "the child is needed");
}
