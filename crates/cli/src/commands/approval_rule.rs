//! `hostler approval-rule`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hostler_api::approval_rule::{self, ApprovalRuleCreate, ApprovalRulePath};
use hostler_endpoint::{CallOptions, NoParams, PageQuery};
use hostler_types::{
    ApprovalConditions, ApprovalNeed, ApprovalRule, ApprovalRuleSpec, ByteSize, Cores, Name, Ref,
    Role,
};

use crate::error::CliError;
use crate::input::{self, Label};
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;

/// Approval rules: who has to agree to which requests
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
All rules that fit a request count; where none fits, the server's default (one admin) does.
A rule for no approval fits no request with a template, a customization spec, a bridged network,
scripts in the guest, chosen addresses, or a chosen host or datastore, unless it names them.

Examples:
  hostler approval-rule create small --max-cpus 2 --max-memory 4GiB --approvals 0
  hostler approval-rule create large --min-cpus 16 --approvals 2 --role operator
  hostler approval-rule create production --label env=prod --approver carl --approver dora
  hostler approval-rule create golden --template golden --max-cpus 2 --approvals 0
  hostler approval-rule list"
)]
pub(crate) struct ApprovalRuleArgs {
    #[command(subcommand)]
    command: ApprovalRuleCommand,
}

#[derive(Debug, Subcommand)]
enum ApprovalRuleCommand {
    /// List approval rules
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler approval-rule list")]
    List,

    /// Show an approval rule
    #[command(after_help = "Examples:\n  hostler approval-rule show large")]
    Show(Which),

    Create(Box<Create>),

    Set(Box<Set>),

    /// Delete an approval rule
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  hostler approval-rule delete large --yes"
    )]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the rule
    #[arg(value_name = "RULE")]
    rule: Ref,
}

/// Make an approval rule
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler approval-rule create small --max-cpus 2 --max-memory 4GiB --approvals 0
  hostler approval-rule create large --min-cpus 16 --approvals 2 --role operator
  hostler approval-rule create production --label env=prod --approver carl --approver dora")]
struct Create {
    /// Name for the rule
    #[arg(value_name = "NAME")]
    name: Name,

    #[command(flatten)]
    flags: Flags,
}

/// Change an approval rule; what is not given stays. Lists are given anew as a whole
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler approval-rule set large --approvals 3")]
struct Set {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Flags {
    /// How many people have to agree, 0 to 10; 0: nobody [default: 1]
    #[arg(long, value_name = "COUNT")]
    approvals: Option<u32>,

    /// The least role of those who agree [default: admin]
    #[arg(long, value_enum, value_name = "ROLE")]
    role: Option<RoleArg>,

    /// Only this user may agree; repeat it for several [default: everyone with the role]
    #[arg(long = "approver", value_name = "USER")]
    approvers: Vec<Name>,

    /// Whether whoever asks may agree, too [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    self_approval: Option<bool>,

