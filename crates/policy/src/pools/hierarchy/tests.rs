//! What is a tree, what is not, and how it is told.

use hostler_types::ByteSize;
use proptest::prelude::*;

use super::*;
use crate::pools::{Megahertz, PoolAllocation, Shares};

fn pool(id: u32, parent: Option<u32>) -> Pool<u32> {
    let (cpu, memory) = (PoolAllocation::default(), PoolAllocation::default());
    Pool { id, name: format!("p{id}"), parent, cpu, memory }
}

fn error(pools: Vec<Pool<u32>>) -> String {
    Hierarchy::new(pools).unwrap_err().to_string()
}

#[test]
fn a_tree_is_ordered_by_depth_and_key() {
    let pools =
        vec![pool(4, Some(9)), pool(3, Some(7)), pool(9, None), pool(1, Some(7)), pool(7, Some(9))];
    let tree = Hierarchy::new(pools).unwrap();
    let order: Vec<_> = tree.pools().iter().map(|pool| pool.id).collect();
    assert_eq!(order, [9, 4, 7, 1, 3]);
    assert_eq!((tree.root().id, tree.position(7), tree.position(8)), (9, Some(2), None));
    assert_eq!((tree.parent(0), tree.parent(4), tree.parent(5)), (None, Some(2), None));
    assert_eq!((tree.children(0), tree.children(1).len(), tree.children(2)), (1..3, 0, 3..5));
}

#[test]
fn what_is_wrong_names_the_pools() {
    let check = |pools: Vec<Pool<u32>>, text: &str| {
        let error = error(pools);
        assert!(error.contains(text), "{error}");
    };
    check(vec![], "there is no resource pool");
    check(vec![pool(1, None), pool(2, None)], "`p1` and `p2` both have no parent");
    check(vec![pool(1, None), pool(1, None)], "`p1` and `p1` are the same object");
    check(vec![pool(1, None), pool(2, Some(5))], "the parent of resource pool `p2`, 5, does not");
    check(vec![pool(1, Some(1))], "`p1` in `p1`; give");
    check(vec![pool(1, Some(2)), pool(2, Some(1))], "`p1` in `p2` in `p1`; give");
    // The pools on the way to the cycle are not part of it.
    let beside =
        vec![pool(0, None), pool(1, Some(3)), pool(2, Some(4)), pool(3, Some(2)), pool(4, Some(3))];
    check(beside, "in each other: `p3` in `p2` in `p4` in `p3`; give");
    let mut greedy = pool(1, None);
    greedy.memory.reservation = ByteSize::gib(3);
    greedy.memory.limit = Some(ByteSize::gib(2));
    check(vec![greedy], "`p1` reserves 3GiB of memory, more than its limit of 2GiB");
}

proptest! {
    /// Any wiring of parents either is a tree in which every parent stands before its child, or is
    /// refused; and a cycle that is told is one.
    #[test]
    fn any_wiring_is_a_tree_or_refused(parents in prop::collection::vec(0..9_u32, 1..8)) {
        let count = u32::try_from(parents.len()).unwrap();
        let parent = |id: u32| Some(parents[id as usize]).filter(|parent| *parent < count);
        let pools: Vec<_> = (0..count).map(|id| pool(id, parent(id))).collect();
        match Hierarchy::new(pools) {
            Ok(tree) => {
                prop_assert_eq!(tree.pools().len(), parents.len());
                for (at, pool) in tree.pools().iter().enumerate() {
                    let above = pool.parent.map(|parent| tree.position(parent).unwrap());
                    prop_assert_eq!(above, tree.parent(at));
                    prop_assert!(above.is_none_or(|above| above < at && tree.children(above).contains(&at)));
                }
            }
            Err(HierarchyError::Cycle { pools }) => {
                for (nth, name) in pools.iter().enumerate() {
                    let id: u32 = name.trim_start_matches('p').parse().unwrap();
                    let next = &pools[(nth + 1) % pools.len()];
                    prop_assert_eq!(&format!("p{}", parent(id).unwrap()), next);
                }
            }
            Err(HierarchyError::SeveralRoots { .. }) => {
                prop_assert!((0..count).filter(|id| parent(*id).is_none()).count() > 1);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn shares_are_per_cpu_and_per_mebibyte() {
    let cpu = |shares| {
        let allocation = PoolAllocation::<Megahertz> { shares, ..PoolAllocation::default() };
        allocation.numbers(Resource::Cpu).weight
    };
    let memory = |shares| {
        let allocation = PoolAllocation::<ByteSize> { shares, ..PoolAllocation::default() };
        allocation.numbers(Resource::Memory).weight
    };
    // The numbers of vSphere's resource pools.
    assert_eq!([Shares::Low, Shares::Normal, Shares::High].map(cpu), [2_000, 4_000, 8_000]);
    let all = [Shares::Low, Shares::Normal, Shares::High].map(memory);
    assert_eq!(all, [81_920, 163_840, 327_680]);
    let custom: Shares = serde_json::from_str(r#""7""#).unwrap();
    assert_eq!((cpu(custom), memory(custom)), (7, 7));
    assert!(serde_json::from_str::<Shares>(r#""0""#).is_err());
    assert_eq!(serde_json::from_str::<Shares>(r#""high""#).unwrap(), Shares::High);
}
