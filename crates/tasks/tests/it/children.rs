//! Tasks below tasks.

use hostler_tasks::{Definition, Outcome, Registry, Step, StepContext, StepError};
use hostler_types::{KindName, ObjectId, Task, TaskKind, TaskState};

use super::toy::{Bench, Toy, definition, failing, noting, object, submit, waiting};

/// `toy.run` runs one `toy.child` on the same object.
fn family(child: impl IntoIterator<Item = Step<Toy>>) -> Registry<Toy> {
    let parent = Step::new("below", |step: StepContext<Toy>| async move {
        step.world().note("parent runs");
        let object: ObjectId = step.objects()[0];
        let mut order = submit().object(object);
        order.action = "toy.child".to_owned();
        let child = step.run_child("only", order).await?;
        Ok(Outcome::of(&child.id()))
    });
    let parent: Definition<Toy> = definition("toy.run", [noting("before"), parent]);
    Registry::new().with(parent).with(definition("toy.child", child))
}

async fn children(bench: &Bench, parent: &Task) -> Vec<Task> {
    let tasks = bench.store.list(KindName::Task, None, 100).await.unwrap();
    let tasks = tasks.iter().map(|record| record.object::<TaskKind>().unwrap());
    tasks.filter(|task| task.spec.parent == Some(parent.id())).collect()
}

#[tokio::test]
async fn a_parent_waits_for_its_child() {
    let bench = Bench::new(family([noting("child")]));
    let parent = bench.run(submit().object(object())).await;
    assert_eq!(parent.status.state, TaskState::Done, "{:?}", parent.status.error);
    assert_eq!(bench.toy.done(), ["before", "parent runs", "child"]);
    let children = children(&bench, &parent).await;
    assert_eq!(children.len(), 1);
    assert_eq!(parent.status.steps[1].result, children[0].id().to_string());
    bench.no_locks().await;
}

#[tokio::test]
async fn a_failed_child_fails_its_parent() {
    let bench = Bench::new(family([noting("child"), failing("full")]));
    let parent = bench.run(submit().object(object())).await;
    assert_eq!(parent.status.state, TaskState::Failed);
    assert_eq!(parent.status.error_code.as_deref(), Some("no_space"));
    let expected = ["before", "parent runs", "child", "undo child", "undo before"];
    assert_eq!(bench.toy.done(), expected);
    bench.no_locks().await;
}

#[tokio::test]
async fn cancelling_a_parent_cancels_its_child() {
    let bench = Bench::new(family([waiting("child")]));
    let parent = bench.engine.submit(submit().object(object())).await.unwrap();
    bench.toy.until("child waits").await;
    bench.engine.cancel(parent.id(), "ada").await.unwrap();
    let parent = bench.end(&parent).await;
    assert_eq!(parent.status.state, TaskState::Cancelled);
    let children = children(&bench, &parent).await;
    assert_eq!(children[0].status.state, TaskState::Cancelled);
    let expected = ["before", "parent runs", "child waits", "undo child", "undo before"];
    assert_eq!(bench.toy.done(), expected, "the child is undone before its parent");
}

#[tokio::test]
async fn a_child_that_was_cancelled_alone_fails_its_parent() {
    let bench = Bench::new(family([waiting("child")]));
    let parent = bench.engine.submit(submit().object(object())).await.unwrap();
    bench.toy.until("child waits").await;
    let child = children(&bench, &parent).await.remove(0);
    bench.engine.cancel(child.id(), "ada").await.unwrap();
    let parent = bench.end(&parent).await;
    assert_eq!(parent.status.state, TaskState::Failed);
    assert_eq!(parent.status.error_code.as_deref(), Some("child_cancelled"));
}

#[tokio::test]
async fn a_parent_finds_its_running_child_after_a_crash() {
    let steps = || family([noting("child"), waiting("slow")]);
    let mut bench = Bench::new(steps());
    let parent = bench.engine.submit(submit().object(object())).await.unwrap();
    bench.toy.until("slow waits").await;
    assert_eq!(bench.restart(steps()).await, 2);
    bench.toy.gate.add_permits(1);
    let parent = bench.end(&parent).await;
    assert_eq!(parent.status.state, TaskState::Done, "{:?}", parent.status.error);
    assert_eq!(children(&bench, &parent).await.len(), 1);
    let count = |what: &str| bench.toy.done().iter().filter(|done| *done == what).count();
    assert_eq!((count("parent runs"), count("child"), count("slow")), (2, 1, 1));
}

/// The process dies after the cancellation is stored; the child is recovered, too, and must not
/// outlive its parent.
#[tokio::test]
async fn a_cancelled_parent_ends_its_child_after_a_crash() {
    fn deaf() -> Step<Toy> {
        Step::new("deaf", |step: StepContext<Toy>| async move {
            step.world().note("deaf waits");
            if step.world().done().iter().filter(|done| *done == "deaf waits").count() == 1 {
                std::future::pending::<()>().await;
            }
            step.cancelled().cancelled().await;
            Err(StepError::cancelled())
        })
    }
    let mut bench = Bench::new(family([deaf()]));
    let parent = bench.engine.submit(submit().object(object())).await.unwrap();
    bench.toy.until("deaf waits").await;
    bench.engine.cancel(parent.id(), "ada").await.unwrap();
    bench.restart(family([deaf()])).await;
    let parent = bench.end(&parent).await;
    assert_eq!(parent.status.state, TaskState::Cancelled);
    assert_eq!(children(&bench, &parent).await[0].status.state, TaskState::Cancelled);
    bench.no_locks().await;
}

/// A step that fails without waiting for the child it has begun.
#[tokio::test]
async fn a_failing_parent_ends_the_child_it_has_left() {
    let hasty = Step::new("hasty", |step: StepContext<Toy>| async move {
        let mut order = submit();
        order.action = "toy.child".to_owned();
        tokio::select! {
            child = step.run_child("only", order) => child.map(|_| Outcome::none()),
            () = step.world().until("child waits") => Err(StepError::failed("hasty", "too slow")),
        }
    });
    let parent = definition("toy.run", [noting("before"), hasty]);
    let child = definition("toy.child", [waiting("child")]);
    let bench = Bench::new(Registry::new().with(parent).with(child));
    let parent = bench.run(submit().object(object())).await;
    assert_eq!(parent.status.error_code.as_deref(), Some("hasty"));
    assert_eq!(children(&bench, &parent).await[0].status.state, TaskState::Cancelled);
    assert_eq!(bench.toy.done(), ["before", "child waits", "undo child", "undo before"]);
}
