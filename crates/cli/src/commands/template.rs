//! `hostler template`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::template::{self, TemplateListQuery, TemplatePath, ToVmRequest};
use hostler_endpoint::NoParams;
use hostler_types::{
    Name, Ref, Seal, Task, Template, TemplateCreate, TemplateRef, TemplateUpdate, TemplateVersion,
    counted,
};
use jiff::Timestamp;

use crate::error::CliError;
use crate::input::Label;
use crate::names::Names;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;
use crate::time;
use crate::wait::{self, WaitOptions};

/// Templates: what VMs are made from, in versions
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler template create debian-12 --from web01 --move
  hostler template seal debian-12
  hostler vm create web02 --template debian-12 --start
  hostler template show debian-12:1"
)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
enum TemplateCommand {
    Create(Create),

    List(List),

    /// Show a template, or one of its versions with all that was sealed
    #[command(after_help = "\
Examples:
  hostler template show debian-12
  hostler template show debian-12:3")]
    Show(Which),

    /// List the versions of a template
    #[command(after_help = "Examples:\n  hostler template versions debian-12")]
    Versions(Which),

    Set(Set),

    Seal(SealTemplate),

    ToVm(ToVm),

    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the template; with `:3`, that version of it
    #[arg(value_name = "TEMPLATE[:VERSION]")]
    template: TemplateRef,
}

impl Which {
    fn path(&self) -> TemplatePath {
        TemplatePath { template: self.template.clone() }
    }
}

/// Make the first, or next, version of a template from a VM
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler template create debian-12 --from web01
  hostler template create debian-12 --from web02 --move --description 'with the July updates'")]
struct Create {
    /// Name for the template, or the name of one that gets another version
    #[arg(value_name = "NAME")]
    name: Name,

    /// VM to make it from
    #[arg(long, value_name = "VM")]
    from: Ref,

    /// Copy nothing: the VM, which is off, becomes the version and is no VM any more (see `hostler
    /// template to-vm`)
    #[arg(long = "move")]
    moves: bool,

    /// What this version is, in words; what the template is for: `hostler template set`
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,

    /// Label of the template; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    #[command(flatten)]
    wait: WaitOptions,
}

/// List templates
#[derive(Debug, Args)]
#[command(visible_alias = "ls", after_help = "Examples:\n  hostler template list")]
struct List {
    /// Only those with this label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY[=VALUE]")]
    labels: Vec<String>,
}

/// Change a template's description or labels
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler template set debian-12 --description 'for web servers'
  hostler template set debian-12 --label tier=web")]
struct Set {
    /// Name or id of the template
    #[arg(value_name = "TEMPLATE")]
    template: Ref,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Label; all of them anew, repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

/// Take out of a version's guest what must not be the same in two machines, without starting it
///
/// SSH host keys, machine id, network rules, DHCP leases, logs, shell history, cloud-init state,
/// package caches, random seed, temporary files. What went is listed, and kept with the version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler template seal debian-12
  hostler template seal debian-12:3")]
struct SealTemplate {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    wait: WaitOptions,
}

/// Make a version of a template a VM again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler template to-vm debian-12
  hostler template to-vm debian-12:3 --name web01")]
struct ToVm {
    #[command(flatten)]
    which: Which,

