//! Whole trees: known cases, and what must hold for any, checked without the code that divides.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use hostler_types::ByteSize;
use proptest::prelude::*;

use super::*;
use crate::pools::{
    Hierarchy, Ledger, Megahertz, Pool, PoolAllocation, PoolVm, Reserve, Shares, VmAllocation,
};

/// CPU only; memory is divided by the same code.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub pools: Vec<Pool<u32>>,
    pub vms: Vec<PoolVm<u32, u32>>,
    /// By VM.
    pub demand: BTreeMap<u32, u64>,
    pub capacity: u64,
}

impl Case {
    pub(super) fn tree(&self) -> EntitlementTree<u32, u32> {
        EntitlementTree::new(Hierarchy::new(self.pools.clone()).unwrap(), &self.vms).unwrap()
    }

    pub(super) fn entitle(&self) -> Entitlements {
        let tree = self.tree();
        entitle(&tree, Resource::Cpu, self.capacity, |at| self.demand[&tree.vms()[at]])
    }

    /// By the keys of pools and of VMs.
    fn by_key(&self) -> (BTreeMap<u32, Entitled>, BTreeMap<u32, Entitled>) {
        let (tree, entitlements) = (self.tree(), self.entitle());
        let pools = tree.pools().iter().map(|pool| pool.id).zip(entitlements.pools).collect();
        (pools, tree.vms().iter().copied().zip(entitlements.vms).collect())
    }

    fn vms(&self) -> Vec<u64> {
        self.by_key().1.values().map(|vm| vm.entitled).collect()
    }
}

pub(super) fn pool(id: u32, parent: Option<u32>, shares: u32, reservation: u64) -> Pool<u32> {
    let cpu = PoolAllocation {
        shares: Shares::Custom(NonZeroU32::new(shares).unwrap()),
        reservation: Megahertz(reservation),
        expandable: true,
        limit: None,
    };
    let name = ["root", "gold", "silver"].get(id as usize).map_or("other", |name| name);
    Pool { id, name: name.to_owned(), parent, cpu, memory: PoolAllocation::default() }
}

pub(super) fn vm(id: u32, pool: u32, shares: u32, reservation: u64, size: u64) -> PoolVm<u32, u32> {
    let cpu = VmAllocation {
        shares: Shares::Custom(NonZeroU32::new(shares).unwrap()),
        reservation: Megahertz(reservation),
        limit: None,
        configured: Megahertz(size),
    };
    PoolVm { id, pool, vcpus: 1, cpu, memory: VmAllocation::default() }
}

pub(super) fn case(
    pools: Vec<Pool<u32>>,
    vms: Vec<PoolVm<u32, u32>>,
    demand: &[u64],
    capacity: u64,
) -> Case {
    let demand = vms.iter().map(|vm| vm.id).zip(demand.iter().copied()).collect();
    Case { pools, vms, demand, capacity }
}

#[test]
fn shares_reservation_and_limit_in_a_flat_cluster() {
    let root = || vec![pool(0, None, 1, 0)];
    let busy = |vms: Vec<_>, capacity| case(root(), vms, &[9_000; 3], capacity).vms();
    let free = |id, shares| vm(id, 0, shares, 0, 9_000);
    assert_eq!(busy(vec![free(1, 2), free(2, 1)], 3_000), [2_000, 1_000]);
    assert_eq!(busy(vec![vm(1, 0, 1, 2_000, 9_000), free(2, 1)], 3_000), [2_000, 1_000]);
    let mut limited = free(1, 100);
    limited.cpu.limit = Some(Megahertz(500));
    assert_eq!(busy(vec![limited, free(2, 1)], 3_000), [500, 2_500]);
    // By shares alone it would have 1,500, and it may not use more than its size.
    assert_eq!(busy(vec![vm(1, 0, 1, 0, 400), free(2, 1)], 3_000), [400, 2_600]);
}

