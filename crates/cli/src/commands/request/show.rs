//! `hostler request show`: the request, who has to agree, and the tree of its tasks.

use futures::future::BoxFuture;
use hostler_api::request::{self, RequestPath};
use hostler_api::task::{self, TaskListQuery, TaskPath};
use hostler_endpoint::NoParams;
use hostler_types::{
    ApprovalDecision, Request, RuleVerdict, StepRecord, StepState, Task, TaskId, TaskState, counted,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{sentence, state};
use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::table::{Cell, Tone};
use crate::time;

/// Tasks below tasks are shown to this depth.
const DEPTH: usize = 4;

/// A request with all that belongs to it.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    request: Request,
    approval: ApprovalDecision,
    tasks: Vec<Branch>,
}

/// A task and those below it, oldest first.
#[derive(Debug, Serialize)]
struct Branch {
    #[serde(flatten)]
    task: Task,
    below: Vec<Self>,
}

pub(super) async fn run(session: &Session, path: &RequestPath) -> Result<(), CliError> {
    let none = NoParams {};
    let request = session.call::<request::Show>(path, &none, ()).await?;
    let approval = session.call::<request::Why>(path, &none, ()).await?;
    let tasks = match request.status.progress.task {
        Some(task) => tree(session, task).await?,
        None => Vec::new(),
    };
    let whole = Whole { request, approval, tasks };
    let name = whole.request.metadata.name.clone();
    session.output.object(&whole, name.as_str(), || fields(&whole, Timestamp::now()))
}

/// The task of a request; old ones are gone.
async fn tree(session: &Session, task: TaskId) -> Result<Vec<Branch>, CliError> {
    match session.call::<task::Show>(&TaskPath { task }, &NoParams {}, ()).await {
        Ok(task) => Ok(vec![branch(session, task, DEPTH).await?]),
        Err(error) if error.exit() == Exit::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn branch(session: &Session, task: Task, depth: usize) -> BoxFuture<'_, Result<Branch, CliError>> {
    Box::pin(async move {
        let mut below = Vec::new();
        if depth > 0 {
            let query = TaskListQuery { parent: Some(task.id()), ..TaskListQuery::default() };
            let tasks = session.call::<task::List>(&NoParams {}, &query, ()).await?.items;
            for task in tasks.into_iter().rev() {
                below.push(branch(session, task, depth - 1).await?);
            }
            below.sort_by_key(|branch| branch.task.metadata.created_at);
        }
        Ok(Branch { task, below })
    })
}

fn fields(whole: &Whole, now: Timestamp) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let (spec, status) = (&whole.request.spec, &whole.request.status);
    let vm = &spec.order.vm;
    let approvals = status.approvals.iter().map(|approval| {
        let (by, role, at) = (&approval.by.name, approval.role, time::show(approval.at));
        let comment = approval.comment.as_ref().map(|text| format!(": {text}"));
        Cell::new(format!("{by} ({role}) at {at}{}", comment.unwrap_or_default()))
    });
    let mut fields = vec![
        ("Name", one(whole.request.metadata.name.to_string())),
        ("Id", one(whole.request.metadata.id.to_string())),
        ("State", vec![state(&whole.request)]),
        ("Meaning", one(sentence(&whole.request))),
        ("Since", one(time::show(status.since))),
        ("VM", one(vm.name.to_string())),
        (
            "Size",
            one(format!(
                "{}, {} memory, {} disk",
                counted(spec.cpus, "CPU"),
                spec.memory,
                spec.disk
            )),
        ),
        ("Images", spec.images.iter().map(|image| Cell::new(image.name.as_str())).collect()),
        (
            "Template",
            spec.template
                .iter()
                .map(|it| Cell::new(format!("{}:{}", it.name, it.version)))
                .collect(),
        ),
        ("Spec", spec.customization_spec.iter().map(|it| Cell::new(it.as_str())).collect()),
        ("Networks", spec.networks.iter().map(|it| Cell::new(it.name.as_str())).collect()),
        ("Purpose", spec.order.purpose.lines().map(Cell::new).collect()),
        ("Requester", one(spec.requester.name.clone())),
        ("Owner", one(spec.owner.clone())),
        ("Approvals", approvals.collect()),
        ("Rules", whole.approval.rules.iter().map(verdict).collect()),
        ("After start", spec.order.post.iter().map(|it| Cell::new(it.title())).collect()),
        ("Probes", spec.order.probes.iter().map(|it| Cell::new(it.title())).collect()),
        ("Notify", spec.order.notify.iter().map(|it| Cell::new(it.shown_url())).collect()),
        ("Steps", whole.tasks.iter().flat_map(|branch| lines(branch, "", now)).collect()),
    ];
    fields.retain(|(_, values)| !values.is_empty());
    fields
}

fn verdict(verdict: &RuleVerdict) -> Cell {
    let rule = verdict.rule.as_ref().map_or("default", |name| name.as_str());
    let why = &verdict.why;
    if !verdict.fits {
        return Cell::new(format!("{rule}: does not fit: {why}")).tone(Tone::Dim);
    }
    let needs = verdict.needs.as_deref().unwrap_or_default();
    let given = match verdict.given.as_slice() {
        [] => String::new(),
        given => format!(", given by {}", given.join(", ")),
    };
    let (missing, tone) = match verdict.missing {
        0 => (String::new(), Tone::Good),
        missing => (format!(", {missing} missing"), Tone::Busy),
    };
    Cell::new(format!("{rule}: {needs}{given}{missing} ({why})")).tone(tone)
}

/// A task's line, its steps', and those of the tasks below it.
fn lines(branch: &Branch, indent: &str, now: Timestamp) -> Vec<Cell> {
    let task = &branch.task;
    let took = time::age(task.metadata.created_at, task.status.finished_at.unwrap_or(now));
    let (action, target, state) = (&task.spec.action, &task.spec.target, task.status.state);
    let tone = match state {
        TaskState::Done => Tone::Good,
        TaskState::Failed | TaskState::Stuck => Tone::Bad,
        TaskState::Pending | TaskState::Running | TaskState::Undoing => Tone::Busy,
        TaskState::Cancelled => Tone::Dim,
    };
    let title = format!("{indent}{action} {target}: {state}, {took}");
    let mut lines = vec![Cell::new(title).tone(tone)];
    let deeper = format!("{indent}  ");
    if task.status.steps.len() > 1 {
        lines.extend(task.status.steps.iter().map(|record| step(record, &deeper, now)));
    }
    for message in &task.status.messages {
        let text = format!("{deeper}{} {}", time::show(message.at), message.text);
        lines.push(Cell::new(text).tone(Tone::Dim));
    }
    if let Some(error) = &task.status.error {
        lines.push(Cell::new(format!("{deeper}{error}")).tone(Tone::Bad));
    }
    for below in &branch.below {
        lines.extend(self::lines(below, &deeper, now));
    }
    lines
}

fn step(record: &StepRecord, indent: &str, now: Timestamp) -> Cell {
    let (word, tone) = match record.state {
        StepState::Waiting => ("waiting", Tone::Dim),
        StepState::Doing => ("doing", Tone::Busy),
        StepState::Done => ("done", Tone::Good),
        StepState::Undoing => ("undoing", Tone::Busy),
        StepState::Undone => ("undone", Tone::Plain),
    };
    let times = record.started_at.map(|begin| {
        let took = time::age(begin, record.ended_at.unwrap_or(now));
        format!(" {} for {took}", time::show(begin))
    });
    let times = times.unwrap_or_default();
    Cell::new(format!("{indent}{}: {word}{times}", record.name)).tone(tone)
}
