//! The moves of a task through its states: pure, and the only place that changes them.
//!
//! ```text
//!              submit
//!                |              complete (last)
//!                v            .------------------> done
//!   complete -> running -----'
//!                | fail
//!                v            descend (first)
//!   descend -> undoing ---------------------------> failed | cancelled
//!                | stuck  ^                           ^
//!                v        | retry                     |
//!              stuck -----+---------------------------' abandon
//! ```
//!
//! - The steps are `done, …, done, doing, waiting, …` while a task runs; `doing` is the intent.
//! - While it is undone they are `done, …, undoing, undone, …, waiting, …`.
//! - A task that is past a step of no return is stuck in `doing`, and a retry goes forward.

use hostler_types::{Progress, StepRecord, StepState, TaskState, TaskStatus};
use jiff::Timestamp;
use serde_json::Value;

use crate::definition::StepError;

/// What is to be done next; the number is that of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Run(usize),
    Undo(usize),
    /// Ended or stuck: nothing.
    Rest,
}

/// A task as it is submitted: the intent of its first step is written.
pub(crate) fn submitted(steps: &[&str], now: Timestamp) -> TaskStatus {
    let step = |(index, name): (usize, &&str)| StepRecord {
        name: (*name).to_owned(),
        state: if index == 0 { StepState::Doing } else { StepState::Waiting },
        started_at: (index == 0).then_some(now),
        ended_at: None,
        result: Value::Null,
    };
    TaskStatus {
        state: TaskState::Running,
        steps: steps.iter().enumerate().map(step).collect(),
        progress: Progress::default(),
        messages: Vec::new(),
        cancel_requested: false,
        error: None,
        stuck: None,
        error_code: None,
        finished_at: None,
    }
}

pub(crate) fn position(status: &TaskStatus) -> Position {
    let step = |state| status.steps.iter().position(|step| step.state == state);
    match status.state {
        TaskState::Pending | TaskState::Running => {
            step(StepState::Doing).map_or(Position::Rest, Position::Run)
        }
        TaskState::Undoing => step(StepState::Undoing).map_or(Position::Rest, Position::Undo),
        TaskState::Done | TaskState::Failed | TaskState::Cancelled | TaskState::Stuck => {
            Position::Rest
        }
    }
}

/// The step `index` is done: on to the next one.
pub(crate) fn complete(status: &mut TaskStatus, index: usize, result: Value, now: Timestamp) {
    status.steps[index].state = StepState::Done;
    status.steps[index].ended_at = Some(now);
    status.steps[index].result = result;
    match status.steps.get_mut(index + 1) {
        Some(next) => {
            next.state = StepState::Doing;
            next.started_at = Some(now);
        }
        None => finish(status, TaskState::Done, now),
    }
}

/// The task will not be completed: its steps are undone, from the last that was begun. `undoable`
/// tells which steps have an undo.
pub(crate) fn fail(
    status: &mut TaskStatus,
    code: &str,
    message: &str,
    undoable: &[bool],
    now: Timestamp,
) {
    status.state = TaskState::Undoing;
    status.error_code = Some(code.to_owned());
    status.error = Some(message.to_owned());
    descend(status, undoable, now);
}

/// The step `index` is undone: on to the one before it.
pub(crate) fn undone(status: &mut TaskStatus, index: usize, undoable: &[bool], now: Timestamp) {
    status.steps[index].state = StepState::Undone;
    status.steps[index].ended_at = Some(now);
    descend(status, undoable, now);
}

/// Steps without an undo have changed nothing and are passed over.
fn descend(status: &mut TaskStatus, undoable: &[bool], now: Timestamp) {
    for (step, &undoable) in status.steps.iter_mut().zip(undoable).rev() {
        match step.state {
            StepState::Waiting | StepState::Undone => {}
            StepState::Doing | StepState::Done | StepState::Undoing if undoable => {
                step.state = StepState::Undoing;
                return;
            }
            StepState::Doing | StepState::Done | StepState::Undoing => {
                step.state = StepState::Undone;
                step.ended_at = Some(now);
            }
        }
    }
    let cancelled =
        status.cancel_requested && status.error_code.as_deref() == Some(StepError::CANCELLED);
    finish(status, if cancelled { TaskState::Cancelled } else { TaskState::Failed }, now);
}

pub(crate) fn stuck(status: &mut TaskStatus, reason: String) {
    status.state = TaskState::Stuck;
    status.stuck = Some(reason);
}

