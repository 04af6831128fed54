//! `hostler event`: the change log.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures::StreamExt as _;
use hostler_api::event::{self, Change, ChangeAction, EventListQuery, WatchQuery};
use hostler_endpoint::NoParams;
use hostler_types::{KindName, Ref};

use crate::error::{CliError, Exit};
use crate::options::Format;
use crate::output::{self, Listing};
use crate::session::Session;
use crate::table::{self, Cell, Tone};
use crate::time;

/// Events: who changed what, when, why and through which task
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler event list\n  hostler event list -f --kind vm"
)]
pub(crate) struct EventArgs {
    #[command(subcommand)]
    command: EventCommand,
}

#[derive(Debug, Subcommand)]
enum EventCommand {
    List(List),
}

/// List changes, newest first; with -f the newest last, and then each as it happens
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  hostler event list --limit 20
  hostler event list --kind vm --object web01
  hostler event list -f -o json"
)]
struct List {
    /// Only changes of objects of this kind: vm, host, image, datastore, network, task, user, token
    #[arg(long, value_name = "KIND")]
    kind: Option<KindName>,

    /// Only changes of this object: an id, or a name together with --kind
    #[arg(long, value_name = "OBJECT")]
    object: Option<Ref>,

    /// At most this many
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10000))]
    limit: u32,

    /// With the objects before and after (in JSON and YAML)
    #[arg(long)]
    full: bool,

    /// Go on with changes as they happen; Ctrl-C ends
    #[arg(short, long)]
    follow: bool,
}

impl EventArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            EventCommand::List(list) if list.follow => list.follow(session).await?,
            EventCommand::List(list) => {
                let page = session.call::<event::List>(&NoParams {}, &list.query(), ()).await?;
                print(session, page.items)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn query(&self) -> EventListQuery {
        EventListQuery {
            limit: Some(self.limit),
            after: None,
            kind: self.kind,
            object: self.object.clone(),
            full: self.full,
        }
    }

    async fn follow(self, session: &Session) -> Result<(), CliError> {
        let page = session.call::<event::List>(&NoParams {}, &self.query(), ()).await?;
        for change in &page.items {
            self.tell(session, change)?;
        }
        let mut after = page.revision;
        loop {
            let query = WatchQuery { after: Some(after), kind: self.kind.into_iter().collect() };
            let mut changes = session.call::<event::Watch>(&NoParams {}, &query, ()).await?;
            let mut moved = false;
            while let Some(item) = changes.next().await {
                // A stream that broke is taken up where it stopped.
                let Ok(item) = item else { break };
                (after, moved) = (item.id, true);
                if self.wants(&item.data) {
                    self.tell(session, &item.data)?;
                }
            }
            if !moved {
                return Err(CliError::new(Exit::CannotConnect, "the event stream has ended")
                    .hint("is the server still running?"));
            }
        }
    }

    fn wants(&self, change: &Change) -> bool {
        match &self.object {
            None => true,
            Some(Ref::Id(id)) => change.id.uuid() == *id,
            Some(Ref::Name(name)) => change.name == *name,
        }
    }

    /// One change as a line, so that programs can read the stream.
    fn tell(&self, session: &Session, change: &Change) -> Result<(), CliError> {
        match session.output.format {
            Format::Json => {
                let line = serde_json::to_string(&self.cut(change)).unwrap_or_default();
                output::print(&format!("{line}\n"))
            }
            Format::Yaml => {
                output::print("---\n")?;
                session.output.data(&self.cut(change))
            }
            Format::Name => output::print(&format!("{}\n", change.revision)),
            Format::Table => {
                let rows = [row(change)];
                let text = table::render(&[""; 6], &rows, session.output.is_colored());
                // Without the empty header.
                output::print(text.split_once('\n').map_or(text.as_str(), |(_, rest)| rest))
            }
        }
    }

    /// The stream always has the objects; shown only when asked for, as in the list.
    fn cut(&self, change: &Change) -> Change {
        let mut change = change.clone();
        if !self.full {
            (change.old, change.new) = (None, None);
        }
        change
    }
}

/// Changes as a table, newest first.
pub(crate) fn print(session: &Session, mut changes: Vec<Change>) -> Result<(), CliError> {
    changes.sort_by_key(|change| std::cmp::Reverse(change.revision));
    session.output.list(
        &changes,
        &Listing {
            header: &["AT", "OBJECT", "CHANGE", "ACTOR", "REASON", "TASK"],
            empty: "no changes",
            name: &|change| change.revision.to_string(),
            row: &row,
        },
    )
}

fn row(change: &Change) -> Vec<Cell> {
    let tone = match change.action {
        ChangeAction::Created => Tone::Good,
        ChangeAction::Changed => Tone::Plain,
        ChangeAction::Deleted => Tone::Bad,
    };
    vec![
        Cell::new(time::show(change.at)),
        Cell::new(format!("{}/{}", change.kind, change.name)),
        Cell::new(change.action.as_str()).tone(tone),
        Cell::new(&change.actor),
        Cell::new(&change.reason),
        Cell::maybe(change.task).tone(Tone::Dim),
    ]
}
