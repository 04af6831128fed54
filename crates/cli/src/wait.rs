//! Waiting for the end of a task, or for a guest, by following the server's streams.
//!
//! The first Ctrl-C asks the server to cancel the task and waits until it has been undone; the
//! second leaves the task to the server. Waiting for a guest ends with the first: what was ordered
//! is done by then. A lost connection is taken up again: tasks outlive it.

use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use hostler_api::event::{Watch as ChangeWatch, WatchQuery};
use hostler_api::task::{Cancel, TaskPath, Watch as TaskWatch};
use hostler_api::vm::{Show as VmShow, VmPath};
use hostler_endpoint::{ClientError, EventStream, NoParams};
use hostler_types::{CustomizationState, KindName, PowerState, Task, TaskState, Vm};
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::progress::Progress;
use crate::session::Session;

/// How long the server may be away before waiting is given up.
const AWAY: Duration = Duration::from_secs(60);

/// Of commands that order a task.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WaitOptions {
    /// Wait until it is done (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,

    /// Print the task instead of waiting for its end
    #[arg(long)]
    no_wait: bool,
}

impl WaitOptions {
    pub(crate) fn waits(&self) -> bool {
        !self.no_wait
    }
}

/// Of commands that start a VM.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StartWaitOptions {
    /// What to wait for; --wait=guest until the guest agent answers, --wait=customized until the
    /// guest has proved that it is what it was told to be
    #[arg(
        long,
        value_enum,
        value_name = "FOR",
        num_args = 0..=1,
        require_equals = true,
        default_value = "task",
        default_missing_value = "task"
    )]
    wait: WaitFor,

    /// Print the task instead of waiting for its end
    #[arg(long)]
    no_wait: bool,

    /// How long to wait, such as 90s or 5m; what was ordered goes on
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    timeout: Option<Duration>,
}

impl StartWaitOptions {
    pub(crate) fn waits(&self) -> bool {
        !self.no_wait
    }

    /// More than the task's end.
    pub(crate) fn for_more(&self) -> bool {
        self.waits() && self.wait != WaitFor::Task
    }

    pub(crate) fn for_customized(&self) -> bool {
        self.waits() && self.wait == WaitFor::Customized
    }

    /// The VM, when its guest has come as far as is waited for.
    pub(crate) async fn guest(&self, session: &Session, path: &VmPath) -> Result<Vm, CliError> {
        match self.wait {
            WaitFor::Task => session.call::<VmShow>(path, &NoParams {}, ()).await,
            WaitFor::Guest => guest(session, path, "waiting for the guest agent", judge).await,
            WaitFor::Customized => {
                let activity = "waiting for the customization";
                guest(session, path, activity, judge_customized).await
            }
        }
    }

