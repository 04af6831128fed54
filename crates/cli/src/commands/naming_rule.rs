//! `hostler naming-rule`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::naming_rule::{self, NamingRuleCreate, NamingRulePath};
use hostler_endpoint::{NoParams, PageQuery};
use hostler_types::{Name, NamingRule, NamingRuleSpec, Ref};

use crate::error::CliError;
use crate::input::Label;
use crate::output::{Listing, print};
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;

/// Naming rules: what VMs may be called, and names that are counted up
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler naming-rule create web --label tier=web --pattern web-[0-9]+ --template web-{nn}
  hostler naming-rule next web
  hostler naming-rule list"
)]
pub(crate) struct NamingRuleArgs {
    #[command(subcommand)]
    command: NamingRuleCommand,
}

#[derive(Debug, Subcommand)]
enum NamingRuleCommand {
    /// List naming rules
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler naming-rule list")]
    List,

    /// Show a naming rule
    #[command(after_help = "Examples:\n  hostler naming-rule show web")]
    Show(Which),

    Create(Create),

    /// Print the next name of a rule, which is given to nobody else
    #[command(after_help = "Examples:\n  hostler naming-rule next web")]
    Next(Which),

    /// Delete a naming rule; VMs keep their names
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  hostler naming-rule delete web --yes"
    )]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the rule
    #[arg(value_name = "RULE")]
    rule: Ref,
}

/// Make a naming rule; VMs that there are keep their names
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler naming-rule create all --pattern [a-z]+-[0-9]+
  hostler naming-rule create web --label tier=web --pattern web-[0-9]+ --template web-{nn}")]
struct Create {
    /// Name for the rule
    #[arg(value_name = "NAME")]
    name: Name,

    /// Regular expression that the whole name of a VM must match
    #[arg(long, value_name = "REGEX")]
    pattern: String,

    /// How names are counted up, such as web-{nn}: as many digits as there are n, at least
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,

    /// Only for VMs with this label; repeat it for several [default: all VMs]
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

impl NamingRuleArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            NamingRuleCommand::List => list(session).await?,
            NamingRuleCommand::Show(which) => {
                let path = NamingRulePath { rule: which.rule };
                let rule = session.call::<naming_rule::Show>(&path, &none, ()).await?;
                session.output.object(&rule, rule.metadata.name.as_str(), || fields(&rule))?;
            }
            NamingRuleCommand::Create(create) => create.run(session).await?,
            NamingRuleCommand::Next(which) => {
                let path = NamingRulePath { rule: which.rule };
                let taken =
                    session.call_with::<naming_rule::Next>(&path, &none, (), once()).await?;
                if session.output.is_table() {
                    print(&format!("{}\n", taken.name))?;
                } else {
                    session.output.object(&taken, taken.name.as_str(), Vec::new)?;
                }
            }
            NamingRuleCommand::Delete(delete) => {
                let name = delete.which.rule.to_string();
                confirm(delete.yes, &format!("Delete the naming rule {name}?"))?;
                let path = NamingRulePath { rule: delete.which.rule };
                session.call::<naming_rule::Delete>(&path, &none, ()).await?;
                session.output.done("deleted", "naming-rule", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = PageQuery::default();
    let page = session.call::<naming_rule::List>(&NoParams {}, &query, ()).await?;
    session.output.list(
        &page.items,
        &Listing {
            header: &["NAME", "LABELS", "PATTERN", "TEMPLATE", "LAST"],
            empty: "no naming rules",
            name: &|rule| rule.metadata.name.to_string(),
            row: &|rule| {
                vec![
                    Cell::new(rule.metadata.name.as_str()),
                    Cell::new(selector(rule)),
                    Cell::new(&rule.spec.pattern),
                    Cell::maybe(rule.spec.template.as_ref()),
                    Cell::number(rule.status.last),
                ]
            },
        },
    )
}

fn selector(rule: &NamingRule) -> String {
    let labels: Vec<_> =
        rule.spec.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if labels.is_empty() { "all VMs".to_owned() } else { labels.join(",") }
}

fn fields(rule: &NamingRule) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    vec![
        ("Name", one(rule.metadata.name.to_string())),
        ("Id", one(rule.metadata.id.to_string())),
        ("For", one(selector(rule))),
        ("Pattern", one(rule.spec.pattern.clone())),
        ("Template", rule.spec.template.iter().map(Cell::new).collect()),
        ("Last number", one(rule.status.last.to_string())),
    ]
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let spec = NamingRuleSpec {
            selector: self.labels.iter().map(Label::pair).collect(),
            pattern: self.pattern,
            template: self.template,
        };
        let request = NamingRuleCreate { name: self.name, spec };
        let none = NoParams {};
        let call = session.call_with::<naming_rule::Create>(&none, &none, request, once());
        let rule = call.await?;
        session.output.done("created", "naming-rule", rule.metadata.name.as_str(), &rule)
    }
}
