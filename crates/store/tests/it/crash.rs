//! The process dies in the middle: what was answered is there, what was not is whole or absent.
//!
//! A test starts this test binary again as a child with `HOSTLER_ABORT_AT` set; the child runs
//! `child_that_aborts`, which does nothing unless it is told where its database is.

use std::path::Path;
use std::process::Command;

use hostler_store::conformance::{batch, record};
use hostler_store::{SqliteStore, Store, Write};
use hostler_types::{KindName, Revision};

use super::SqlitePlace;

const DATABASE: &str = "HOSTLER_TEST_DATABASE";

#[tokio::test]
async fn child_that_aborts() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let store = SqliteStore::open(Path::new(&path)).unwrap();
    for number in 1..=5 {
        let writes = ["a", "b"].map(|part| {
            Write::Create(record(KindName::Vm, &format!("vm-{number}-{part}"), number))
        });
        store.commit(batch(1, writes)).await.unwrap();
    }
    unreachable!("the child should have died");
}

/// Returns the commit log.
fn run_child(place: &SqlitePlace, abort_at: &str) -> String {
    let log = place.0.path().join("commits");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_aborts"])
        .env(DATABASE, place.path())
        .env("HOSTLER_ABORT_AT", abort_at)
        .env("HOSTLER_COMMIT_LOG", &log)
        .output()
        .unwrap()
        .status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{status}");
    std::fs::read_to_string(&log).unwrap_or_default()
}

#[tokio::test]
async fn a_batch_is_whole_or_absent_after_a_crash() {
    for (abort_at, commits) in [("1:before", 0), ("1:after", 1), ("3:before", 2), ("3:after", 3)] {
        let place = SqlitePlace::new();
        let log = run_child(&place, abort_at);
        assert_eq!(log.lines().count(), usize::try_from(commits).unwrap(), "{log}");

        let store = SqliteStore::open(place.path()).unwrap();
        assert_eq!(store.revision().await.unwrap(), Revision(2 * commits), "{abort_at}");
        let names: Vec<String> = (store.list(KindName::Vm, None, 100).await.unwrap().iter())
            .map(|record| record.name.to_string())
            .collect();
        let expected: Vec<String> = (1..=commits)
            .flat_map(|number| [format!("vm-{number}-a"), format!("vm-{number}-b")])
            .collect();
        assert_eq!(names, expected, "{abort_at}");
        let next = batch(2, [Write::Create(record(KindName::Vm, "after", 1))]);
        let committed = store.commit(next).await.unwrap();
        assert_eq!(committed.revision, Revision(2 * commits + 1));
    }
}

#[test]
fn the_commit_log_tells_number_revisions_and_reasons() {
    let place = SqlitePlace::new();
    let log = run_child(&place, "2:after");
    assert_eq!(log, "1\t1-2\ta test\n2\t3-4\ta test\n");
}