    /// `work` within the time allowed; without one, a guest has 20 minutes to be customized.
    pub(crate) async fn limit<T>(
        &self,
        session: &Session,
        path: &VmPath,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        let limit = self.timeout.or(self.for_customized().then_some(CUSTOMIZED));
        let Some(limit) = limit else { return work.await };
        if let Ok(done) = tokio::time::timeout(limit, work).await {
            return done;
        }
        let mut message = format!("not done within {} s", limit.as_secs());
        if self.for_customized()
            && let Ok(vm) = session.call::<VmShow>(path, &NoParams {}, ()).await
            && let Some(reason) = vm.status.customization.and_then(|status| status.reason)
        {
            message = format!("{message}: {reason}");
        }
        Err(CliError::new(Exit::Timeout, message)
            .hint("what was ordered goes on: see `hostler task list --active`"))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum WaitFor {
    /// What was ordered is done
    #[default]
    Task,
    /// Also, the guest agent answers
    Guest,
    /// Also, the guest has proved its customization; fails with the guest's reason
    Customized,
}

/// How long a guest may take to be customized, unless another time is given.
const CUSTOMIZED: Duration = Duration::from_secs(20 * 60);

/// Waits for the end of a task.
///
/// # Errors
/// It failed, was cancelled or is stuck.
pub(crate) async fn task(session: &Session, task: Task) -> Result<Task, CliError> {
    Ok(task_or_less(session, task).await?.0)
}

/// As [`task`], for one that is done with less than was asked for when it is cancelled: also
/// whether it was.
pub(crate) async fn task_or_less(session: &Session, task: Task) -> Result<(Task, bool), CliError> {
    let title = format!("{} {}", task.spec.action, task.spec.target);
    let mut progress = Progress::new(&session.output, session.draws, &title);
    let mut follower = Follower { session, path: TaskPath { task: task.id() }, stream: None };
    let mut interrupts = interrupts()?;
    let mut task = task;
    let (mut asked, mut accepted) = (false, false);
    while !task.status.state.is_terminal() && task.status.state != TaskState::Stuck {
        show(&task, &mut progress);
        tokio::select! {
            // Cancel-safe: the follower keeps its stream between calls.
            next = follower.next() => task = next?,
            _ = interrupts.recv() => {
                if asked {
                    return Err(left_behind(&task));
                }
                asked = true;
                accepted = cancel(session, &follower.path, &progress).await?;
            }
        }
    }
    drop(progress);
    Ok((ended(task)?, accepted))
}

/// Asks for the undoing of a task. One that has ended, or is past the point of no return, goes its
/// way: `false`.
async fn cancel(session: &Session, path: &TaskPath, progress: &Progress) -> Result<bool, CliError> {
    match session.call::<Cancel>(path, &NoParams {}, ()).await {
        Ok(_) => {
            progress.say("cancelling; Ctrl-C again leaves it to the server");
            Ok(true)
        }
        Err(error) if error.exit() == Exit::Conflict => {
            progress.say(&format!("{error}; Ctrl-C again leaves it to the server"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What a VM's state says of what is waited for: it is there, it never will be, or it is not yet.
type Judge = fn(Vm) -> Result<Option<Vm>, CliError>;

/// Waits until a VM's guest has come as far as `judge` wants it.
///
/// # Errors
/// The VM has stopped or failed meanwhile, or somebody pressed Ctrl-C.
async fn guest(
    session: &Session,
    path: &VmPath,
    activity: &str,
    judge: Judge,
) -> Result<Vm, CliError> {
    let name = session.call::<VmShow>(path, &NoParams {}, ()).await?.metadata.name;
    let title = format!("vm {name}");
    let mut progress = Progress::new(&session.output, session.draws, &title);
    progress.activity(activity, None);
    // Waiting for a task may have taken Ctrl-C from the system: nobody else answers to it any more.
    let mut interrupts = interrupts()?;
    tokio::select! {
        verdict = persist(async || follow_guest(session, path, judge).await) => verdict?,
        _ = interrupts.recv() => {
            let message = format!("interrupted while {activity} of vm {name}");
            Err(CliError::new(Exit::Interrupted, message).hint(format!(
                "what was ordered goes on: see `hostler vm show {name}`"
            )))
        }
    }
}

/// Follows a stream to what is waited for: again when it breaks (`None`), until the server has been
/// away for too long.
pub(crate) async fn persist<T>(
    mut follow: impl AsyncFnMut() -> Result<Option<T>, ClientError>,
) -> Result<T, CliError> {
    let mut lost = None;
    loop {
        match follow().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => lost = None,
            Err(error) => {
                let since = *lost.get_or_insert_with(Instant::now);
                if !is_passing(&error) || since.elapsed() > AWAY {
                    return Err(error.into());
                }
            }
        }
        // A server that ends each stream at once must not be asked without a pause.
        tokio::time::sleep(pause(lost.unwrap_or_else(Instant::now))).await;
    }
}

/// Follows a VM to the verdict on its guest, or until the stream breaks (`None`). What was missed
/// meanwhile is in the VM's state at the beginning.
async fn follow_guest(
    session: &Session,
    path: &VmPath,
    judge: Judge,
) -> Result<Option<Result<Vm, CliError>>, ClientError> {
    let client = &session.connection.client;
    let vm = client.call::<VmShow>(path, &NoParams {}, ()).await?;
    let query = WatchQuery { after: Some(vm.metadata.revision.0), kind: vec![KindName::Vm] };
    let (id, name) = (vm.id().untyped(), vm.metadata.name.clone());
    if let Some(verdict) = judge(vm).transpose() {
        return Ok(Some(verdict));
    }
    let mut changes = client.call::<ChangeWatch>(&NoParams {}, &query, ()).await?;
    while let Some(Ok(change)) = changes.next().await {
        if change.data.id != id {
            continue;
        }
        let verdict = match change.data.new.map(serde_json::from_value) {
            Some(Ok(vm)) => judge(vm).transpose(),
            // From a newer server, perhaps: its state is asked for anew.
            Some(Err(_)) => return Ok(None),
            None => Some(Err(CliError::new(Exit::NotFound, format!("vm {name} has been deleted")))),
        };
        if verdict.is_some() {
            return Ok(verdict);
        }
    }
    Ok(None)
}

/// The VM, when its guest answers; an error, when it never will.
fn judge(vm: Vm) -> Result<Option<Vm>, CliError> {
    let power = vm.status.power;
    match power {
        PowerState::Running if vm.status.guest.as_ref().is_some_and(|guest| guest.agent) => {
            Ok(Some(vm))
        }
        PowerState::Stopped | PowerState::Failed | PowerState::Suspended => {
            let why = vm.status.message.map(|why| format!(": {why}")).unwrap_or_default();
            let message =
                format!("vm {} is {power}, so no guest agent answers{why}", vm.metadata.name);
            Err(CliError::new(Exit::Failed, message)
                .hint(format!("see `hostler vm log {}`", vm.metadata.name)))
        }
        PowerState::Running
        | PowerState::Creating
        | PowerState::Starting
        | PowerState::Paused
        | PowerState::Stopping
        | PowerState::Suspending
        | PowerState::Unknown => Ok(None),
    }
}

/// The VM, when its guest has proved its customization; an error, when it never will.
fn judge_customized(vm: Vm) -> Result<Option<Vm>, CliError> {
    let name = &vm.metadata.name;
    let Some(customization) = &vm.spec.customization else {
        return Err(CliError::new(Exit::Usage, format!("vm {name} has no customization")));
    };
    let status = vm.status.customization.as_ref();
    let status = status.filter(|status| status.run == customization.run);
    match status.map(|status| status.state) {
        Some(CustomizationState::Applied) => return Ok(Some(vm)),
        Some(CustomizationState::Failed) => {
            let why = status.and_then(|status| status.reason.clone()).unwrap_or_default();
            let message = format!("the guest of vm {name} could not be customized: {why}");
            return Err(CliError::new(Exit::Failed, message).hint(format!(
                "see `hostler vm log {name}`; once the cause is gone: `hostler vm customize {name} --reboot`"
            )));
        }
        Some(CustomizationState::Pending) | None => {}
    }
    // That it answers is not enough here, but that it never will is.
    judge(vm).map(|_| None)
}

/// A task's stream of states, taken up again when it breaks.
struct Follower<'a> {
    session: &'a Session,
    path: TaskPath,
    stream: Option<EventStream<Task>>,
}

impl Follower<'_> {
    async fn next(&mut self) -> Result<Task, CliError> {
        let begin = Instant::now();
        loop {
            if let Some(stream) = &mut self.stream
                && let Some(Ok(item)) = stream.next().await
            {
                return Ok(item.data);
            }
            self.stream = None;
            let client = &self.session.connection.client;
            match client.call::<TaskWatch>(&self.path, &NoParams {}, ()).await {
                Ok(stream) => self.stream = Some(stream),
                Err(error) if !is_passing(&error) || begin.elapsed() > AWAY => {
                    return Err(error.into());
                }
                Err(_) => {}
            }
            // Each stream begins with the state of now, so the first one needs no pause.
            if begin.elapsed() > Duration::from_millis(100) {
                tokio::time::sleep(pause(begin)).await;
            }
        }
    }
}

/// The server is away or restarts: worth another try.
pub(crate) fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(problem) => problem.status == 503,
        ClientError::Connect { .. } | ClientError::Timeout { .. } | ClientError::Broken { .. } => {
            true
        }
        ClientError::Protocol { .. } | ClientError::Request(_) => false,
    }
}

/// Longer the longer it takes: 50 ms to 2 s.
fn pause(begin: Instant) -> Duration {
    (begin.elapsed() / 4).clamp(Duration::from_millis(50), Duration::from_secs(2))
}

fn show(task: &Task, progress: &mut Progress) {
    let status = &task.status;
    let activity = match status.state {
        TaskState::Undoing => "undoing",
        TaskState::Pending => "waiting for its turn",
        _ => status.progress.activity.as_deref().unwrap_or_default(),
    };
    progress.activity(activity, status.progress.percent);
}

/// Ctrl-C from now on: the process is no longer ended by it.
pub(crate) fn interrupts() -> Result<tokio::signal::unix::Signal, CliError> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|error| CliError::new(Exit::Failed, format!("cannot wait for Ctrl-C: {error}")))
}