    /// What the VM is called [default: as it was]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    #[command(flatten)]
    wait: WaitOptions,
}

/// Delete a template with all its versions, or one of them, for good
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  hostler template delete debian-12
  hostler template delete debian-12:2 --yes"
)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl TemplateArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            TemplateCommand::Create(create) => create.run(session).await?,
            TemplateCommand::List(list) => list.run(session).await?,
            TemplateCommand::Show(which) => show(session, &which).await?,
            TemplateCommand::Versions(which) => versions(session, &which).await?,
            TemplateCommand::Set(set) => set.run(session).await?,
            TemplateCommand::Seal(seal) => seal.run(session).await?,
            TemplateCommand::ToVm(to_vm) => to_vm.run(session).await?,
            TemplateCommand::Delete(delete) => delete.run(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn get(session: &Session, path: &TemplatePath) -> Result<Template, CliError> {
    session.call::<template::Show>(path, &NoParams {}, ()).await
}

/// Sees a task on a template through, and says what was done: the template as it is then.
async fn finish(
    session: &Session,
    task: Task,
    wait: &WaitOptions,
    verb: &str,
    path: &TemplatePath,
) -> Result<(), CliError> {
    if !wait.waits() {
        return super::task::print_ordered(session, &task);
    }
    let task = wait::task(session, task).await?;
    let name = task.spec.target.split_once('/').map_or("", |(_, name)| name).to_owned();
    let template = get(session, path).await?;
    session.output.done(verb, "template", &name, &template)
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let template = TemplateRef { template: Ref::Name(self.name.clone()), version: None };
        let request = TemplateCreate {
            name: self.name,
            vm: self.from,
            moves: self.moves,
            description: self.description,
            labels: self.labels.iter().map(Label::pair).collect(),
        };
        let none = NoParams {};
        let call = session.call_with::<template::Create>(&none, &none, request, once());
        let task = call.await?;
        finish(session, task, &self.wait, "created", &TemplatePath { template }).await
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let mut query = TemplateListQuery { label: self.labels, ..TemplateListQuery::default() };
        let mut templates = Vec::new();
        loop {
            let page = session.call::<template::List>(&NoParams {}, &query, ()).await?;
            templates.extend(page.items);
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        let now = Timestamp::now();
        session.output.list(
            &templates,
            &Listing {
                header: &["NAME", "VERSIONS", "LATEST", "MADE", "SEALED", "USED BY", "DESCRIPTION"],
                empty: "no templates",
                name: &|template| template.metadata.name.to_string(),
                row: &|template| {
                    let versions = &template.status.versions;
                    let latest = versions.last();
                    let users: usize = versions.iter().map(|version| version.used_by.len()).sum();
                    vec![
                        Cell::new(template.metadata.name.as_str()),
                        Cell::number(versions.len()),
                        Cell::maybe(latest.map(|version| version.version)),
                        Cell::maybe(latest.map(|v| format!("{} ago", time::age(v.at, now)))),
                        Cell::maybe(latest.map(sealed)),
                        Cell::number(users),
                        Cell::new(described(template)),
                    ]
                },
            },
        )
    }
}

/// What it is for; where nobody has said that, what its latest version is.
fn described(template: &Template) -> &str {
    match (template.spec.description.as_str(), template.status.versions.last()) {
        ("", Some(latest)) => &latest.description,
        (description, _) => description,
    }
}

fn sealed(version: &TemplateVersion) -> &'static str {
    if version.seal.is_some() { "yes" } else { "no" }
}

async fn versions(session: &Session, which: &Which) -> Result<(), CliError> {
    let path = which.path();
    let (template, names) = futures::try_join!(get(session, &path), Names::datastores(session))?;
    let now = Timestamp::now();
    let name = template.metadata.name.to_string();
    session.output.list(
        &template.status.versions,
        &Listing {
            header: &[
                "VERSION",
                "MADE",
                "BY",
                "FROM",
                "SEALED",
                "DATASTORE",
                "USED BY",
                "DESCRIPTION",
            ],
            empty: "no versions",
            name: &|version| format!("{name}:{}", version.version),
            row: &|version| {
                vec![
                    Cell::number(version.version),
                    Cell::new(format!("{} ago", time::age(version.at, now))),
                    Cell::new(&version.by),
                    Cell::new(version.made_from.as_str()),
                    Cell::new(sealed(version)),
                    names.cell(version.datastore),
                    Cell::number(version.used_by.len()),
                    Cell::new(&version.description),
                ]
            },
        },
    )
}

async fn show(session: &Session, which: &Which) -> Result<(), CliError> {
    let template = get(session, &which.path()).await?;
    let name = template.metadata.name.as_str();
    session.output.object(&template, name, || fields(&template))
}

fn fields(template: &Template) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let labels = template.metadata.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let mut fields = vec![
        ("Name", one(template.metadata.name.to_string())),
        ("Id", one(template.metadata.id.to_string())),
        ("Description", one(template.spec.description.clone())),
        ("Labels", labels.map(Cell::new).collect()),
    ];
    for version in &template.status.versions {
        fields.extend(version_fields(version));
    }
    fields
}

