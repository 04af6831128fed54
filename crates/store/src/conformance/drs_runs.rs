//! What balancing has done, kept for a while.

use std::sync::Arc;

use hostler_types::{ClusterBalance, DrsRun, TaskId};
use jiff::Timestamp;

use super::{Place, batch};
use crate::batch::{MOST_DRS_RUN_BYTES, MOST_DRS_RUNS, OLDEST_DRS_RUN, Write};

fn run(task: TaskId) -> DrsRun {
    let balance = ClusterBalance {
        busy_hosts: 1,
        excess: 0.25,
        most_cpu: 0.9,
        most_memory: 0.5,
        unmet: 0.0,
        broken_rules: 0,
    };
    DrsRun {
        task,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        actor: "system".to_owned(),
        aggressiveness: 3,
        steps: Vec::new(),
        before: balance,
        expected: balance,
        after: None,
    }
}

fn keep(run: &DrsRun) -> Write {
    Write::KeepDrsRun(Arc::new(run.clone()))
}

pub async fn a_drs_run_is_kept_and_its_end_takes_the_place_of_its_beginning(place: &dyn Place) {
    let store = place.open().await;
    let (first, second) = (run(TaskId::generate()), run(TaskId::generate()));
    store.commit(batch(1, [keep(&first)])).await.expect("it is kept");
    store.commit(batch(2, [keep(&second)])).await.expect("it is kept");
    let ended = DrsRun { after: Some(first.before), ..first.clone() };
    store.commit(batch(3, [keep(&ended)])).await.expect("it is kept");
    let all = store.drs_runs(None, 10).await.expect("read");
    assert_eq!(all, [second.clone(), ended.clone()], "the newest first");
    assert_eq!(store.drs_runs(None, 1).await.expect("read"), all[..1]);
    assert_eq!(store.drs_runs(Some(second.task), 10).await.expect("read"), [ended]);
    assert_eq!(store.revision().await.expect("read").0, 0, "runs are not objects");
}

pub async fn the_oldest_drs_runs_go(place: &dyn Place) {
    let store = place.open().await;
    let runs: Vec<_> = (0..=MOST_DRS_RUNS).map(|_| run(TaskId::generate())).collect();
    store.commit(batch(1, runs.iter().map(keep))).await.expect("they are kept");
    let all = store.drs_runs(None, runs.len()).await.expect("read");
    let expected: Vec<_> = runs[1..].iter().rev().map(|run| run.task).collect();
    assert_eq!(all.iter().map(|run| run.task).collect::<Vec<_>>(), expected);
}

pub async fn drs_runs_go_when_they_are_old_or_too_large_together(place: &dyn Place) {
    let store = place.open().await;
    let kept = async || {
        let all = store.drs_runs(None, 10).await.expect("read");
        all.iter().map(|run| run.task).collect::<Vec<_>>()
    };
    let now = Timestamp::from_second(2_000_000_000).expect("an instant");
    let minute = jiff::SignedDuration::from_mins(1);
    let ago = |age: jiff::SignedDuration| TaskId::first_at(now - age);
    let (old, younger) = (ago(OLDEST_DRS_RUN + minute), ago(OLDEST_DRS_RUN - minute));
    store.commit(batch(1, [keep(&run(old)), keep(&run(younger))])).await.expect("kept");
    assert_eq!(kept().await, [younger, old], "they are of about the same age");
    let newest = ago(jiff::SignedDuration::ZERO);
    store.commit(batch(2, [keep(&run(newest))])).await.expect("kept");
    assert_eq!(kept().await, [newest, younger]);
    let half = usize::try_from(MOST_DRS_RUN_BYTES / 2).expect("a size");
    let large = |task| DrsRun { actor: "a".repeat(half), ..run(task) };
    let later = TaskId::first_at(now + minute);
    store.commit(batch(3, [keep(&large(newest)), keep(&large(later))])).await.expect("kept");
    assert_eq!(kept().await, [later], "the newest that are small enough together");
}
