//! `hostler rule`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hostler_api::rule::{self, RuleCreate, RulePath, RuleUpdate};
use hostler_endpoint::{CallOptions, NoParams, PageQuery};
use hostler_types::{Labels, Name, Ref, Rule, RuleRelation, RuleSpec, RuleStrength};

use crate::error::{CliError, Exit};
use crate::names::Names;
use crate::output::Listing;
use crate::selector::{self, HostSelector, VmSelector};
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::terminal::confirm;

/// Placement rules: which VMs belong together or apart, and on which hosts
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler rule create apart anti-affinity --vm web01 --vm web02
  hostler rule create racks anti-affinity --vm-label tier=db --scope rack --should
  hostler rule create licence run-on --vm-group oracle --host-label licence=oracle
  hostler rule violations

A rule that must hold is never broken by placement; one that should hold is kept where that is
possible. VMs that are there already stay where they are, and are told as violations."
)]
pub(crate) struct RuleArgs {
    #[command(subcommand)]
    command: RuleCommand,
}

#[derive(Debug, Subcommand)]
enum RuleCommand {
    /// List rules
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler rule list")]
    List,

    /// Show a rule
    #[command(visible_alias = "get", after_help = "Examples:\n  hostler rule show apart")]
    Show(Which),

    Create(Create),

    Set(Set),

    /// Delete a rule; VMs stay where they are
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler rule delete apart --yes")]
    Delete(Delete),

    /// List the rules that do not hold now
    #[command(after_help = "Examples:\n  hostler rule violations")]
    Violations,
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the rule
    #[arg(value_name = "RULE")]
    rule: Ref,
}

