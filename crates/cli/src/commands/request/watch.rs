//! `hostler request watch`: what happens to a request, line by line, to its end.

use futures::StreamExt as _;
use hostler_api::event::{Watch, WatchQuery};
use hostler_api::request::{RequestPath, Show};
use hostler_endpoint::{ClientError, NoParams};
use hostler_types::{KindName, Request, RequestState, StepState, Task};
use jiff::Timestamp;

use super::{done, sentence};
use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::{time, wait};

pub(super) async fn run(session: &Session, path: &RequestPath) -> Result<(), CliError> {
    let mut teller = Teller { session, last: String::new() };
    let request = wait::persist(async || follow(session, path, &mut teller).await).await?;
    ended(session, &request)
}

/// The request at its end, or `None` when the stream broke.
async fn follow(
    session: &Session,
    path: &RequestPath,
    teller: &mut Teller<'_>,
) -> Result<Option<Request>, ClientError> {
    let client = &session.connection.client;
    let mut request = client.call::<Show>(path, &NoParams {}, ()).await?;
    let query = WatchQuery {
        after: Some(request.metadata.revision.0),
        kind: vec![KindName::Request, KindName::Task],
    };
    let mut changes = client.call::<Watch>(&NoParams {}, &query, ()).await?;
    teller.request(&request);
    while request.status.state.is_open() {
        let Some(Ok(change)) = changes.next().await else { return Ok(None) };
        let Some(new) = change.data.new else { continue };
        match change.data.kind {
            KindName::Request if change.data.id == request.id().untyped() => {
                // From a newer server, perhaps: its state is asked for anew.
                let Ok(changed) = serde_json::from_value(new) else { return Ok(None) };
                request = changed;
                teller.request(&request);
            }
            KindName::Task => {
                let task: Option<Task> = serde_json::from_value(new).ok();
                let own = request.status.progress.task;
                let ours = |task: &Task| Some(task.id()) == own || task.spec.parent == own;
                if let Some(task) = task.filter(|task| own.is_some() && ours(task)) {
                    teller.task(&task);
                }
            }
            _ => {}
        }
    }
    Ok(Some(request))
}

/// Tells each thing once, to people.
struct Teller<'a> {
    session: &'a Session,
    last: String,
}

impl Teller<'_> {
    fn request(&mut self, request: &Request) {
        self.tell(format!("{}: {}", request.status.state.as_str(), sentence(request)));
    }

    fn task(&mut self, task: &Task) {
        let step = task.status.steps.iter().rfind(|step| step.state != StepState::Waiting);
        let what = match (&task.spec.parent, step) {
            (None, Some(step)) => format!("{} {:?}", step.name, step.state).to_lowercase(),
            _ => format!("{} {} {}", task.spec.action, task.spec.target, task.status.state),
        };
        self.tell(format!("  {what}"));
    }

    fn tell(&mut self, line: String) {
        if self.last != line {
            self.session.output.remark(&format!("{} {line}", time::show(Timestamp::now())));
            self.last = line;
        }
    }
}

fn ended(session: &Session, request: &Request) -> Result<(), CliError> {
    let name = &request.metadata.name;
    let (exit, what) = match &request.status.state {
        RequestState::Failed { .. } | RequestState::Rejected { .. } => {
            (Exit::Failed, request.status.state.as_str())
        }
        RequestState::Expired => (Exit::Timeout, "expired"),
        RequestState::Cancelled { .. } => (Exit::Interrupted, "cancelled"),
        RequestState::Delivered { .. }
        | RequestState::Pending { .. }
        | RequestState::Approved
        | RequestState::Provisioning { .. } => return done(session, "delivered", request),
    };
    let message = format!("request {name} is {what}: {}", sentence(request));
    let hint = match exit {
        Exit::Failed => format!("see `hostler request show {name}`"),
        _ => "ask for it again with `hostler request create`".to_owned(),
    };
    Err(CliError::new(exit, message).hint(hint))
}
