//! What a tree of snapshots amounts to: who descends from whom, how much it holds, how fast it grows.

use jiff::Timestamp;

use crate::id::SnapshotId;
use crate::size::ByteSize;
use crate::snapshot::{Snapshot, SnapshotTree};

impl SnapshotTree {
    /// The snapshots that the disks as they are now descend from, the newest first.
    pub fn beneath(&self) -> impl Iterator<Item = &Snapshot> {
        let current = self.current.and_then(|id| self.get(id));
        let parent = |snapshot: &&Snapshot| snapshot.parent.and_then(|id| self.get(id));
        // A ring, which no agent makes, is gone round once.
        std::iter::successors(current, parent).take(self.snapshots.len())
    }

    /// A snapshot and all that descend from it, in the order in which they were taken.
    pub fn family(&self, of: SnapshotId) -> Vec<SnapshotId> {
        let mut family = vec![of];
        let children = self.snapshots.iter().filter(|snapshot| snapshot.id != of);
        // A parent comes before its children.
        for snapshot in children {
            if snapshot.parent.is_some_and(|parent| family.contains(&parent)) {
                family.push(snapshot.id);
            }
        }
        family
    }

    /// What was written since the oldest snapshot, and all saved memory.
    pub fn size(&self) -> ByteSize {
        let sizes = self.snapshots.iter().map(Snapshot::held);
        ByteSize(sizes.fold(0, |sum, size| sum.saturating_add(size.bytes())))
    }

    /// How much a day has been written since a snapshot, up to the next one on it. `None`: it is too
    /// young to tell.
    pub fn growth_per_day(&self, snapshot: &Snapshot, now: Timestamp) -> Option<ByteSize> {
        const TOO_YOUNG: i64 = 60;
        const DAY: u128 = 24 * 3600;
        let next = self.children(Some(snapshot.id)).map(|child| child.at).min();
        let seconds = next.unwrap_or(now).duration_since(snapshot.at).as_secs();
        let seconds = u128::try_from(seconds).ok().filter(|_| seconds >= TOO_YOUNG)?;
        let growth = u128::from(snapshot.written.bytes()) * DAY / seconds;
        Some(ByteSize(growth.try_into().unwrap_or(u64::MAX)))
    }
}

impl Snapshot {
    /// What it takes on the datastore: written since, and its memory.
    pub fn held(&self) -> ByteSize {
        let memory = self.memory.unwrap_or_default();
        ByteSize(self.written.bytes().saturating_add(memory.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::snapshot::Consistency;

    fn id(number: u128) -> SnapshotId {
        SnapshotId::from_uuid(Uuid::from_u128(number))
    }

    /// `number: parent`; each a day after the one before, a MiB per number written since.
    fn tree(parents: &[(u128, Option<u128>)], current: u128) -> SnapshotTree {
        let snapshot = |(number, parent): &(u128, Option<u128>)| Snapshot {
            id: id(*number),
            name: format!("s{number}").parse().unwrap(),
            description: String::new(),
            parent: parent.map(id),
            at: Timestamp::from_second(86_400 * i64::try_from(*number).unwrap()).unwrap(),
            by: "tester".to_owned(),
            consistency: Consistency::Crash,
            memory: (*number == 2).then(|| ByteSize::mib(100)),
            paused_ms: None,
            disks: Vec::new(),
            written: ByteSize::mib(u64::try_from(*number).unwrap()),
        };
        SnapshotTree {
            current: Some(id(current)),
            snapshots: parents.iter().map(snapshot).collect(),
        }
    }

    #[test]
    fn families_and_sizes() {
        let tree = tree(&[(1, None), (2, Some(1)), (3, Some(1)), (4, Some(3))], 4);
        assert_eq!(tree.family(id(1)), [id(1), id(2), id(3), id(4)]);
        assert_eq!(tree.family(id(3)), [id(3), id(4)]);
        let beneath: Vec<_> = tree.beneath().map(|snapshot| snapshot.id).collect();
        assert_eq!(beneath, [id(4), id(3), id(1)]);
        assert_eq!(beneath.len(), tree.depth());
        assert_eq!(tree.size(), ByteSize::mib(110));
    }

    #[test]
    fn growth_ends_with_the_next_snapshot() {
        let tree = tree(&[(1, None), (2, Some(1)), (3, Some(2))], 3);
        let now = Timestamp::from_second(86_400 * 5).unwrap();
        let growth = |number| tree.growth_per_day(tree.get(id(number)).unwrap(), now);
        assert_eq!(growth(1), Some(ByteSize::mib(1)));
        // Nothing is on it, so it grows until now: two days.
        assert_eq!(growth(3), Some(ByteSize(3 << 19)));
        let young = tree.get(id(3)).unwrap();
        assert_eq!(tree.growth_per_day(young, young.at), None);
    }
}
