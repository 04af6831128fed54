//! Agents know objects by id; people know them by name.

use std::str::FromStr;

use hostler_agent_api::VmReport;
use hostler_types::{DatastoreKind, Id, ImageKind, NetworkKind, VmChange, VmKind};

use crate::inventory::{Held, Snapshot};

/// How long an id is in text.
const ID: usize = 36;

/// An agent's sentence with `datastore <id>` and the like said as people would.
pub(crate) fn named(snapshot: &Snapshot, text: &str) -> String {
    let text = replace::<DatastoreKind>(snapshot, text);
    let text = replace::<ImageKind>(snapshot, &text);
    let text = replace::<NetworkKind>(snapshot, &text);
    replace::<VmKind>(snapshot, &text)
}

/// An agent's account of a change, said as people would.
pub(crate) fn named_change(snapshot: &Snapshot, change: VmChange) -> VmChange {
    VmChange {
        subject: change.subject,
        from: named(snapshot, &change.from),
        to: named(snapshot, &change.to),
        when: change.when,
        reason: change.reason.map(|reason| named(snapshot, &reason)),
    }
}

/// A report with its texts said as people would.
pub(crate) fn named_report(snapshot: &Snapshot, report: &VmReport) -> VmReport {
    let pending = report.pending.iter().cloned();
    let pending = pending.map(|change| named_change(snapshot, change)).collect();
    VmReport { pending, ..report.clone() }
}

fn replace<K: Held>(snapshot: &Snapshot, text: &str) -> String {
    let word = format!("{} ", K::NAME);
    let mut said = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find(&word) {
        let (before, after) = rest.split_at(at + word.len());
        said.push_str(before);
        let name = after
            .get(..ID)
            .and_then(|id| Id::<K>::from_str(id).ok())
            .and_then(|id| snapshot.get::<K>(id));
        rest = match name {
            Some(object) => {
                said.extend(["`", object.name().as_str(), "`"]);
                &after[ID..]
            }
            None => after,
        };
    }
    said + rest
}