    /// For VMs with this label; repeat it for several
    #[arg(
        long = "label",
        short = 'l',
        value_name = "KEY=VALUE",
        help_heading = "For which requests"
    )]
    labels: Vec<Label>,

    /// For VMs from this image; repeat it for several, of which one is enough
    #[arg(long = "image", value_name = "IMAGE", help_heading = "For which requests")]
    images: Vec<Name>,

    /// For VMs from this template; repeat it for several, of which one is enough
    #[arg(long = "template", value_name = "TEMPLATE", help_heading = "For which requests")]
    templates: Vec<Name>,

    /// For VMs with this customization spec; repeat it for several, of which one is enough
    #[arg(long = "spec", value_name = "SPEC", help_heading = "For which requests")]
    customization_specs: Vec<Name>,

    /// For VMs in this network; repeat it for several, of which one is enough
    #[arg(long = "network", value_name = "NETWORK", help_heading = "For which requests")]
    networks: Vec<Name>,

    /// For requests that run commands or scripts in the guest, also by user data, packages or
    /// `--set run=` [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "For which requests"
    )]
    scripts: Option<bool>,

    /// For requests that choose a MAC, a static address, or the guest's network configuration
    /// [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "For which requests"
    )]
    addresses: Option<bool>,

    /// For requests that choose a host, a datastore, a pool, shares or a reservation [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "For which requests"
    )]
    placement: Option<bool>,

    /// For requests by this user; repeat it for several, of which one is enough
    #[arg(long = "requester", value_name = "USER", help_heading = "For which requests")]
    requesters: Vec<Name>,

    /// From so many CPUs on
    #[arg(long, value_name = "COUNT", value_parser = input::cores, help_heading = "For which requests")]
    min_cpus: Option<Cores>,

    /// Up to so many CPUs
    #[arg(long, value_name = "COUNT", value_parser = input::cores, help_heading = "For which requests")]
    max_cpus: Option<Cores>,

    /// From so much memory on
    #[arg(long, value_name = "SIZE", help_heading = "For which requests")]
    min_memory: Option<ByteSize>,

    /// Up to so much memory
    #[arg(long, value_name = "SIZE", help_heading = "For which requests")]
    max_memory: Option<ByteSize>,

    /// From this size of all disks together on
    #[arg(long, value_name = "SIZE", help_heading = "For which requests")]
    min_disk: Option<ByteSize>,

    /// Up to this size of all disks together
    #[arg(long, value_name = "SIZE", help_heading = "For which requests")]
    max_disk: Option<ByteSize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    Viewer,
    Operator,
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

impl Flags {
    /// `before` with what is given laid over it.
    fn over(self, before: ApprovalRuleSpec) -> ApprovalRuleSpec {
        let (when, need) = (before.when, before.need);
        let list = |new: Vec<Name>, old| if new.is_empty() { old } else { new };
        let selector = match self.labels.as_slice() {
            [] => when.selector,
            labels => labels.iter().map(Label::pair).collect(),
        };
        ApprovalRuleSpec {
            when: ApprovalConditions {
                selector,
                images: list(self.images, when.images),
                templates: list(self.templates, when.templates),
                customization_specs: list(self.customization_specs, when.customization_specs),
                networks: list(self.networks, when.networks),
                scripts: self.scripts.unwrap_or(when.scripts),
                addresses: self.addresses.unwrap_or(when.addresses),
                placement: self.placement.unwrap_or(when.placement),
                requesters: list(self.requesters, when.requesters),
                min_cpus: self.min_cpus.or(when.min_cpus),
                max_cpus: self.max_cpus.or(when.max_cpus),
                min_memory: self.min_memory.or(when.min_memory),
                max_memory: self.max_memory.or(when.max_memory),
                min_disk: self.min_disk.or(when.min_disk),
                max_disk: self.max_disk.or(when.max_disk),
            },
            need: ApprovalNeed {
                approvals: self.approvals.unwrap_or(need.approvals),
                role: self.role.map_or(need.role, Role::from),
                approvers: list(self.approvers, need.approvers),
                self_approval: self.self_approval.unwrap_or(need.self_approval),
            },
        }
    }
}