/// Four VMs of 4 GB in 10 GB: first what each demands, then the rest by shares up to its size.
#[test]
fn what_is_spare_goes_beyond_the_demand() {
    let vms = (1..5).map(|id| vm(id, 0, 1, 0, 4_000)).collect();
    let some = case(vec![pool(0, None, 1, 0)], vms, &[3_000, 1_000, 500, 0], 10_000);
    assert_eq!(some.vms(), [3_000, 2_334, 2_333, 2_333]);
    let plenty = Case { capacity: 20_000, ..some.clone() };
    assert_eq!((plenty.vms(), plenty.entitle().pools[0].entitled), (vec![4_000; 4], 16_000));
    let scarce = Case { capacity: 2_600, ..some };
    assert_eq!(scarce.vms(), [1_100, 1_000, 500, 0]);
    let entitlements = scarce.entitle();
    assert_eq!((entitlements.vms[0].starved(), entitlements.pools[0].starved()), (1_900, 1_900));
}

#[test]
fn pools_share_first_and_their_vms_what_they_got() {
    let pools = vec![pool(0, None, 1, 0), pool(1, Some(0), 2, 0), pool(2, Some(0), 1, 0)];
    let vms = vec![vm(1, 1, 1, 0, 9_000), vm(2, 2, 1, 0, 9_000), vm(3, 2, 1, 0, 9_000)];
    let case = case(pools, vms, &[9_000; 3], 6_000);
    assert_eq!(case.vms(), [4_000, 1_000, 1_000]);
}

#[test]
fn an_idle_pool_keeps_only_what_its_vms_could_use() {
    let pools = vec![pool(0, None, 1, 0), pool(1, Some(0), 1, 5_000), pool(2, Some(0), 1, 0)];
    let vms = vec![vm(1, 1, 1, 0, 2_000), vm(2, 2, 1, 0, 9_000)];
    assert_eq!(case(pools, vms, &[0, 9_000], 6_000).vms(), [2_000, 4_000]);
}

#[test]
fn reservations_that_cannot_be_kept_are_scaled_and_told() {
    let pools = vec![pool(0, None, 1, 0), pool(1, Some(0), 1, 0)];
    let vms = vec![vm(1, 0, 1, 3_000, 9_000), vm(2, 1, 9, 1_000, 9_000), vm(3, 0, 9, 0, 9_000)];
    let case = case(pools, vms, &[9_000; 3], 2_000);
    let entitlements = case.entitle();
    assert_eq!((case.vms(), &entitlements.scaled[..]), (vec![1_500, 500, 0], &[0, 1][..]));
}

#[test]
fn vms_in_no_pool_or_in_two_are_refused() {
    let tree = |vms: &[PoolVm<u32, u32>]| {
        let pools = vec![pool(0, None, 1, 0), pool(1, Some(0), 1, 0)];
        EntitlementTree::new(Hierarchy::new(pools).unwrap(), vms)
    };
    let error = tree(&[vm(7, 4, 1, 0, 1)]).unwrap_err().to_string();
    assert!(error.contains("VM 7 is in resource pool 4, which does not exist"), "{error}");
    let error = tree(&[vm(7, 1, 1, 0, 1), vm(8, 1, 1, 0, 1), vm(7, 0, 1, 0, 1)]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("VM 7 is in resource pools `gold` and `root`"), "{error}");

    let found = tree(&[vm(7, 1, 1, 0, 1), vm(8, 1, 1, 0, 1), vm(3, 0, 1, 0, 1)]).unwrap();
    assert_eq!(found.vms(), [3, 7, 8]);
    assert_eq!((found.vm_position(1, 8), found.vm_position(0, 8)), (Some(2), None));
    assert_eq!((found.pool_of(0), found.pool_of(2), found.pool_of(3)), (Some(0), Some(1), None));
}

