//! `hostler task`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hostler_api::task::{self, TaskListQuery, TaskPath};
use hostler_endpoint::NoParams;
use hostler_types::{StepState, Task, TaskId, TaskState};
use jiff::Timestamp;

use crate::error::CliError;
use crate::options::Format;
use crate::output::{self, Listing};
use crate::session::Session;
use crate::table::{Cell, Tone};
use crate::{time, wait};

/// Tasks: every change that takes longer than a moment
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler task list --active\n  hostler task watch TASK"
)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    List(List),

    /// Show a task with its steps and messages
    #[command(after_help = "Examples:\n  hostler task show 01890a5d-ac96-774b-bcce-b302099a8057")]
    Show(Which),

    /// Follow a task to its end; Ctrl-C cancels it
    #[command(after_help = "Examples:\n  hostler task watch 01890a5d-ac96-774b-bcce-b302099a8057")]
    Watch(Which),

    /// Ask a task to stop and undo what it did
    #[command(after_help = "Examples:\n  hostler task cancel 01890a5d-ac96-774b-bcce-b302099a8057")]
    Cancel(Which),

    /// Try the undo of a stuck task again
    #[command(after_help = "Examples:\n  hostler task retry 01890a5d-ac96-774b-bcce-b302099a8057")]
    Retry(Which),

    /// Give up a stuck task; what it left stays
    #[command(
        after_help = "Examples:\n  hostler task abandon 01890a5d-ac96-774b-bcce-b302099a8057 --yes"
    )]
    Abandon(Abandon),
}

#[derive(Debug, Args)]
struct Which {
    /// Id of the task
    #[arg(value_name = "TASK")]
    task: TaskId,
}

#[derive(Debug, Args)]
struct Abandon {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// List tasks, newest first
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  hostler task list
  hostler task list --active
  hostler task list --state failed --action vm.create"
)]
struct List {
    /// Only those that have not ended
    #[arg(long)]
    active: bool,

    /// Only those in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<StateArg>,

    /// Only those of this action, such as vm.create
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,

    /// At most this many
    #[arg(long, value_name = "COUNT", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Pending,
    Running,
    Undoing,
    Done,
    Failed,
    Cancelled,
    Stuck,
}

impl From<StateArg> for TaskState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Pending => Self::Pending,
            StateArg::Running => Self::Running,
            StateArg::Undoing => Self::Undoing,
            StateArg::Done => Self::Done,
            StateArg::Failed => Self::Failed,
            StateArg::Cancelled => Self::Cancelled,
            StateArg::Stuck => Self::Stuck,
        }
    }
}

impl TaskArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            TaskCommand::List(list) => list.run(session).await?,
            TaskCommand::Show(which) => {
                let task = show(session, which.task).await?;
                let query = TaskListQuery { parent: Some(task.id()), ..TaskListQuery::default() };
                let below = match session.output.is_table() {
                    true => session.call::<task::List>(&NoParams {}, &query, ()).await?.items,
                    false => Vec::new(),
                };
                print(session, &task, &below)?;
            }
            TaskCommand::Watch(which) => {
                let task = show(session, which.task).await?;
                print_ordered(session, &wait::task(session, task).await?)?;
            }
            TaskCommand::Cancel(which) => {
                let path = TaskPath { task: which.task };
                let task = session.call::<task::Cancel>(&path, &NoParams {}, ()).await?;
                print_ordered(session, &task)?;
            }
            TaskCommand::Retry(which) => {
                let path = TaskPath { task: which.task };
                let task = session.call::<task::Retry>(&path, &NoParams {}, ()).await?;
                print_ordered(session, &task)?;
            }
            TaskCommand::Abandon(abandon) => {
                let question = "Give the task up? What it left behind stays.";
                crate::terminal::confirm(abandon.yes, question)?;
                let path = TaskPath { task: abandon.which.task };
                let task = session.call::<task::Abandon>(&path, &NoParams {}, ()).await?;
                print_ordered(session, &task)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn show(session: &Session, task: TaskId) -> Result<Task, CliError> {
    session.call::<task::Show>(&TaskPath { task }, &NoParams {}, ()).await
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = TaskListQuery {
            limit: Some(self.limit),
            state: self.state.map(TaskState::from),
            active: self.active,
            action: self.action,
            ..TaskListQuery::default()
        };
        let tasks = session.call::<task::List>(&NoParams {}, &query, ()).await?.items;
        session.output.list(
            &tasks,
            &Listing {
                header: &["ID", "ACTION", "TARGET", "STATE", "ACTOR", "STARTED", "TOOK", "ERROR"],
                empty: "no tasks",
                name: &|task| task.id().to_string(),
                row: &|task| row(task, Timestamp::now()),
            },
        )
    }
}

