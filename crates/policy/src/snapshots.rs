//! What a VM's snapshot rules have to say of its snapshots: what is to be told, which of them would
//! have to go, and whether a further one may be taken.

use std::collections::BTreeSet;

use hostler_types::{AtLimit, Snapshot, SnapshotId, SnapshotRules, SnapshotTree, counted};
use jiff::{SignedDuration, Timestamp};

/// What is to be done about a VM's snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotVerdict {
    /// In sentences that stay the same as long as what they say does.
    pub warnings: Vec<String>,
    /// Without these, the limits would be kept; the oldest first.
    pub excess: Vec<SnapshotId>,
    /// When the next snapshot becomes too old.
    pub next: Option<Timestamp>,
}

/// Holds a VM's snapshots against its rules.
pub fn judge_snapshots(
    tree: &SnapshotTree,
    rules: &SnapshotRules,
    now: Timestamp,
) -> SnapshotVerdict {
    let mut verdict = SnapshotVerdict::default();
    let mut excess = BTreeSet::new();
    too_old(tree, rules, now, &mut verdict, &mut excess);
    too_deep(tree, rules, &mut verdict, &mut excess);
    too_large(tree, rules, &mut verdict, &mut excess);
    if !verdict.warnings.is_empty() {
        verdict.warnings.push(consequence(rules));
    }
    let in_order = tree.snapshots.iter().map(|snapshot| snapshot.id);
    verdict.excess = in_order.filter(|id| excess.contains(id)).collect();
    verdict
}

/// Whether a further snapshot may be taken.
///
/// # Errors
/// Why not, in a sentence.
pub fn further_snapshot(
    tree: &SnapshotTree,
    rules: &SnapshotRules,
    now: Timestamp,
) -> Result<(), String> {
    if rules.at_limit != AtLimit::Refuse {
        return Ok(());
    }
    let depth = tree.depth();
    if let Some(most) = rules.max_depth.filter(|most| depth >= *most as usize) {
        return Err(format!("{}, and {most} may", beneath(depth)));
    }
    match judge_snapshots(tree, rules, now).warnings.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(()),
    }
}

fn too_old(
    tree: &SnapshotTree,
    rules: &SnapshotRules,
    now: Timestamp,
    verdict: &mut SnapshotVerdict,
    excess: &mut BTreeSet<SnapshotId>,
) {
    let Some(seconds) = rules.max_age_seconds else { return };
    let limit = SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX));
    for snapshot in &tree.snapshots {
        let Ok(end) = snapshot.at.checked_add(limit) else { continue };
        if end <= now {
            excess.insert(snapshot.id);
            let age = duration(seconds);
            verdict.warnings.push(format!("snapshot `{}` is older than {age}", snapshot.name));
        } else {
            verdict.next = Some(verdict.next.map_or(end, |next| next.min(end)));
        }
    }
}

fn too_deep(
    tree: &SnapshotTree,
    rules: &SnapshotRules,
    verdict: &mut SnapshotVerdict,
    excess: &mut BTreeSet<SnapshotId>,
) {
    let Some(most) = rules.max_depth else { return };
    let most = most as usize;
    // The newest are kept.
    let deeper = tree.beneath().skip(most);
    excess.extend(deeper.map(|snapshot| snapshot.id));
    let depth = tree.depth();
    if depth > most {
        verdict.warnings.push(format!("{}, and at most {most} should", beneath(depth)));
    }
}

fn beneath(depth: usize) -> String {
    let lie = if depth == 1 { "lies" } else { "lie" };
    format!("{} {lie} beneath its disks", counted(depth, "snapshot"))
}

fn too_large(
    tree: &SnapshotTree,
    rules: &SnapshotRules,
    verdict: &mut SnapshotVerdict,
    excess: &mut BTreeSet<SnapshotId>,
) {
    let Some(most) = rules.max_size.filter(|most| tree.size() > *most) else { return };
    verdict.warnings.push(format!("its snapshots hold more than {most}"));
    let gone = |snapshot: &&Snapshot| excess.contains(&snapshot.id);
    let gone: u64 = tree.snapshots.iter().filter(gone).map(|s| s.held().bytes()).sum();
    let mut left = tree.size().bytes().saturating_sub(gone);
    for snapshot in &tree.snapshots {
        if left <= most.bytes() {
            break;
        }
        if excess.insert(snapshot.id) {
            left = left.saturating_sub(snapshot.held().bytes());
        }
    }
}

fn consequence(rules: &SnapshotRules) -> String {
    match (rules.at_limit, rules.window) {
        (AtLimit::Warn, _) => "nothing is done about it but to tell".to_owned(),
        (AtLimit::Refuse, _) => "no further snapshot is taken".to_owned(),
        (AtLimit::Merge, None) => "the oldest are deleted".to_owned(),
        (AtLimit::Merge, Some(window)) => {
            format!("the oldest are deleted in the quiet window, {window}")
        }
    }
}