fn any_pool(id: u32) -> impl Strategy<Value = Pool<u32>> {
    let limit = prop::option::weighted(0.3, 0..300_u64);
    (any::<u32>(), 1..9_u32, prop_oneof![Just(0), 0..150_u64], any::<bool>(), limit).prop_map(
        move |(parent, shares, reservation, expandable, limit)| {
            let parent = (id > 0).then(|| parent % id.max(1));
            let mut pool = pool(id, parent, shares, reservation);
            pool.cpu.expandable = expandable;
            pool.cpu.limit = limit.map(|limit| Megahertz(limit.max(reservation)));
            pool
        },
    )
}

fn any_vm(pools: u32) -> impl Strategy<Value = (PoolVm<u32, u32>, u64)> {
    let limit = prop::option::weighted(0.2, 0..100_u64);
    let reservation = prop_oneof![Just(0), 0..60_u64];
    (any::<u32>(), 0..pools, 1..9_u32, reservation, 0..100_u64, limit, 0..130_u64).prop_map(
        |(id, of, shares, reservation, size, limit, demand)| {
            let mut vm = vm(id, of, shares, reservation, size);
            vm.cpu.limit = limit.map(Megahertz);
            (vm, demand)
        },
    )
}

fn any_case() -> impl Strategy<Value = Case> {
    let pools = (1..8_u32).prop_flat_map(|count| (0..count).map(any_pool).collect::<Vec<_>>());
    pools.prop_flat_map(|pools| {
        let count = u32::try_from(pools.len()).unwrap();
        let vms = prop::collection::vec(any_vm(count), 0..25);
        (Just(pools), vms, 0..1_000_u64).prop_map(|(pools, mut vms, capacity)| {
            vms.sort_by_key(|(vm, _)| vm.id);
            vms.dedup_by_key(|(vm, _)| vm.id);
            let (vms, demand): (Vec<_>, Vec<_>) = vms.into_iter().unzip();
            case(pools, vms, &demand, capacity)
        })
    })
}

/// What a child of a pool brings to its division.
#[derive(Debug, Clone, Copy)]
struct Child {
    weight: u64,
    numbers: Entitled,
}

/// The children of a pool, and what its own numbers have to be by theirs.
fn children(
    case: &Case,
    id: u32,
    pools: &BTreeMap<u32, Entitled>,
    vms: &BTreeMap<u32, Entitled>,
) -> Vec<Child> {
    let shares = |shares: Shares| match shares {
        Shares::Custom(number) => u64::from(number.get()),
        other => panic!("{other:?}"),
    };
    let below = case.pools.iter().filter(|pool| pool.parent == Some(id));
    let below =
        below.map(|pool| Child { weight: shares(pool.cpu.shares), numbers: pools[&pool.id] });
    let own = case.vms.iter().filter(|vm| vm.pool == id);
    let own = own.map(|vm| Child { weight: shares(vm.cpu.shares), numbers: vms[&vm.id] });
    below.chain(own).collect()
}

/// Checks one pool's division by the conditions it has to meet.
fn check_pool(id: u32, has: u64, children: &[Child], scaled: &[u32]) -> Result<(), TestCaseError> {
    let sum =
        |of: fn(&Entitled) -> u64| children.iter().map(|child| of(&child.numbers)).sum::<u64>();
    let given = sum(|numbers| numbers.entitled);
    prop_assert_eq!(given, has.min(sum(|numbers| numbers.ceiling)), "of pool {}", id);
    let short = has < sum(|numbers| numbers.reservation);
    prop_assert_eq!(short, scaled.contains(&id));
    let spare = has > sum(|numbers| numbers.demand);
    let bounds = |child: &Child| match (short, spare, child.numbers) {
        (true, _, numbers) => (numbers.reservation, 0, numbers.reservation),
        (_, false, numbers) => (child.weight, numbers.reservation, numbers.demand),
        (_, true, numbers) => (child.weight, numbers.demand, numbers.ceiling),
    };
    for poor in children {
        let (weight, low, high) = bounds(poor);
        let less = poor.numbers.entitled;
        prop_assert!(low <= less && less <= high, "{:?}", poor);
        for rich in children {
            let (other, low, _) = bounds(rich);
            let more = rich.numbers.entitled;
            if less < high && more > low {
                let fair = (2 * more - 1) * weight <= (2 * less + 1) * other;
                prop_assert!(fair, "{rich:?} has what {poor:?} should");
            }
        }
    }
    Ok(())
}

