//! `hostler datastore`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::datastore::{self, DatastoreCreate, DatastoreListQuery, DatastorePath};
use hostler_endpoint::NoParams;
use hostler_types::{Datastore, DatastoreState, Name, Ref};

use crate::error::CliError;
use crate::input::Label;
use crate::names::Names;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::terminal::confirm;
use crate::time;

/// Datastores: directories of hosts that hold images and VMs
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler datastore list
  hostler datastore create fast --path /mnt/nvme/hostler"
)]
pub(crate) struct DatastoreArgs {
    #[command(subcommand)]
    command: DatastoreCommand,
}

#[derive(Debug, Subcommand)]
enum DatastoreCommand {
    /// List datastores
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler datastore list")]
    List(List),

    /// Show a datastore
    #[command(after_help = "Examples:\n  hostler datastore show local")]
    Show(Which),

    Create(Create),

    /// Forget a datastore that holds nothing of the inventory; its files stay
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  hostler datastore delete fast --yes"
    )]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct List {
    /// Only datastores of this host
    #[arg(long, value_name = "HOST")]
    host: Option<Ref>,
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the datastore
    #[arg(value_name = "DATASTORE")]
    datastore: Ref,
}

/// Make a datastore of a host's directory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler datastore create fast --path /mnt/nvme/hostler
  hostler datastore create fast --path /mnt/nvme/hostler --host host02")]
struct Create {
    /// Name for the datastore
    #[arg(value_name = "NAME")]
    name: Name,

    /// Directory on the host: empty, or one that was a datastore before
    #[arg(long, value_name = "DIR")]
    path: String,

    /// Host that has the directory [default: the only one]
    #[arg(long, value_name = "HOST")]
    host: Option<Ref>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl DatastoreArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            DatastoreCommand::List(list) => list.run(session).await?,
            DatastoreCommand::Show(which) => {
                let path = DatastorePath { datastore: which.datastore };
                let datastore = session.call::<datastore::Show>(&path, &NoParams {}, ());
                let (datastore, names) = futures::try_join!(datastore, Names::hosts(session))?;
                print(session, &datastore, &names)?;
            }
            DatastoreCommand::Create(create) => create.run(session).await?,
            DatastoreCommand::Delete(delete) => {
                let name = delete.which.datastore.to_string();
                confirm(delete.yes, &format!("Forget the datastore {name}? Its files stay."))?;
                let path = DatastorePath { datastore: delete.which.datastore };
                session.call::<datastore::Delete>(&path, &NoParams {}, ()).await?;
                session.output.done("forgotten", "datastore", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = DatastoreListQuery { host: self.host, ..DatastoreListQuery::default() };
        let page = session.call::<datastore::List>(&NoParams {}, &query, ());
        let (page, names) = futures::try_join!(page, Names::hosts(session))?;
        session.output.list(
            &page.items,
            &Listing {
                header: &["NAME", "STATE", "HOST", "FREE", "CAPACITY", "PATH"],
                empty: "no datastores",
                name: &|datastore| datastore.metadata.name.to_string(),
                row: &|datastore| {
                    vec![
                        Cell::new(datastore.metadata.name.as_str()),
                        state(datastore),
                        names.cell(datastore.spec.host),
                        Cell::number(datastore.status.free),
                        Cell::number(datastore.status.capacity),
                        Cell::new(&datastore.spec.path),
                    ]
                },
            },
        )
    }
}

fn state(datastore: &Datastore) -> Cell {
    match datastore.status.state {
        DatastoreState::Ready => Cell::new("ready").tone(Tone::Good),
        DatastoreState::Missing => Cell::new("missing").tone(Tone::Bad),
    }
}

fn print(session: &Session, datastore: &Datastore, names: &Names) -> Result<(), CliError> {
    let fields = || {
        let one = |text: String| vec![Cell::new(text)];
        let status = &datastore.status;
        let labels = datastore.metadata.labels.iter();
        let mut fields = vec![
            ("Name", one(datastore.metadata.name.to_string())),
            ("Id", one(datastore.metadata.id.to_string())),
            ("Labels", labels.map(|(key, value)| Cell::new(format!("{key}={value}"))).collect()),
            ("State", vec![state(datastore)]),
            ("Message", status.message.iter().map(Cell::new).collect()),
            ("Host", one(names.of(datastore.spec.host))),
            ("Path", one(datastore.spec.path.clone())),
            ("Capacity", one(status.capacity.to_string())),
            ("Free", one(status.free.to_string())),
            ("Created", one(time::show(datastore.metadata.created_at))),
        ];
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(datastore, datastore.metadata.name.as_str(), fields)
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = DatastoreCreate {
            name: self.name,
            labels: self.labels.iter().map(Label::pair).collect(),
            host: self.host,
            path: self.path,
        };
        let call =
            session.call_with::<datastore::Create>(&NoParams {}, &NoParams {}, request, once());
        let datastore = call.await?;
        session.output.done("created", "datastore", datastore.metadata.name.as_str(), &datastore)
    }
}
