//! `hostler snapshot-policy`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::snapshot_policy::{
    self, SnapshotPolicyCreate, SnapshotPolicyPath, SnapshotPolicyUpdate,
};
use hostler_endpoint::{CallOptions, NoParams, PageQuery};
use hostler_types::{
    ByteSize, Name, QuietWindow, Ref, SnapshotLimits, SnapshotPolicy, SnapshotPolicySpec,
};

use crate::error::{CliError, Exit};
use crate::input::Label;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::snapshot_limits::{self as limits, AtLimitArg, LimitChanges, Setting};
use crate::table::Cell;
use crate::terminal::confirm;
use crate::time;

/// Snapshot policies: how old, how many and how large snapshots may become, and what happens then
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler snapshot-policy create shop --label project=shop --max-age 7d --at-limit refuse
  hostler snapshot-policy create tidy --max-depth 2 --at-limit merge --window 01:00-05:00
  hostler snapshot-policy list

A project is a label that its VMs share: `hostler vm create web01 --label project=shop`, `hostler vm list
--label project=shop`; a policy with `--label project=shop` is about all of them, those to come included.
`hostler vm snapshot list web01` says what counts for a VM, and which policy says so.

Without any policy a snapshot older than 72 h, and more than 3 beneath a VM's disks, are warned about.
What a VM says itself (`hostler vm set web01 --snapshot-max-age 7d`) comes before every policy, and of
several policies that are about a VM the one with the most labels."
)]
pub(crate) struct SnapshotPolicyArgs {
    #[command(subcommand)]
    command: SnapshotPolicyCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotPolicyCommand {
    /// List snapshot policies
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler snapshot-policy list")]
    List,

    /// Show a snapshot policy
    #[command(after_help = "Examples:\n  hostler snapshot-policy show prod")]
    Show(Which),

    Create(Create),

    Set(Set),

    /// Delete a snapshot policy
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  hostler snapshot-policy delete prod --yes"
    )]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the policy
    #[arg(value_name = "POLICY")]
    policy: Ref,
}

impl Which {
    fn path(&self) -> SnapshotPolicyPath {
        SnapshotPolicyPath { policy: self.policy.clone() }
    }
}

/// Make a snapshot policy
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler snapshot-policy create shop --label project=shop --max-age 7d --at-limit refuse
  hostler snapshot-policy create shop-db --label project=shop --label tier=db --max-depth 1
  hostler snapshot-policy create tidy --max-size 50GiB --at-limit merge --window 22:00-05:00")]
struct Create {
    /// Name for the policy
    #[arg(value_name = "NAME")]
    name: Name,

    /// Only for VMs with this label; repeat it for several [default: all VMs]
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    #[command(flatten)]
    limits: LimitArgs,
}

/// Change a snapshot policy
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler snapshot-policy set prod --max-age 14d
  hostler snapshot-policy set prod --max-depth none --at-limit default")]
struct Set {
    #[command(flatten)]
    which: Which,

    /// Only for VMs with this label; repeat it for several. Replaces all labels of the policy
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// For all VMs
    #[arg(long, conflicts_with = "labels")]
    no_label: bool,

    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Args)]
struct LimitArgs {
    /// How old a snapshot may become, such as 12h or 7d; `none`, or `default`
    #[arg(long, value_name = "DURATION", value_parser = limits::age, help_heading = "Limits")]
    max_age: Option<Setting<u64>>,

    /// How many snapshots may lie beneath a VM's disks; `none`, or `default`
    #[arg(long, value_name = "COUNT", value_parser = limits::depth, help_heading = "Limits")]
    max_depth: Option<Setting<u32>>,

    /// How much a VM's snapshots may hold, such as 50GiB; `none`, or `default`
    #[arg(long, value_name = "SIZE", value_parser = limits::size, help_heading = "Limits")]
    max_size: Option<Setting<ByteSize>>,

    /// What happens at a limit
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Limits")]
    at_limit: Option<AtLimitArg>,

    /// When merging is allowed, in the server's local time, such as 01:00-05:00; `none`: at any time
    #[arg(long, value_name = "FROM-TO", value_parser = limits::window, help_heading = "Limits")]
    window: Option<Setting<QuietWindow>>,
}