/// What a task's end means.
pub(crate) fn ended(task: Task) -> Result<Task, CliError> {
    let status = &task.status;
    let title = format!("{} {}", task.spec.action, task.spec.target);
    let id = task.id();
    match status.state {
        TaskState::Cancelled => Err(CliError::new(
            Exit::Interrupted,
            format!("{title} was cancelled, and what it had done is undone"),
        )),
        TaskState::Failed => {
            let exit = Exit::of_code(status.error_code.as_deref());
            let error = status.error.clone().unwrap_or_else(|| format!("{title} failed"));
            Err(CliError::new(exit, error).hint(format!("`hostler task show {id}` has its steps")))
        }
        TaskState::Stuck => {
            let why = status.stuck.as_ref().or(status.error.as_ref()).cloned().unwrap_or_default();
            Err(CliError::new(Exit::Failed, format!("{title} cannot be undone: {why}")).hint(
                format!(
                    "remove the cause and `hostler task retry {id}`, or `hostler task abandon {id}`"
                ),
            ))
        }
        TaskState::Pending | TaskState::Running | TaskState::Undoing | TaskState::Done => Ok(task),
    }
}

fn left_behind(task: &Task) -> CliError {
    let message = format!("{} {} goes on", task.spec.action, task.spec.target);
    CliError::new(Exit::Interrupted, message)
        .hint(format!("follow it with `hostler task watch {}`", task.id()))
}