impl Which {
    fn path(&self) -> RulePath {
        RulePath { rule: self.rule.clone() }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RelationArg {
    /// All on one host, or on hosts with the same value of the label --scope
    Affinity,
    /// No two on one host, or on hosts with the same value of the label --scope
    AntiAffinity,
    /// Only on these hosts
    RunOn,
    /// Not on these hosts
    NotRunOn,
}

impl From<RelationArg> for RuleRelation {
    fn from(relation: RelationArg) -> Self {
        match relation {
            RelationArg::Affinity => Self::Affinity,
            RelationArg::AntiAffinity => Self::AntiAffinity,
            RelationArg::RunOn => Self::RunOn,
            RelationArg::NotRunOn => Self::NotRunOn,
        }
    }
}

#[derive(Debug, Args)]
struct Strength {
    /// It is never broken by placement [default]
    #[arg(long, conflicts_with = "should")]
    must: bool,

    /// It is kept where that is possible
    #[arg(long)]
    should: bool,
}

impl Strength {
    const fn said(&self) -> Option<RuleStrength> {
        match (self.must, self.should) {
            (true, _) => Some(RuleStrength::Must),
            (_, true) => Some(RuleStrength::Should),
            _ => None,
        }
    }
}

/// Make a rule
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler rule create apart anti-affinity --vm web01 --vm web02
  hostler rule create near affinity --vm-label app=shop --scope rack --should
  hostler rule create licence run-on --vm-group oracle --host host01 --host host02
  hostler rule create noisy not-run-on --vm-label noisy=yes --host-group quiet

Rules that cannot hold together are refused, with the smallest set of them.")]
struct Create {
    /// Name for the rule
    #[arg(value_name = "NAME")]
    name: Name,

    /// What it says of its VMs
    #[arg(value_enum, value_name = "RELATION")]
    relation: RelationArg,

    #[command(flatten)]
    vms: VmSelector,

    #[command(flatten)]
    hosts: HostSelector,

    /// Label of hosts, such as rack: those with the same value count as one place
    #[arg(long, value_name = "LABEL")]
    scope: Option<String>,

    #[command(flatten)]
    strength: Strength,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
}

/// Change a rule; what is not said stays
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler rule set apart --should
  hostler rule set apart --vm web01 --vm web02 --vm web03
  hostler rule set racks --scope room")]
struct Set {
    #[command(flatten)]
    which: Which,

    /// What it says of its VMs
    #[arg(long, value_enum, value_name = "RELATION")]
    relation: Option<RelationArg>,

    #[command(flatten)]
    vms: VmSelector,

    #[command(flatten)]
    hosts: HostSelector,

    /// Label of hosts; those with the same value count as one place
    #[arg(long, value_name = "LABEL")]
    scope: Option<String>,

    /// Each host by itself
    #[arg(long, conflicts_with = "scope")]
    no_scope: bool,

    #[command(flatten)]
    strength: Strength,

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

impl RuleArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            RuleCommand::List => list(session).await?,
            RuleCommand::Show(which) => {
                let rule = session.call::<rule::Show>(&which.path(), &none, ()).await?;
                let names = Names::around_rules(session).await?;
                let name = rule.metadata.name.as_str();
                session.output.object(&rule, name, || fields(&rule, &names))?;
            }
            RuleCommand::Create(create) => create.run(session).await?,
            RuleCommand::Set(set) => set.run(session).await?,
            RuleCommand::Delete(delete) => {
                let name = delete.which.rule.to_string();
                confirm(delete.yes, &format!("Delete the rule {name}?"))?;
                session.call::<rule::Delete>(&delete.which.path(), &none, ()).await?;
                session.output.done("deleted", "rule", &name, &())?;
            }
            RuleCommand::Violations => violations(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = PageQuery::default();
    let page = session.call::<rule::List>(&NoParams {}, &query, ()).await?;
    let names = Names::around_rules(session).await?;
    session.output.list(
        &page.items,
        &Listing {
            header: &["NAME", "STRENGTH", "RELATION", "VMS", "HOSTS", "SCOPE"],
            empty: "no rules",
            name: &|rule| rule.metadata.name.to_string(),
            row: &|rule| {
                let hosts = rule.spec.hosts.as_ref().map(|hosts| selector::told(hosts, &names));
                vec![
                    Cell::new(rule.metadata.name.as_str()),
                    Cell::new(rule.spec.strength.as_str()),
                    Cell::new(rule.spec.relation.as_str()),
                    Cell::new(selector::told(&rule.spec.vms, &names)),
                    Cell::maybe(hosts),
                    Cell::maybe(scope(rule)),
                ]
            },
        },
    )
}

fn scope(rule: &Rule) -> Option<String> {
    let host = (!rule.spec.relation.is_with_hosts()).then(|| "host".to_owned());
    rule.spec.scope.clone().or(host)
}

fn fields(rule: &Rule, names: &Names) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let hosts = rule.spec.hosts.iter().map(|hosts| Cell::new(selector::told(hosts, names)));
    let mut fields = vec![
        ("Name", one(rule.metadata.name.to_string())),
        ("Id", one(rule.metadata.id.to_string())),
        ("Strength", one(rule.spec.strength.as_str().to_owned())),
        ("Relation", one(rule.spec.relation.as_str().to_owned())),
        ("VMs", one(selector::told(&rule.spec.vms, names))),
        ("Hosts", hosts.collect()),
        ("Scope", scope(rule).iter().map(Cell::new).collect()),
        ("Description", one(rule.spec.description.clone())),
    ];
    fields.retain(|(name, values)| {
        !(values.is_empty() || *name == "Description" && rule.spec.description.is_empty())
    });
    fields
}

async fn violations(session: &Session) -> Result<(), CliError> {
    let answer = session.call::<rule::ListViolations>(&NoParams {}, &NoParams {}, ()).await?;
    session.output.list(
        &answer.violations,
        &Listing {
            header: &["RULE", "STRENGTH", "VMS", "WHAT"],
            empty: "all rules hold",
            name: &|violation| violation.rule.clone(),
            row: &|violation| {
                let tone = match violation.strength {
                    RuleStrength::Must => Tone::Bad,
                    RuleStrength::Should => Tone::Busy,
                };
                vec![
                    Cell::new(&violation.rule),
                    Cell::new(violation.strength.as_str()).tone(tone),
                    Cell::new(violation.vms.join(",")),
                    Cell::new(&violation.sentence),
                ]
            },
        },
    )
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let vms = self.vms.selector().ok_or_else(|| {
            CliError::new(Exit::Usage, "a rule needs to say which VMs it is about")
                .hint("add --vm, --vm-group or --vm-label")
        })?;
        let spec = RuleSpec {
            relation: self.relation.into(),
            strength: self.strength.said().unwrap_or_default(),
            vms,
            hosts: self.hosts.selector(),
            scope: self.scope,
            description: self.description,
        };
        let request = RuleCreate { name: self.name, labels: Labels::new(), spec };
        let none = NoParams {};
        let rule = session.call_with::<rule::Create>(&none, &none, request, once()).await?;
        session.output.done("created", "rule", rule.metadata.name.as_str(), &rule)
    }
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let update = RuleUpdate {
            relation: self.relation.map(RuleRelation::from),
            strength: self.strength.said(),
            vms: self.vms.selector(),
            hosts: self.hosts.selector(),
            scope: self.scope.or_else(|| self.no_scope.then(String::new)),
            description: self.description,
        };
        if update == RuleUpdate::default() {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler rule set --help`"));
        }
        let (path, none) = (self.which.path(), NoParams {});
        let before = session.call::<rule::Show>(&path, &none, ()).await?;
        let options = CallOptions { if_match: Some(before.metadata.revision.0), ..once() };
        let call = session.call_with::<rule::Update>(&path, &none, update, options);
        let rule = call.await?;
        session.output.done("changed", "rule", rule.metadata.name.as_str(), &rule)
    }
}
