//! Each function of the suite as a test of its own.

use hostler_store::conformance::{concurrency, decisions, drs_runs, locks, log, model, objects};

use super::SqlitePlace;

#[test]
fn it_agrees_with_the_model() {
    model::agrees_with_the_model(|| Box::new(SqlitePlace::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_back_as_they_were_written() {
    objects::records_come_back_as_they_were_written(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_unique_within_its_kind() {
    objects::a_name_is_unique_within_its_kind(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_used_once() {
    objects::an_id_is_used_once(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_carries_the_revision_it_expects() {
    objects::an_update_carries_the_revision_it_expects(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_generation_counts_what_was_asked_for() {
    objects::the_generation_counts_what_was_asked_for(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_carried_out_wholly_or_not_at_all() {
    objects::a_batch_is_carried_out_wholly_or_not_at_all(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expectation_writes_nothing() {
    objects::an_expectation_writes_nothing(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_go_by_name_page_after_page() {
    objects::lists_go_by_name_page_after_page(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_there_after_reopening() {
    objects::what_was_committed_is_there_after_reopening(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_has_its_entry() {
    log::every_write_has_its_entry(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_where_commits_end() {
    log::the_log_tells_where_commits_end(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_logged_without_what_they_were() {
    log::tasks_are_logged_without_what_they_were(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_log_follow_each_other_without_gaps() {
    log::pages_of_the_log_follow_each_other_without_gaps(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_can_be_read() {
    log::the_past_can_be_read(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_consistent_when_the_clock_was_set_back() {
    log::the_past_is_consistent_when_the_clock_was_set_back(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_see_changes_in_order_and_learn_that_they_lag() {
    log::subscribers_see_changes_in_order_and_learn_that_they_lag(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_has_no_gaps() {
    log::a_feed_has_no_gaps(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_locked_by_one_task() {
    locks::an_object_is_locked_by_one_task(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_releases_all_its_locks_and_no_others() {
    locks::a_task_releases_all_its_locks_and_no_others(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost() {
    concurrency::no_update_is_lost(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_batch_does_not_hurt_its_neighbours() {
    concurrency::a_refused_batch_does_not_hurt_its_neighbours(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_wins() {
    concurrency::one_of_many_wins(&SqlitePlace::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_may_go_away() {
    concurrency::callers_may_go_away(&SqlitePlace::new()).await;
}

/// A function added to the suite must be added here.
#[test]
fn the_whole_suite_is_run() {
    let here = include_str!("conformance.rs");
    let suite = [
        include_str!("../../src/conformance/objects.rs"),
        include_str!("../../src/conformance/log.rs"),
        include_str!("../../src/conformance/locks.rs"),
        include_str!("../../src/conformance/concurrency.rs"),
    ];
    for line in suite.iter().flat_map(|file| file.lines()) {
        if let Some(rest) = line.strip_prefix("pub async fn ") {
            let name = rest.split('(').next().unwrap();
            assert!(here.contains(&format!("async fn {name}()")), "{name} is not run");
        }
    }
}

#[tokio::test]
async fn a_decision_is_kept_with_what_it_leads_to() {
    decisions::a_decision_is_kept_with_what_it_leads_to(&SqlitePlace::new()).await;
}

#[tokio::test]
async fn the_oldest_decisions_go_when_their_records_are_too_large() {
    decisions::the_oldest_decisions_go_when_their_records_are_too_large(&SqlitePlace::new()).await;
}

#[tokio::test]
async fn a_drs_run_is_kept_and_its_end_takes_the_place_of_its_beginning() {
    let place = SqlitePlace::new();
    drs_runs::a_drs_run_is_kept_and_its_end_takes_the_place_of_its_beginning(&place).await;
}

#[tokio::test]
async fn drs_runs_go_when_they_are_old_or_too_large_together() {
    let place = SqlitePlace::new();
    drs_runs::drs_runs_go_when_they_are_old_or_too_large_together(&place).await;
}

#[tokio::test]
async fn the_oldest_drs_runs_go() {
    drs_runs::the_oldest_drs_runs_go(&SqlitePlace::new()).await;
}