fn check_case(case: &Case) -> Result<(), TestCaseError> {
    let (pools, vms) = case.by_key();
    let (tree, entitlements) = (case.tree(), case.entitle());
    let scaled: Vec<_> = entitlements.scaled.iter().map(|at| tree.pools()[*at].id).collect();
    for vm in &case.vms {
        let limit = vm.cpu.limit.map_or(u64::MAX, |limit| limit.0);
        let ceiling = vm.cpu.configured.0.min(limit);
        let reservation = vm.cpu.reservation.0.min(ceiling);
        let demand = case.demand[&vm.id].max(reservation).min(ceiling);
        let found = vms[&vm.id];
        prop_assert_eq!(
            (found.reservation, found.demand, found.ceiling),
            (reservation, demand, ceiling)
        );
    }
    for pool in &case.pools {
        let (found, children) = (pools[&pool.id], children(case, pool.id, &pools, &vms));
        let sum = |of: fn(&Entitled) -> u64| children.iter().map(|c| of(&c.numbers)).sum::<u64>();
        let limit = pool.cpu.limit.map_or(u64::MAX, |limit| limit.0);
        let ceiling = sum(|numbers| numbers.ceiling).min(limit);
        let borrowed = if pool.cpu.expandable { sum(|numbers| numbers.reservation) } else { 0 };
        let reservation = pool.cpu.reservation.0.max(borrowed).min(ceiling);
        let demand = sum(|numbers| numbers.demand).max(reservation).min(ceiling);
        prop_assert_eq!(
            (found.reservation, found.demand, found.ceiling),
            (reservation, demand, ceiling)
        );
        check_pool(pool.id, found.entitled, &children, &scaled)?;
    }
    prop_assert_eq!(pools[&0].entitled, case.capacity.min(pools[&0].ceiling));
    let all: u64 = vms.values().map(|vm| vm.entitled).sum();
    prop_assert_eq!(all, pools[&0].entitled, "nothing is lost or made on the way down");
    Ok(())
}