impl ApprovalRuleArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            ApprovalRuleCommand::List => list(session).await?,
            ApprovalRuleCommand::Show(which) => {
                let rule = show(session, which.rule).await?;
                session.output.object(&rule, rule.metadata.name.as_str(), || fields(&rule))?;
            }
            ApprovalRuleCommand::Create(create) => {
                let spec = create.flags.over(ApprovalRuleSpec::default());
                let request = ApprovalRuleCreate { name: create.name, spec };
                let call =
                    session.call_with::<approval_rule::Create>(&none, &none, request, once());
                let rule = call.await?;
                let name = rule.metadata.name.as_str();
                session.output.done("created", "approval-rule", name, &rule)?;
            }
            ApprovalRuleCommand::Set(set) => {
                let old = show(session, set.which.rule).await?;
                let path = ApprovalRulePath { rule: old.reference() };
                let if_match = Some(old.metadata.revision.0);
                let options = CallOptions { if_match, ..CallOptions::default() };
                let spec = set.flags.over(old.spec);
                let call = session.call_with::<approval_rule::Update>(&path, &none, spec, options);
                let rule = call.await?;
                let name = rule.metadata.name.as_str();
                session.output.done("changed", "approval-rule", name, &rule)?;
            }
            ApprovalRuleCommand::Delete(delete) => {
                let name = delete.which.rule.to_string();
                confirm(delete.yes, &format!("Delete the approval rule {name}?"))?;
                let path = ApprovalRulePath { rule: delete.which.rule };
                session.call::<approval_rule::Delete>(&path, &none, ()).await?;
                session.output.done("deleted", "approval-rule", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn show(session: &Session, rule: Ref) -> Result<ApprovalRule, CliError> {
    let path = ApprovalRulePath { rule };
    session.call::<approval_rule::Show>(&path, &NoParams {}, ()).await
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = PageQuery::default();
    let page = session.call::<approval_rule::List>(&NoParams {}, &query, ()).await?;
    session.output.list(
        &page.items,
        &Listing {
            header: &["NAME", "FOR", "APPROVALS", "BY", "SELF"],
            empty: "no approval rules",
            name: &|rule| rule.metadata.name.to_string(),
            row: &|rule| {
                let need = &rule.spec.need;
                vec![
                    Cell::new(rule.metadata.name.as_str()),
                    Cell::new(conditions(&rule.spec.when)),
                    Cell::number(need.approvals),
                    Cell::new(approvers(need)),
                    Cell::new(if need.self_approval { "yes" } else { "no" }),
                ]
            },
        },
    )
}

fn fields(rule: &ApprovalRule) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let need = &rule.spec.need;
    vec![
        ("Name", one(rule.metadata.name.to_string())),
        ("Id", one(rule.metadata.id.to_string())),
        ("For", one(conditions(&rule.spec.when))),
        ("Approvals", one(need.approvals.to_string())),
        ("By", one(approvers(need))),
        ("Self", one(if need.self_approval { "yes" } else { "no" }.to_owned())),
    ]
}

fn approvers(need: &ApprovalNeed) -> String {
    match need.approvers.as_slice() {
        [] => format!("{} or more", need.role),
        users => users.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn conditions(when: &ApprovalConditions) -> String {
    let mut parts: Vec<String> =
        when.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let names = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join("|");
    let lists = [
        ("image", &when.images),
        ("template", &when.templates),
        ("spec", &when.customization_specs),
        ("network", &when.networks),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    parts.extend(given.map(|(what, list)| format!("{what} {}", names(list))));
    let flags = [
        ("with scripts in the guest", when.scripts),
        ("with chosen addresses", when.addresses),
        ("with a chosen host, datastore or resources", when.placement),
    ];
    parts.extend(flags.into_iter().filter(|(_, wanted)| *wanted).map(|(what, _)| what.to_owned()));
    if !when.requesters.is_empty() {
        parts.push(format!("asked for by {}", names(&when.requesters)));
    }
    let bounds = [
        (
            "CPUs",
            when.min_cpus.map(|n| n.count().to_string()),
            when.max_cpus.map(|n| n.count().to_string()),
        ),
        ("memory", when.min_memory.map(|n| n.to_string()), when.max_memory.map(|n| n.to_string())),
        ("disk", when.min_disk.map(|n| n.to_string()), when.max_disk.map(|n| n.to_string())),
    ];
    for (what, least, most) in bounds {
        match (least, most) {
            (Some(least), Some(most)) => parts.push(format!("{least} to {most} {what}")),
            (Some(least), None) => parts.push(format!("from {least} {what}")),
            (None, Some(most)) => parts.push(format!("up to {most} {what}")),
            (None, None) => {}
        }
    }
    if parts.is_empty() { "every request".to_owned() } else { parts.join(", ") }
}
