//! Snapshots as they are shown: a list, a tree, one of them, a few lines for `vm show`.

use clap::Args;
use hostler_api::snapshot::Show;
use hostler_endpoint::NoParams;
use hostler_types::{
    Consistency, Snapshot, SnapshotId, SnapshotRules, SnapshotTree, Vm, VmSnapshots,
};
use jiff::Timestamp;

use super::{SnapshotName, all, tree};
use crate::commands::vm::VmName;
use crate::error::CliError;
use crate::output::{Listing, print};
use crate::session::Session;
use crate::table::{Cell, Tone, render};
use crate::time::{self, span};

/// List a VM's snapshots, oldest first
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  hostler vm snapshot list web01
  hostler vm snapshot list web01 -o json"
)]
pub(super) struct ListSnapshots {
    #[command(flatten)]
    vm: VmName,
}

impl ListSnapshots {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let found = all(session, &self.vm).await?;
        if !session.output.is_table() {
            return match session.output.format {
                crate::options::Format::Name => print_names(&found),
                _ => session.output.data(&found),
            };
        }
        let (tree, now) = (tree(&found), Timestamp::now());
        let row = |snapshot: &Snapshot| {
            let mut row = vec![Cell::new(&snapshot.name)];
            row.extend(measures(&tree, snapshot, now));
            let current = if found.current == Some(snapshot.id) { "current" } else { "" };
            row.push(Cell::blank(current).tone(Tone::Good));
            row.push(Cell::new(&snapshot.description));
            row
        };
        let listing = Listing {
            header: &["NAME", "AGE", "SIZE", "GROWTH", "KIND", "", "DESCRIPTION"],
            empty: "the vm has no snapshots",
            name: &|snapshot: &Snapshot| snapshot.name.to_string(),
            row: &row,
        };
        session.output.list(&found.snapshots, &listing)?;
        session.output.remark(&limits(&found.rules));
        remark(session, &found);
        Ok(())
    }
}

/// What counts for the VM, and whose word that is: how someone who has labelled it sees which policy
/// took it.
fn limits(rules: &SnapshotRules) -> String {
    let mut limits = Vec::new();
    limits.extend(rules.max_age_seconds.map(|seconds| format!("no older than {}", span(seconds))));
    limits.extend(rules.max_depth.map(|depth| format!("at most {depth} beneath its disks")));
    limits.extend(rules.max_size.map(|size| format!("at most {size}")));
    if limits.is_empty() {
        limits.push("none".to_owned());
    }
    let window = rules.window.map(|window| format!(" in {window}")).unwrap_or_default();
    let (limits, at_limit) = (limits.join(", "), rules.at_limit.as_str());
    format!("limits ({}): {limits}; beyond: {at_limit}{window}", rules.from.join(", "))
}

fn print_names(found: &VmSnapshots) -> Result<(), CliError> {
    print(&found.snapshots.iter().map(|one| format!("{}\n", one.name)).collect::<String>())
}

/// Show which snapshot descends from which, and where the VM is
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm snapshot tree web01")]
pub(super) struct Tree {
    #[command(flatten)]
    vm: VmName,
}

impl Tree {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let found = all(session, &self.vm).await?;
        if !session.output.is_table() {
            return session.output.data(&found);
        }
        if found.snapshots.is_empty() {
            session.output.remark("the vm has no snapshots");
            return Ok(());
        }
        let rows = rows(&tree(&found), Timestamp::now());
        let header = ["SNAPSHOT", "AGE", "SIZE", "GROWTH", "KIND"];
        print(&render(&header, &rows, session.output.is_colored()))?;
        remark(session, &found);
        Ok(())
    }
}

/// What the policy has to say, and whose word that is.
fn remark(session: &Session, found: &VmSnapshots) {
    for warning in &found.warnings {
        session.output.remark(&format!("policy ({}): {warning}", found.rules.from.join(", ")));
    }
}

/// Show a snapshot
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm snapshot show web01 before-upgrade")]
pub(super) struct ShowSnapshot {
    #[command(flatten)]
    snapshot: SnapshotName,
}

impl ShowSnapshot {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let snapshot = session.call::<Show>(&self.snapshot.path(), &NoParams {}, ()).await?;
        let found = match session.output.is_table() {
            true => tree(&all(session, &self.snapshot.vm).await?),
            false => SnapshotTree::default(),
        };
        let now = Timestamp::now();
        let name = snapshot.name.as_str();
        session.output.object(&snapshot, name, || fields(&found, &snapshot, now))
    }
}

