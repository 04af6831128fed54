//! `hostler datastore`.

mod check;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::datastore::{
    self, DatastoreCreate, DatastoreListQuery, DatastorePath, DatastoreUpdate,
};
use hostler_api::host::{self, HostPath};
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{
    Datastore, DatastoreLimits, DatastoreState, DatastoreUsage, HostId, Name, Ref, StorageKind,
    counted,
};

use crate::error::{CliError, Exit};
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

    Set(Set),

    Check(check::Check),

    /// Forget a datastore that holds nothing of the inventory; its directory can be used again
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

impl Which {
    fn path(&self) -> DatastorePath {
        DatastorePath { datastore: self.datastore.clone() }
    }
}

/// Make a datastore of a host's directory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler datastore create fast --path /mnt/nvme/hostler
  hostler datastore create fast --path /mnt/nvme/hostler --host host02
  hostler datastore create nfs --shared --path /mnt/nfs/hostler --host host01 --host host02")]
struct Create {
    /// Name for the datastore
    #[arg(value_name = "NAME")]
    name: Name,

    /// Directory on the host: empty, or one that was a datastore before
    #[arg(long, value_name = "DIR")]
    path: String,

    /// The directory is on a shared file system, such as NFS, that several hosts have mounted
    #[arg(long)]
    shared: bool,

    /// Host that has the directory; with --shared, repeat it for several [default: the only one]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Ref>,

    #[command(flatten)]
    limits: LimitOptions,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

/// From when on it warns, and refuses new disks.
#[derive(Debug, Clone, Copy, Args)]
struct LimitOptions {
    /// Warn when so many percent are full [default: 85]
    #[arg(long, value_name = "PERCENT")]
    warn: Option<u8>,

    /// Take no new disks when so many percent are full [default: 97]
    #[arg(long, value_name = "PERCENT")]
    refuse: Option<u8>,

    /// The sizes of all disks together may be so many percent of the capacity [default: any]
    #[arg(long, value_name = "PERCENT")]
    overcommit: Option<u32>,
}

impl LimitOptions {
    fn is_empty(self) -> bool {
        self.warn.is_none() && self.refuse.is_none() && self.overcommit.is_none()
    }

    fn on(self, limits: DatastoreLimits) -> DatastoreLimits {
        DatastoreLimits {
            warn_percent: self.warn.unwrap_or(limits.warn_percent),
            refuse_percent: self.refuse.unwrap_or(limits.refuse_percent),
            overcommit_percent: self.overcommit.or(limits.overcommit_percent),
        }
    }
}

/// Change a datastore: limits, maintenance, hosts, labels
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler datastore set fast --maintenance
  hostler datastore set fast --no-maintenance --warn 80 --refuse 95 --overcommit 200
  hostler datastore set nfs --add-host host03")]
struct Set {
    #[command(flatten)]
    which: Which,

    /// Take no new disks and images; what is there goes on
    #[arg(long, conflicts_with = "no_maintenance")]
    maintenance: bool,

    /// Take new disks and images again
    #[arg(long)]
    no_maintenance: bool,

    #[command(flatten)]
    limits: LimitOptions,

    /// Let the sizes of all disks together be as large as they like
    #[arg(long, conflicts_with = "overcommit")]
    no_overcommit_limit: bool,

    /// A further host that has a shared one mounted; repeat it for several
    #[arg(long = "add-host", value_name = "HOST")]
    add: Vec<Ref>,

    /// A host that no longer has a shared one; repeat it for several
    #[arg(long = "remove-host", value_name = "HOST")]
    remove: Vec<Ref>,

