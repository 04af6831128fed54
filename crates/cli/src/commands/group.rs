//! `hostler group`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::group::{self, GroupCreate, GroupPath, GroupUpdate};
use hostler_endpoint::{CallOptions, NoParams, PageQuery};
use hostler_types::{Group, GroupOf, GroupSpec, Labels, Name, Ref, Selector};

use crate::error::{CliError, Exit};
use crate::input::Label;
use crate::names::Names;
use crate::output::Listing;
use crate::selector;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;

/// Groups of VMs or hosts, which placement rules name as one
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler group create oracle --vm db01 --vm db02
  hostler group create licensed --host-label licence=oracle
  hostler rule create licence run-on --vm-group oracle --host-group licensed"
)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List groups
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler group list")]
    List,

    /// Show a group
    #[command(visible_alias = "get", after_help = "Examples:\n  hostler group show oracle")]
    Show(Which),

    Create(Create),

    Set(Set),

    /// Delete a group that no rule names
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler group delete oracle --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the group
    #[arg(value_name = "GROUP")]
    group: Ref,
}

impl Which {
    fn path(&self) -> GroupPath {
        GroupPath { group: self.group.clone() }
    }
}

/// Who belongs to it: VMs or hosts, by names or by labels.
#[derive(Debug, Args)]
struct Members {
    /// VM, by name or id; repeat it for several
    #[arg(long = "vm", value_name = "VM", group = "members")]
    vms: Vec<Ref>,

    /// VMs with this label, also those to come; repeat it: all of them
    #[arg(long = "vm-label", value_name = "KEY=VALUE", group = "members")]
    vm_labels: Vec<Label>,

    /// Host, by name or id; repeat it for several
    #[arg(long = "host", value_name = "HOST", group = "members")]
    hosts: Vec<Ref>,

    /// Hosts with this label; repeat it: all of them
    #[arg(long = "host-label", value_name = "KEY=VALUE", group = "members")]
    host_labels: Vec<Label>,
}

impl Members {
    fn said(&self) -> Option<(GroupOf, Selector)> {
        let vms = selector::selector(&self.vms, None, &self.vm_labels);
        let hosts = selector::selector(&self.hosts, None, &self.host_labels);
        let vms = vms.map(|members| (GroupOf::Vms, members));
        vms.or_else(|| hosts.map(|members| (GroupOf::Hosts, members)))
    }
}

/// Make a group of VMs or of hosts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler group create oracle --vm db01 --vm db02
  hostler group create web --vm-label tier=web
  hostler group create licensed --host host01 --host host02")]
struct Create {
    /// Name for the group
    #[arg(value_name = "NAME")]
    name: Name,

    #[command(flatten)]
    members: Members,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
}

/// Change a group: its members anew, or its description
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler group set oracle --vm db01 --vm db02 --vm db03")]
struct Set {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    members: Members,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl GroupArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            GroupCommand::List => list(session).await?,
            GroupCommand::Show(which) => {
                let group = session.call::<group::Show>(&which.path(), &none, ()).await?;
                let names = Names::around_rules(session).await?;
                let name = group.metadata.name.as_str();
                session.output.object(&group, name, || fields(&group, &names))?;
            }
            GroupCommand::Create(create) => create.run(session).await?,
            GroupCommand::Set(set) => set.run(session).await?,
            GroupCommand::Delete(delete) => {
                let name = delete.which.group.to_string();
                confirm(delete.yes, &format!("Delete the group {name}?"))?;
                session.call::<group::Delete>(&delete.which.path(), &none, ()).await?;
                session.output.done("deleted", "group", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = PageQuery::default();
    let page = session.call::<group::List>(&NoParams {}, &query, ()).await?;
    let names = Names::around_rules(session).await?;
    session.output.list(
        &page.items,
        &Listing {
            header: &["NAME", "OF", "MEMBERS"],
            empty: "no groups",
            name: &|group| group.metadata.name.to_string(),
            row: &|group| {
                vec![
                    Cell::new(group.metadata.name.as_str()),
                    Cell::new(group.spec.of.as_str()),
                    Cell::new(selector::told(&group.spec.members, &names)),
                ]
            },
        },
    )
}

fn fields(group: &Group, names: &Names) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let mut fields = vec![
        ("Name", one(group.metadata.name.to_string())),
        ("Id", one(group.metadata.id.to_string())),
        ("Of", one(group.spec.of.as_str().to_owned())),
        ("Members", one(selector::told(&group.spec.members, names))),
    ];
    if !group.spec.description.is_empty() {
        fields.push(("Description", one(group.spec.description.clone())));
    }
    fields
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let (of, members) = self.members.said().ok_or_else(|| {
            CliError::new(Exit::Usage, "a group needs members")
                .hint("add --vm, --vm-label, --host or --host-label")
        })?;
        let spec = GroupSpec { of, members, description: self.description };
        let request = GroupCreate { name: self.name, labels: Labels::new(), spec };
        let none = NoParams {};
        let group = session.call_with::<group::Create>(&none, &none, request, once()).await?;
        session.output.done("created", "group", group.metadata.name.as_str(), &group)
    }
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let (path, none) = (self.which.path(), NoParams {});
        let before = session.call::<group::Show>(&path, &none, ()).await?;
        let said = self.members.said();
        if let Some((of, _)) = &said
            && *of != before.spec.of
        {
            let message = format!("it is a group of {}", before.spec.of.as_str());
            return Err(CliError::new(Exit::Usage, message).hint("make another group"));
        }
        let update = GroupUpdate {
            members: said.map(|(_, members)| members),
            description: self.description,
        };
        if update == GroupUpdate::default() {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler group set --help`"));
        }
        let options = CallOptions { if_match: Some(before.metadata.revision.0), ..once() };
        let call = session.call_with::<group::Update>(&path, &none, update, options);
        let group = call.await?;
        session.output.done("changed", "group", group.metadata.name.as_str(), &group)
    }
}