/// The keys of a pool and all below it.
fn below(case: &Case, pool: u32) -> Vec<u32> {
    let mut found = vec![pool];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(case.pools.iter().filter(|p| p.parent == Some(parent)).map(|p| p.id));
        at += 1;
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn is_exact_bounded_and_fair_in_every_pool(case in any_case()) {
        check_case(&case)?;
    }

    #[test]
    fn more_capacity_takes_nothing_from_anybody(case in any_case(), more in 1..100_u64) {
        let larger = Case { capacity: case.capacity + more, ..case.clone() };
        let ((pools, vms), (more_pools, more_vms)) = (case.by_key(), larger.by_key());
        for (id, before) in &pools {
            prop_assert!(before.entitled <= more_pools[id].entitled, "pool {}", id);
        }
        for (id, before) in &vms {
            prop_assert!(before.entitled <= more_vms[id].entitled, "VM {}", id);
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        case in any_case(),
        seed in prop::collection::vec(any::<u32>(), 40),
    ) {
        let mut shuffled = case.clone();
        let mut keys = seed.iter().cycle();
        shuffled.pools.sort_by_cached_key(|_| keys.next());
        shuffled.vms.sort_by_cached_key(|_| keys.next());
        prop_assert_eq!(shuffled.by_key(), case.by_key());
    }

    #[test]
    fn only_the_ratio_of_shares_counts(case in any_case(), times in 2..1_000_u32) {
        let more = |shares: &mut Shares| {
            let Shares::Custom(number) = shares else { return };
            *number = number.saturating_mul(NonZeroU32::new(times).unwrap());
        };
        let mut scaled = case.clone();
        scaled.pools.iter_mut().for_each(|pool| more(&mut pool.cpu.shares));
        scaled.vms.iter_mut().for_each(|vm| more(&mut vm.cpu.shares));
        prop_assert_eq!(scaled.entitle(), case.entitle());
    }

    /// What a pool needs and has reserved, it gets whatever the others want.
    #[test]
    fn a_pool_within_its_reservation_does_not_feel_its_siblings(
        case in any_case(),
        others in prop::collection::vec(0..130_u64, 25),
    ) {
        for pool in &case.pools {
            let inside = below(&case, pool.id);
            let mut changed = case.clone();
            for (vm, other) in case.vms.iter().zip(&others) {
                if !inside.contains(&vm.pool) {
                    changed.demand.insert(vm.id, *other);
                }
            }
            let ((pools, vms), (pools_after, vms_after)) = (case.by_key(), changed.by_key());
            let own = pools[&pool.id];
            prop_assert_eq!(own.demand, pools_after[&pool.id].demand);
            // Above it no reservation was cut, neither before nor after.
            let kept = |numbers: &Entitled| numbers.entitled >= own.reservation;
            if own.demand > own.reservation || !kept(&own) || !kept(&pools_after[&pool.id]) {
                continue;
            }
            for vm in case.vms.iter().filter(|vm| inside.contains(&vm.pool)) {
                prop_assert_eq!(vms[&vm.id].met(), vms_after[&vm.id].met(), "VM {}", vm.id);
            }
        }
    }

    /// What the ledger admits, the division keeps.
    #[test]
    fn whoever_was_admitted_has_his_reservation(mut case in any_case(), room in 0..200_u64) {
        let mut ledger = Ledger::<u32, u32>::new(&Hierarchy::new(case.pools.clone()).unwrap());
        let needed = ledger.usage(0, Resource::Cpu).unwrap().used;
        case.capacity = needed + room;
        ledger.set_capacity(Reserve { cpu: Megahertz(case.capacity), memory: ByteSize(0) });
        case.pools[0].cpu.limit = None;
        prop_assume!(ledger.overcommitted().iter().all(|(_, over)| over.pool == 0));
        case.vms.retain(|vm| {
            let reserve = Reserve { cpu: vm.cpu.reservation, memory: ByteSize(0) };
            ledger.admit(vm.id, vm.pool, reserve).is_ok()
        });
        let (entitlements, (_, vms)) = (case.entitle(), case.by_key());
        prop_assert_eq!(&entitlements.scaled[..], &[] as &[usize]);
        for vm in &case.vms {
            let most = vm.cpu.limit.map_or(u64::MAX, |limit| limit.0).min(vm.cpu.configured.0);
            prop_assert!(vms[&vm.id].entitled >= vm.cpu.reservation.0.min(most), "VM {}", vm.id);
        }
    }
}

/// The memory of a VM, and its shares by the MiB.
#[test]
fn memory_is_divided_by_the_byte() {
    let mut small = vm(1, 0, 1, 0, 0);
    small.memory.configured = ByteSize::gib(2);
    let mut large = vm(2, 0, 1, 0, 0);
    large.memory.configured = ByteSize::gib(4);
    let root = Hierarchy::new(vec![pool(0, None, 1, 0)]).unwrap();
    let tree = EntitlementTree::new(root, &[small, large]).unwrap();
    let capacity = ByteSize::gib(3).bytes() + 1;
    let entitlements = entitle(&tree, Resource::Memory, capacity, |_| u64::MAX);
    let given: Vec<_> = entitlements.vms.iter().map(|vm| vm.entitled).collect();
    assert_eq!(given, [ByteSize::gib(1).bytes(), ByteSize::gib(2).bytes() + 1]);
    assert_eq!(entitle(&tree, Resource::Cpu, capacity, |_| 1).pools[0].entitled, 0);
}
