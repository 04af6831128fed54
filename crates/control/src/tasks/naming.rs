//! Agents know objects by id; people know them by name.

use std::str::FromStr;

use hostler_types::{DatastoreKind, Id, ImageKind, NetworkKind, VmKind};

use crate::inventory::{Held, Snapshot};

/// How long an id is in text.
const ID: usize = 36;

/// An agent's sentence with `datastore <id>` and the like said as people would.
pub(super) fn named(snapshot: &Snapshot, text: &str) -> String {
    let text = replace::<DatastoreKind>(snapshot, text);
    let text = replace::<ImageKind>(snapshot, &text);
    let text = replace::<NetworkKind>(snapshot, &text);
    replace::<VmKind>(snapshot, &text)
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