impl LimitArgs {
    const fn changes(&self) -> LimitChanges {
        LimitChanges {
            max_age: self.max_age,
            max_depth: self.max_depth,
            max_size: self.max_size,
            at_limit: self.at_limit,
            window: self.window,
        }
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

impl SnapshotPolicyArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            SnapshotPolicyCommand::List => list(session).await?,
            SnapshotPolicyCommand::Show(which) => {
                let path = which.path();
                let policy = session.call::<snapshot_policy::Show>(&path, &none, ()).await?;
                let name = policy.metadata.name.as_str();
                session.output.object(&policy, name, || fields(&policy))?;
            }
            SnapshotPolicyCommand::Create(create) => create.run(session).await?,
            SnapshotPolicyCommand::Set(set) => set.run(session).await?,
            SnapshotPolicyCommand::Delete(delete) => {
                let name = delete.which.policy.to_string();
                confirm(delete.yes, &format!("Delete the snapshot policy {name}?"))?;
                let path = delete.which.path();
                session.call::<snapshot_policy::Delete>(&path, &none, ()).await?;
                session.output.done("deleted", "snapshot-policy", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = PageQuery::default();
    let page = session.call::<snapshot_policy::List>(&NoParams {}, &query, ()).await?;
    session.output.list(
        &page.items,
        &Listing {
            header: &["NAME", "LABELS", "AGE", "DEPTH", "SIZE", "AT LIMIT", "WINDOW"],
            empty: "no snapshot policies",
            name: &|policy| policy.metadata.name.to_string(),
            row: &|policy| {
                let limits = &policy.spec.limits;
                let cell = |text: Option<String>| Cell::new(text.unwrap_or_default());
                vec![
                    Cell::new(policy.metadata.name.as_str()),
                    Cell::new(selector(policy)),
                    cell(age(limits)),
                    cell(depth(limits)),
                    cell(size(limits)),
                    Cell::maybe(limits.at_limit.map(|what| what.as_str())),
                    cell(window(limits)),
                ]
            },
        },
    )
}

fn selector(policy: &SnapshotPolicy) -> String {
    let labels: Vec<_> =
        policy.spec.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if labels.is_empty() { "all VMs".to_owned() } else { labels.join(",") }
}

/// A limit of 0 is none.
fn limit(is_none: bool, text: String) -> String {
    if is_none { "none".to_owned() } else { text }
}

fn age(limits: &SnapshotLimits) -> Option<String> {
    limits.max_age_seconds.map(|seconds| limit(seconds == 0, time::span(seconds)))
}

fn depth(limits: &SnapshotLimits) -> Option<String> {
    limits.max_depth.map(|depth| limit(depth == 0, depth.to_string()))
}

fn size(limits: &SnapshotLimits) -> Option<String> {
    limits.max_size.map(|size| limit(size.bytes() == 0, size.to_string()))
}

fn window(limits: &SnapshotLimits) -> Option<String> {
    limits.window.map(|window| window.to_string())
}

fn fields(policy: &SnapshotPolicy) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let limits = &policy.spec.limits;
    // What is not said is left to the next in line.
    let said = |text: Option<String>| one(text.unwrap_or_else(|| "default".to_owned()));
    vec![
        ("Name", one(policy.metadata.name.to_string())),
        ("Id", one(policy.metadata.id.to_string())),
        ("For", one(selector(policy))),
        ("Age", said(age(limits))),
        ("Depth", said(depth(limits))),
        ("Size", said(size(limits))),
        ("At limit", said(limits.at_limit.map(|what| what.as_str().to_owned()))),
        ("Window", said(window(limits))),
    ]
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let spec = SnapshotPolicySpec {
            selector: self.labels.iter().map(Label::pair).collect(),
            limits: self.limits.changes().applied(SnapshotLimits::default()),
        };
        let request = SnapshotPolicyCreate { name: self.name, spec };
        let none = NoParams {};
        let call = session.call_with::<snapshot_policy::Create>(&none, &none, request, once());
        let policy = call.await?;
        let name = policy.metadata.name.as_str();
        session.output.done("created", "snapshot-policy", name, &policy)
    }
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let changes = self.limits.changes();
        let relabels = self.no_label || !self.labels.is_empty();
        if changes.is_empty() && !relabels {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler snapshot-policy set --help`"));
        }
        let (path, none) = (self.which.path(), NoParams {});
        // Limits are replaced as a whole: what was read must still be there.
        let policy = session.call::<snapshot_policy::Show>(&path, &none, ()).await?;
        let request = SnapshotPolicyUpdate {
            selector: relabels.then(|| self.labels.iter().map(Label::pair).collect()),
            limits: Some(changes.applied(policy.spec.limits)),
        };
        let options = CallOptions { if_match: Some(policy.metadata.revision.0), ..once() };
        let call = session.call_with::<snapshot_policy::Update>(&path, &none, request, options);
        let policy = call.await?;
        let name = policy.metadata.name.as_str();
        session.output.done("changed", "snapshot-policy", name, &policy)
    }
}
