//! Whether there is room for a merge: asked before one begins that a guest runs beside.
//!
//! A merge grows the file that takes in before those that are merged are gone. A guest that writes
//! meanwhile would stand still when the datastore is full, so a merge that might fill it does not
//! begin. Of a VM that is off nothing stands still: its merge fails, and all is as it was.

use hostler_host::{Space, VmDir, volume};
use hostler_types::{ByteSize, Merge};

use super::files::{measure, plan};
use crate::fault::Fault;
use crate::vm::record::VmRecord;

/// What stays free at least: one part in so many of the datastore …
const SHARE: u64 = 100;
/// … and no more than this.
const MOST: u64 = 256 << 20;

/// Refuses when the merges that `record` makes necessary might fill the datastore. What is no part of
/// anything goes first, and what was merged goes before the next merge. Blocks.
///
/// # Errors
/// [`Fault::NoSpace`], with the numbers and the way out.
pub(super) fn require(dir: &VmDir, record: &VmRecord) -> Result<(), Fault> {
    let space = dir.datastore().space()?;
    let waste = record.layering.waste.iter().map(|file| measure(dir, file).bytes());
    let mut free = ByteSize(space.free.bytes().saturating_add(waste.sum()));
    for merge in &plan(dir, record)?.merges {
        require_free(dir, merge, Space { free, ..space })?;
        free = ByteSize((free.bytes() + merge.bytes.bytes()).saturating_sub(growth(dir, merge)));
    }
    Ok(())
}

/// As [`require`], of one merge that is about to begin. Blocks.
pub(super) fn require_for(dir: &VmDir, merge: &Merge) -> Result<(), Fault> {
    require_free(dir, merge, dir.datastore().space()?)
}

fn require_free(dir: &VmDir, merge: &Merge, space: Space) -> Result<(), Fault> {
    let (needed, reserve) = (growth(dir, merge), reserve(space.capacity));
    if needed == 0 || needed.saturating_add(reserve) <= space.free.bytes() {
        return Ok(());
    }
    let (needed, reserve) = (ByteSize(needed), ByteSize(reserve));
    Err(Fault::NoSpace(format!(
        "merging disk `{}` may need {needed} more on the datastore {}, which has {} free and keeps \
         {reserve} of that for its guests; make room, or stop the VM and merge then",
        merge.disk,
        dir.datastore().id(),
        space.free
    )))
}

fn reserve(capacity: ByteSize) -> u64 {
    (capacity.bytes() / SHARE).min(MOST)
}

/// Bytes by which the file that takes in grows at most: by all that is copied, but never past its size.
fn growth(dir: &VmDir, merge: &Merge) -> u64 {
    let into = hostler_host::layers::path(dir.datastore(), &merge.into);
    let has = measure(dir, &merge.into).bytes();
    // What cannot be read is not smaller for it.
    let size = volume::virtual_size(&into).map_or(u64::MAX, ByteSize::bytes);
    merge.bytes.bytes().min(size.saturating_sub(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_stays_free() {
        assert_eq!(reserve(ByteSize::mib(200)), 2 << 20);
        assert_eq!(reserve(ByteSize::gib(500)), MOST);
    }
}