/// A stuck task tries again, in the direction in which it got stuck.
pub(crate) fn retry(status: &mut TaskStatus) {
    let forward = status.steps.iter().any(|step| step.state == StepState::Doing);
    status.state = if forward { TaskState::Running } else { TaskState::Undoing };
    status.stuck = None;
}

/// A stuck task is given up: what it has not undone stays as it is, and is named.
pub(crate) fn abandon(status: &mut TaskStatus, now: Timestamp) {
    let left: Vec<String> = (status.steps.iter())
        .filter(|step| !matches!(step.state, StepState::Waiting | StepState::Undone))
        .map(|step| format!("`{}`", step.name))
        .collect();
    let why = status.error.take().or(status.stuck.take()).unwrap_or_default();
    status.error = Some(format!("{why} (abandoned; not undone: {})", left.join(", ")));
    finish(status, TaskState::Failed, now);
}

fn finish(status: &mut TaskStatus, state: TaskState, now: Timestamp) {
    status.state = state;
    status.stuck = None;
    status.finished_at = Some(now);
    status.progress.activity = None;
    if state == TaskState::Done {
        status.progress.percent = Some(100);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(status: &TaskStatus) -> String {
        let letter = |step: &StepRecord| match step.state {
            StepState::Waiting => 'w',
            StepState::Doing => 'd',
            StepState::Done => 'D',
            StepState::Undoing => 'u',
            StepState::Undone => 'U',
        };
        let steps: String = status.steps.iter().map(letter).collect();
        format!("{} {steps}", status.state)
    }

    #[test]
    fn a_task_runs_from_the_first_step_to_the_last() {
        let now = Timestamp::UNIX_EPOCH;
        let mut status = submitted(&["a", "b"], now);
        assert_eq!((states(&status), position(&status)), ("running dw".into(), Position::Run(0)));
        complete(&mut status, 0, Value::from(7), now);
        assert_eq!((states(&status), position(&status)), ("running Dd".into(), Position::Run(1)));
        complete(&mut status, 1, Value::Null, now);
        assert_eq!((states(&status), position(&status)), ("done DD".into(), Position::Rest));
        assert_eq!(status.steps[0].result, 7);
        assert_eq!(status.finished_at, Some(now));
    }

    #[test]
    fn a_failed_task_is_undone_backwards_past_steps_without_undo() {
        let now = Timestamp::UNIX_EPOCH;
        let undoable = [true, false, true, true];
        let mut status = submitted(&["a", "b", "c", "d"], now);
        complete(&mut status, 0, Value::Null, now);
        complete(&mut status, 1, Value::Null, now);
        fail(&mut status, "no_space", "the disk is full", &undoable, now);
        assert_eq!(
            (states(&status), position(&status)),
            ("undoing DDuw".into(), Position::Undo(2))
        );
        undone(&mut status, 2, &undoable, now);
        assert_eq!(
            (states(&status), position(&status)),
            ("undoing uUUw".into(), Position::Undo(0))
        );
        undone(&mut status, 0, &undoable, now);
        assert_eq!((states(&status), position(&status)), ("failed UUUw".into(), Position::Rest));
        assert_eq!(status.error_code.as_deref(), Some("no_space"));
    }

    #[test]
    fn only_a_cancelled_task_ends_as_cancelled() {
        let now = Timestamp::UNIX_EPOCH;
        for (requested, code, end) in [
            (true, StepError::CANCELLED, "cancelled U"),
            (true, "no_space", "failed U"),
            (false, StepError::CANCELLED, "failed U"),
        ] {
            let mut status = submitted(&["a"], now);
            status.cancel_requested = requested;
            fail(&mut status, code, "", &[false], now);
            assert_eq!(states(&status), end);
        }
    }

    #[test]
    fn a_stuck_task_goes_on_where_it_got_stuck_or_is_given_up() {
        let now = Timestamp::UNIX_EPOCH;
        let mut backward = submitted(&["a", "b"], now);
        fail(&mut backward, "no_space", "the disk is full", &[true, true], now);
        stuck(&mut backward, "no answer".to_owned());
        assert_eq!(position(&backward), Position::Rest);
        let mut abandoned = backward.clone();
        retry(&mut backward);
        assert_eq!(
            (states(&backward), position(&backward)),
            ("undoing uw".into(), Position::Undo(0))
        );
        abandon(&mut abandoned, now);
        assert_eq!(states(&abandoned), "failed uw");
        let error = abandoned.error.unwrap();
        assert_eq!(error, "the disk is full (abandoned; not undone: `a`)");

        let mut forward = submitted(&["a"], now);
        stuck(&mut forward, "no answer".to_owned());
        retry(&mut forward);
        assert_eq!(states(&forward), "running d");
    }
}