/// In the largest unit that says it exactly, but days only from a week on.
fn duration(seconds: u64) -> String {
    const UNITS: [(u64, u64, &str); 3] =
        [(24 * 3600, 7 * 24 * 3600, "days"), (3600, 3600, "h"), (60, 60, "min")];
    let unit =
        UNITS.iter().find(|(unit, from, _)| seconds >= *from && seconds.is_multiple_of(*unit));
    match unit {
        Some((unit, _, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use hostler_types::{ByteSize, Consistency, Labels, SnapshotLimits};
    use uuid::Uuid;

    use super::*;

    fn id(number: u64) -> SnapshotId {
        SnapshotId::from_uuid(Uuid::from_u128(number.into()))
    }

    /// A chain of so many, an hour apart, that hold so many MiB each.
    fn chain(count: u64, mib: u64) -> SnapshotTree {
        let snapshot = |number: u64| Snapshot {
            id: id(number),
            name: format!("s{number}").parse().unwrap(),
            description: String::new(),
            parent: (number > 1).then(|| id(number - 1)),
            at: hour(number),
            by: "tester".to_owned(),
            consistency: Consistency::Crash,
            memory: None,
            paused_ms: None,
            disks: Vec::new(),
            written: ByteSize::mib(mib),
        };
        let snapshots: Vec<_> = (1..=count).map(snapshot).collect();
        SnapshotTree { current: snapshots.last().map(|last| last.id), snapshots }
    }

    fn hour(number: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(number).unwrap() * 3600).unwrap()
    }

    fn rules(limits: SnapshotLimits) -> SnapshotRules {
        SnapshotRules::of(&Labels::new(), &limits, std::iter::empty())
    }

    fn check(tree: &SnapshotTree, limits: SnapshotLimits, now: u64, excess: &[u64], told: &[&str]) {
        let verdict = judge_snapshots(tree, &rules(limits), hour(now));
        let ids: Vec<_> = excess.iter().copied().map(id).collect();
        assert_eq!(verdict.excess, ids, "{limits:?}");
        let said = verdict.warnings.split_last().map_or(&[][..], |(_, rest)| rest);
        assert_eq!(said, told, "{limits:?}");
    }

    #[test]
    fn defaults_tell_of_age_and_depth() {
        let none = SnapshotLimits::default();
        check(&chain(3, 10), none, 5, &[], &[]);
        check(&chain(1, 10), none, 73, &[1], &["snapshot `s1` is older than 72 h"]);
        let told = "5 snapshots lie beneath its disks, and at most 3 should";
        check(&chain(5, 10), none, 6, &[1, 2], &[told]);
        let verdict = judge_snapshots(&chain(2, 10), &rules(none), hour(2));
        assert_eq!(verdict.next, Some(hour(73)), "when the first of them is too old");
    }

    #[test]
    fn as_many_of_the_oldest_go_as_it_takes() {
        let limits = |age: u64, mib| SnapshotLimits {
            max_age_seconds: Some(age * 3600),
            max_depth: Some(0),
            max_size: Some(ByteSize::mib(mib)),
            ..SnapshotLimits::default()
        };
        let large = "its snapshots hold more than 25MiB";
        check(&chain(5, 10), limits(0, 25), 6, &[1, 2, 3], &[large]);
        // What goes for its age makes room.
        let old = ["snapshot `s1` is older than 5 h", "snapshot `s2` is older than 5 h", large];
        check(&chain(5, 10), limits(5, 25), 7, &[1, 2, 3], &old);
        check(&chain(5, 10), limits(0, 50), 6, &[], &[]);
    }

    #[test]
    fn only_a_policy_that_refuses_refuses() {
        let limits =
            |at_limit| SnapshotLimits { at_limit: Some(at_limit), ..SnapshotLimits::default() };
        let refused = |count, at_limit, now| {
            further_snapshot(&chain(count, 1), &rules(limits(at_limit)), hour(now)).err()
        };
        assert_eq!(refused(9, AtLimit::Warn, 100), None);
        assert_eq!(refused(9, AtLimit::Merge, 100), None);
        assert_eq!(refused(2, AtLimit::Refuse, 3), None);
        let deep = refused(3, AtLimit::Refuse, 3).unwrap();
        assert_eq!(deep, "3 snapshots lie beneath its disks, and 3 may");
        let old = refused(1, AtLimit::Refuse, 74).unwrap();
        assert_eq!(old, "snapshot `s1` is older than 72 h");
    }

    #[test]
    fn durations_read_well() {
        let check = |seconds, text: &str| assert_eq!(duration(seconds), text);
        check(72 * 3600, "72 h");
        check(7 * 24 * 3600, "7 days");
        check(90 * 60, "90 min");
        check(61, "61 s");
        check(0, "0 s");
    }
}