fn fields(
    tree: &SnapshotTree,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let parent = snapshot.parent.and_then(|id| tree.get(id));
    let disks = snapshot.disks.iter().map(|disk| {
        let files: Vec<_> = disk.layers.iter().map(|file| file.file_name()).collect();
        Cell::new(format!("{}: {}, {}", disk.name, disk.size, files.join(" on ")))
    });
    let mut fields = vec![
        ("Name", one(snapshot.name.to_string())),
        ("Id", one(snapshot.id.to_string())),
        ("Description", optional(&snapshot.description)),
        (
            "Taken",
            one(format!("{} ({} ago)", time::show(snapshot.at), time::age(snapshot.at, now))),
        ),
        ("By", one(snapshot.by.clone())),
        ("Kind", one(kind(snapshot))),
        ("Parent", parent.map(|parent| Cell::new(&parent.name)).into_iter().collect()),
        (
            "Guest paused",
            snapshot.paused_ms.map(|ms| Cell::new(format!("{ms} ms"))).into_iter().collect(),
        ),
        ("Written since", one(snapshot.written.to_string())),
        ("Growth", one(growth(tree, snapshot, now))),
        ("Memory", snapshot.memory.map(|size| Cell::new(size.to_string())).into_iter().collect()),
        ("Disks", disks.collect()),
    ];
    fields.retain(|(_, values)| !values.is_empty());
    fields
}

fn optional(text: &str) -> Vec<Cell> {
    if text.is_empty() { Vec::new() } else { vec![Cell::new(text)] }
}

/// Age, size, growth and kind.
fn measures(tree: &SnapshotTree, snapshot: &Snapshot, now: Timestamp) -> [Cell; 4] {
    [
        Cell::number(time::age(snapshot.at, now)),
        Cell::number(snapshot.held()),
        Cell::number(growth(tree, snapshot, now)),
        Cell::new(kind(snapshot)),
    ]
}

fn growth(tree: &SnapshotTree, snapshot: &Snapshot, now: Timestamp) -> String {
    let growth = tree.growth_per_day(snapshot, now);
    growth.map_or_else(|| "-".to_owned(), |growth| format!("{growth}/day"))
}

fn kind(snapshot: &Snapshot) -> String {
    let consistency = match snapshot.consistency {
        Consistency::Crash => "crash",
        Consistency::Application => "application",
    };
    let memory = if snapshot.memory.is_some() { ", memory" } else { "" };
    format!("{consistency}{memory}")
}

/// The tree's rows, with a row for where the VM is now.
fn rows(tree: &SnapshotTree, now: Timestamp) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    branch(tree, None, "", now, &mut rows);
    rows
}

fn branch(
    tree: &SnapshotTree,
    parent: Option<SnapshotId>,
    indent: &str,
    now: Timestamp,
    rows: &mut Vec<Vec<Cell>>,
) {
    let children: Vec<_> = tree.children(parent).collect();
    let here = tree.current == parent;
    let count = children.len() + usize::from(here);
    for (index, child) in children.into_iter().enumerate() {
        let (elbow, below) = strokes(parent, index + 1 == count);
        let mut row = vec![Cell::new(format!("{indent}{elbow}{}", child.name))];
        row.extend(measures(tree, child, now));
        rows.push(row);
        // No tree is deeper than it has snapshots, whoever wrote it.
        if indent.chars().count() <= 3 * tree.snapshots.len() {
            branch(tree, Some(child.id), &format!("{indent}{below}"), now, rows);
        }
    }
    if here {
        let (elbow, _) = strokes(parent, true);
        rows.push(vec![Cell::new(format!("{indent}{elbow}you are here")).tone(Tone::Good)]);
    }
}

/// What leads to an entry, and what stands before the entries below it.
const fn strokes(parent: Option<SnapshotId>, last: bool) -> (&'static str, &'static str) {
    match (parent, last) {
        (None, _) => ("", ""),
        (Some(_), true) => ("└─ ", "   "),
        (Some(_), false) => ("├─ ", "│  "),
    }
}

/// For `vm show`: a line for each snapshot, and what the policy says.
pub(crate) fn lines(vm: &Vm, now: Timestamp) -> Vec<(&'static str, Vec<Cell>)> {
    let tree = &vm.status.snapshots;
    let line = |snapshot: &Snapshot| {
        let current = if tree.current == Some(snapshot.id) { ", current" } else { "" };
        let (age, size) = (time::age(snapshot.at, now), snapshot.held());
        let (growth, kind) = (growth(tree, snapshot, now), kind(snapshot));
        Cell::new(format!("{}: {kind}, {age} old, {size}, {growth}{current}", snapshot.name))
    };
    let warnings = vm.status.snapshot_warnings.iter();
    vec![
        ("Snapshots", tree.snapshots.iter().map(line).collect()),
        ("Snapshot policy", warnings.map(|text| Cell::new(text).tone(Tone::Busy)).collect()),
    ]
}

/// For `vm list`: how many there are, and whether the policy says something.
pub(crate) fn count(vm: &Vm) -> Cell {
    let count = vm.status.snapshots.snapshots.len();
    match (count, vm.status.snapshot_warnings.is_empty()) {
        (0, _) => Cell::maybe(None::<String>),
        (_, true) => Cell::new(count.to_string()),
        (_, false) => Cell::new(format!("{count}, beyond policy")).tone(Tone::Busy),
    }
}