fn version_fields(version: &TemplateVersion) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let disks = version.disks.iter().map(|disk| {
        let written = disk.allocated.map(|size| format!(", {size} written")).unwrap_or_default();
        Cell::new(format!("{}: {}{written}", disk.name, disk.size))
    });
    let users = version.used_by.iter().map(|user| Cell::new(user.name.as_str()));
    let described = match version.description.as_str() {
        "" => version.version.to_string(),
        description => format!("{}: {description}", version.version),
    };
    vec![
        ("Version", one(described)),
        (
            "Made",
            one(format!(
                "{} by {}, from {}",
                time::show(version.at),
                version.by,
                version.made_from
            )),
        ),
        (
            "Hardware",
            one(format!(
                "{}, {}, {}",
                counted(version.cpus, "CPU"),
                version.memory,
                version.firmware.as_str()
            )),
        ),
        ("Disks", disks.collect()),
        ("Used by", users.collect()),
        ("Sealed", version.seal.as_ref().map_or_else(|| one("no".to_owned()), seal_cells)),
    ]
}

/// What was sealed: how, and all that went.
pub(crate) fn seal_cells(seal: &Seal) -> Vec<Cell> {
    let head = format!("{} ({}): {}", time::show(seal.at), seal.way.as_str(), seal.os);
    let removed = seal.removed.iter().map(|removed| {
        let files = match removed.files {
            0 | 1 => String::new(),
            files => format!(", {files} files"),
        };
        format!("{}: {} ({}{files})", removed.what, removed.path, removed.size)
    });
    [head].into_iter().chain(removed).map(Cell::new).collect()
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let labels: hostler_types::Labels = self.labels.iter().map(Label::pair).collect();
        let request = TemplateUpdate {
            description: self.description,
            labels: (!labels.is_empty()).then_some(labels),
        };
        let path =
            TemplatePath { template: TemplateRef { template: self.template, version: None } };
        let template = session.call::<template::Update>(&path, &NoParams {}, request).await?;
        session.output.done("changed", "template", template.metadata.name.as_str(), &template)
    }
}

impl SealTemplate {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.which.path();
        let none = NoParams {};
        let task = session.call_with::<template::Seal>(&path, &none, (), once()).await?;
        if !self.wait.waits() {
            return super::task::print_ordered(session, &task);
        }
        let task = wait::task(session, task).await?;
        // As it was ordered: by now there may be a later one.
        let sealed = task.spec.target.split_once('/').and_then(|(_, name)| name.parse().ok());
        let template =
            get(session, &sealed.map_or(path, |template| TemplatePath { template })).await?;
        if session.output.is_table()
            && let Some(seal) = template.status.versions.last().and_then(|v| v.seal.as_ref())
        {
            tell(session, seal);
        }
        let name = task.spec.target.split_once('/').map_or("", |(_, name)| name);
        session.output.done("sealed", "template", name, &template)
    }
}

/// What went, one line each.
pub(crate) fn tell(session: &Session, seal: &Seal) {
    for removed in &seal.removed {
        session.output.remark(&format!("removed {}: {}", removed.what, removed.path));
    }
}

impl ToVm {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = ToVmRequest { name: self.name };
        let path = self.which.path();
        let none = NoParams {};
        let task = session.call_with::<template::ToVm>(&path, &none, request, once()).await?;
        if !self.wait.waits() {
            return super::task::print_ordered(session, &task);
        }
        let task = wait::task(session, task).await?;
        let name = task.spec.target.strip_prefix("vm/").unwrap_or(&task.spec.target).to_owned();
        session.output.done("is a VM again", "vm", &name, &task)
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.which.path();
        let shown = get(session, &path).await?;
        let name = self.which.template.to_string();
        let question = match self.which.template.version {
            Some(_) => format!("Delete {name} and all data on its disks?"),
            None => format!(
                "Delete the template {name} with {} and all data on their disks?",
                counted(shown.status.versions.len(), "version")
            ),
        };
        confirm(self.yes, &question)?;
        let none = NoParams {};
        let task = session.call_with::<template::Delete>(&path, &none, (), once()).await?;
        if !self.wait.waits() {
            return super::task::print_ordered(session, &task);
        }
        let task = wait::task(session, task).await?;
        session.output.done("deleted", "template", &name, &task)
    }
}