fn row(task: &Task, now: Timestamp) -> Vec<Cell> {
    let begin = task.metadata.created_at;
    vec![
        Cell::new(task.id().to_string()),
        Cell::new(&task.spec.action),
        Cell::new(&task.spec.target),
        state(task),
        Cell::new(&task.spec.actor),
        Cell::new(time::show(begin)),
        Cell::new(time::age(begin, task.status.finished_at.unwrap_or(now))),
        Cell::maybe(task.status.error.as_ref()),
    ]
}

fn state(task: &Task) -> Cell {
    let state = task.status.state;
    let tone = match state {
        TaskState::Done => Tone::Good,
        TaskState::Pending | TaskState::Running | TaskState::Undoing => Tone::Busy,
        TaskState::Failed | TaskState::Stuck => Tone::Bad,
        TaskState::Cancelled => Tone::Dim,
    };
    match task.status.progress.percent {
        Some(percent) if state == TaskState::Running => {
            Cell::new(format!("{state} {percent}%")).tone(tone)
        }
        _ => Cell::new(state.as_str()).tone(tone),
    }
}

/// `below` are the tasks that it has ordered itself.
fn print(session: &Session, task: &Task, below: &[Task]) -> Result<(), CliError> {
    let step = |state| match state {
        StepState::Waiting => Tone::Dim,
        StepState::Doing | StepState::Undoing => Tone::Busy,
        StepState::Done => Tone::Good,
        StepState::Undone => Tone::Plain,
    };
    let fields = || {
        let one = |text: &str| vec![Cell::new(text)];
        let status = &task.status;
        let steps = status.steps.iter().map(|record| {
            let word = format!("{:?}", record.state).to_lowercase();
            Cell::new(format!("{}: {word}", record.name)).tone(step(record.state))
        });
        let messages = status.messages.iter();
        let messages = messages
            .map(|message| Cell::new(format!("{} {}", time::show(message.at), message.text)));
        let mut fields = vec![
            ("Id", one(&task.id().to_string())),
            ("Action", one(&task.spec.action)),
            ("Target", one(&task.spec.target)),
            ("State", vec![state(task)]),
            ("Error", status.error.iter().map(Cell::new).collect()),
            ("Stuck", status.stuck.iter().map(Cell::new).collect()),
            ("Actor", one(&task.spec.actor)),
            ("Ordered", one(&time::show(task.metadata.created_at))),
            ("Ended", status.finished_at.iter().map(|at| Cell::new(time::show(*at))).collect()),
            ("Now", status.progress.activity.iter().map(Cell::new).collect()),
            ("Steps", steps.collect()),
            ("Below", below.iter().map(branch).collect()),
            ("Messages", messages.collect()),
        ];
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(task, &task.id().to_string(), fields)
}

/// A task below another one, in a line.
fn branch(task: &Task) -> Cell {
    let now = task.status.progress.activity.as_deref().or(task.status.error.as_deref());
    let now = now.map(|now| format!(": {now}")).unwrap_or_default();
    let (action, target, state) = (&task.spec.action, &task.spec.target, task.status.state);
    let percent = task.status.progress.percent.filter(|_| !state.is_terminal());
    let percent = percent.map(|percent| format!(" {percent}%")).unwrap_or_default();
    Cell::new(format!("{action} {target} {state}{percent}{now}"))
}

/// A task that is not waited for.
pub(crate) fn print_ordered(session: &Session, task: &Task) -> Result<(), CliError> {
    let id = task.id();
    match session.output.format {
        Format::Json | Format::Yaml => session.output.data(task),
        Format::Name => output::print(&format!("{id}\n")),
        Format::Table => {
            let (action, target) = (&task.spec.action, &task.spec.target);
            let line = format!("task {id}: {action} {target} {}", task.status.state);
            output::print(&format!("{}\n", crate::sanitise::line(&line)))
        }
    }
}