    /// Label to add or change; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// Label to take away; repeat it for several
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = DatastorePath { datastore: self.which.datastore.clone() };
        // What is replaced as a whole must still be as it was read.
        let before = session.call::<datastore::Show>(&path, &NoParams {}, ()).await?;
        let update = self.update(session, &before).await?;
        if update == DatastoreUpdate::default() {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler datastore set --help`"));
        }
        let options = CallOptions { if_match: Some(before.metadata.revision.0), ..once() };
        let call = session.call_with::<datastore::Update>(&path, &NoParams {}, update, options);
        let datastore = call.await?;
        session.output.done("changed", "datastore", datastore.metadata.name.as_str(), &datastore)
    }

    async fn update(
        &self,
        session: &Session,
        before: &Datastore,
    ) -> Result<DatastoreUpdate, CliError> {
        let mut limits = self.limits.on(before.spec.limits);
        if self.no_overcommit_limit {
            limits.overcommit_percent = None;
        }
        let limits = (!self.limits.is_empty() || self.no_overcommit_limit).then_some(limits);
        let mut update = DatastoreUpdate {
            maintenance: (self.maintenance || self.no_maintenance).then_some(self.maintenance),
            limits,
            ..DatastoreUpdate::default()
        };
        if !self.labels.is_empty() || !self.unlabels.is_empty() {
            let mut labels = before.metadata.labels.clone();
            labels.retain(|key, _| !self.unlabels.contains(key));
            labels.extend(self.labels.iter().map(Label::pair));
            update.labels = Some(labels);
        }
        if !self.add.is_empty() || !self.remove.is_empty() {
            let mut hosts: Vec<Ref> =
                before.spec.hosts.iter().map(|host| Ref::by_id(*host)).collect();
            for host in &self.remove {
                let path = HostPath { host: host.clone() };
                let host = session.call::<host::Show>(&path, &NoParams {}, ()).await?;
                hosts.retain(|known| *known != Ref::by_id(host.metadata.id));
            }
            hosts.extend(self.add.iter().cloned());
            update.hosts = Some(hosts);
        }
        Ok(update)
    }
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
            DatastoreCommand::Set(set) => set.run(session).await?,
            DatastoreCommand::Check(check) => return check.run(session).await,
            DatastoreCommand::Delete(delete) => {
                let name = delete.which.datastore.to_string();
                confirm(
                    delete.yes,
                    &format!("Forget the datastore {name}? Files that nobody owns stay."),
                )?;
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
        if session.output.is_table() {
            for datastore in &page.items {
                let warnings = datastore.status.usage.iter().flat_map(|usage| &usage.warnings);
                for warning in warnings {
                    let name = &datastore.metadata.name;
                    session.output.remark(&format!("warning: datastore {name} {warning}"));
                }
            }
        }
        session.output.list(
            &page.items,
            &Listing {
                header: &[
                    "NAME",
                    "KIND",
                    "STATE",
                    "HOST",
                    "USED",
                    "FREE",
                    "CAPACITY",
                    "PROVISIONED",
                    "PATH",
                ],
                empty: "no datastores",
                name: &|datastore| datastore.metadata.name.to_string(),
                row: &|datastore| {
                    vec![
                        Cell::new(datastore.metadata.name.as_str()),
                        Cell::new(datastore.spec.kind.as_str()),
                        state(datastore),
                        hosts(datastore, &names),
                        used(datastore),
                        Cell::number(datastore.status.free),
                        Cell::number(datastore.status.capacity),
                        provisioned(datastore),
                        Cell::new(&datastore.spec.path),
                    ]
                },
            },
        )
    }
}

fn state(datastore: &Datastore) -> Cell {
    match datastore.status.state {
        DatastoreState::Missing => Cell::new("missing").tone(Tone::Bad),
        DatastoreState::Ready if datastore.spec.maintenance => {
            Cell::new("maintenance").tone(Tone::Busy)
        }
        DatastoreState::Ready => Cell::new("ready").tone(Tone::Good),
    }
}

/// The first host, and how many more there are.
fn hosts(datastore: &Datastore, names: &Names) -> Cell {
    match datastore.spec.hosts.len() {
        0 => names.cell(datastore.spec.host),
        more => Cell::new(format!("{} +{more}", names.of(datastore.spec.host))),
    }
}

fn used(datastore: &Datastore) -> Cell {
    let (percent, limits) = (datastore.status.used_percent(), datastore.spec.limits);
    let cell = Cell::number(format!("{percent}%"));
    if percent >= u64::from(limits.refuse_percent) {
        cell.tone(Tone::Bad)
    } else if percent >= u64::from(limits.warn_percent) {
        cell.tone(Tone::Busy)
    } else {
        cell
    }
}

/// The sizes of all disks together, and their part of the capacity.
fn provisioned(datastore: &Datastore) -> Cell {
    let Some(usage) = &datastore.status.usage else { return Cell::maybe(None::<String>) };
    let capacity = u128::from(datastore.status.capacity.0.max(1));
    let percent = u128::from(usage.provisioned.0) * 100 / capacity;
    Cell::number(format!("{} ({percent}%)", usage.provisioned))
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
            ("Kind", one(datastore.spec.kind.as_str().to_owned())),
            (
                "Hosts",
                datastore.spec.all_hosts().map(|host| on_host(datastore, host, names)).collect(),
            ),
            ("Path", one(datastore.spec.path.clone())),
            ("Capacity", one(status.capacity.to_string())),
            ("Free", one(status.free.to_string())),
            ("Used", vec![used(datastore)]),
            ("Provisioned", vec![provisioned(datastore)]),
            ("Holds", status.usage.iter().map(holds).collect()),
            ("Warnings", warnings(datastore)),
            ("Limits", one(limits(datastore.spec.limits))),
            ("Created", one(time::show(datastore.metadata.created_at))),
        ];
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(datastore, datastore.metadata.name.as_str(), fields)
}

fn on_host(datastore: &Datastore, host: HostId, names: &Names) -> Cell {
    let told = datastore.status.hosts.iter().find(|told| told.host == host);
    let name = names.of(host);
    match told {
        Some(told) if told.state == DatastoreState::Missing => {
            let why = told.message.as_deref().unwrap_or("missing");
            Cell::new(format!("{name}: {why}")).tone(Tone::Bad)
        }
        _ => Cell::new(name),
    }
}

/// What to worry about.
fn warnings(datastore: &Datastore) -> Vec<Cell> {
    let warnings = datastore.status.usage.iter().flat_map(|usage| &usage.warnings);
    warnings.map(|warning| Cell::new(warning).tone(Tone::Busy)).collect()
}

fn holds(usage: &DatastoreUsage) -> Cell {
    Cell::new(format!("{}, {}", counted(usage.vms, "VM"), counted(usage.images, "image")))
}

fn limits(limits: DatastoreLimits) -> String {
    let overcommit = limits.overcommit_percent;
    let overcommit = overcommit.map(|percent| format!(", {percent}% provisioned"));
    let DatastoreLimits { warn_percent, refuse_percent, .. } = limits;
    format!("warns at {warn_percent}%, no new disks from {refuse_percent}%")
        + &overcommit.unwrap_or_default()
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = DatastoreCreate {
            name: self.name,
            labels: self.labels.iter().map(Label::pair).collect(),
            host: None,
            hosts: self.hosts,
            kind: if self.shared { StorageKind::Shared } else { StorageKind::Local },
            limits: self.limits.on(DatastoreLimits::default()),
            path: self.path,
        };
        let call =
            session.call_with::<datastore::Create>(&NoParams {}, &NoParams {}, request, once());
        let datastore = call.await?;
        session.output.done("created", "datastore", datastore.metadata.name.as_str(), &datastore)
    }
}
