//! Admission by examples, and random work against a model that looks at all pools each time.

use std::collections::BTreeMap;

use hostler_types::ByteSize;
use proptest::prelude::*;

use super::*;
use crate::pools::{Megahertz, PoolAllocation};

fn reserve(cpu: u64, memory: u64) -> Reserve {
    Reserve { cpu: Megahertz(cpu), memory: ByteSize(memory) }
}

/// A pool with the same numbers for both resources.
fn pool(id: u32, parent: Option<u32>, reservation: u64, expandable: bool) -> Pool<u32> {
    limited(id, parent, reservation, expandable, None)
}

fn limited(
    id: u32,
    parent: Option<u32>,
    reservation: u64,
    expandable: bool,
    limit: Option<u64>,
) -> Pool<u32> {
    let cpu = PoolAllocation {
        reservation: Megahertz(reservation),
        expandable,
        limit: limit.map(Megahertz),
        ..PoolAllocation::default()
    };
    let memory = PoolAllocation {
        reservation: ByteSize(reservation),
        expandable,
        limit: limit.map(ByteSize),
        ..PoolAllocation::default()
    };
    Pool { id, name: format!("p{id}"), parent, cpu, memory }
}

fn ledger(pools: Vec<Pool<u32>>) -> Ledger<u32, u32> {
    Ledger::new(&Hierarchy::new(pools).unwrap())
}

fn refused<T: std::fmt::Debug>(result: Result<T, LedgerError<u32>>) -> Refused<u32> {
    match result.unwrap_err() {
        LedgerError::Refused(refused) => refused,
        other => panic!("{other}"),
    }
}

/// "Expandable Reservations Example" of vSphere Resource Management 6.7: RP-MOM with 6 GHz, in it
/// RP-KID with 2 GHz, expandable, and two VMs of 2 GHz for it.
#[test]
fn the_example_of_vsphere() {
    let (mom, kid) = (1, 2);
    let family = || {
        ledger(vec![
            pool(0, None, 10_000, false),
            pool(mom, Some(0), 6_000, false),
            pool(kid, Some(mom), 2_000, true),
        ])
    };
    let mut first = family();
    first.admit(10, mom, reserve(1_000, 0)).unwrap();
    assert_eq!(first.admit(11, kid, reserve(2_000, 0)).unwrap().borrowed, []);
    let lent = Borrowed { resource: Resource::Cpu, pool: kid, from: mom, amount: 2_000 };
    assert_eq!(first.admit(12, kid, reserve(2_000, 0)).unwrap().borrowed, [lent]);
    let usage = first.usage(kid, Resource::Cpu).unwrap();
    let expected = Usage { reservation: 2_000, used: 4_000, borrowed: 2_000, available: 1_000 };
    assert_eq!(usage, expected);

    let mut second = family();
    second.admit(10, mom, reserve(3_000, 0)).unwrap();
    second.admit(11, kid, reserve(2_000, 0)).unwrap();
    let refused = refused(second.admit(12, kid, reserve(2_000, 0)));
    let [shortage] = &refused.shortages[..] else { panic!("{refused}") };
    let [obstacle] = &shortage.obstacles[..] else { panic!("{refused}") };
    assert_eq!((obstacle.pool, obstacle.wanted, obstacle.free), (mom, 2_000, 1_000));
    assert_eq!(shortage.most, Some(1_000));
    assert_eq!(
        refused.to_string(),
        "resource pool `p1` has 1000MHz of CPU unreserved and is not expandable, 2000MHz are asked \
         for: raise its reservation by 1000MHz to 7000MHz, or make it expandable; or reserve at most \
         1000MHz"
    );
}

#[test]
fn a_refusal_names_every_obstacle_up_to_the_root() {
    let gib = |count| ByteSize::gib(count).bytes();
    let mut ledger = ledger(vec![
        pool(0, None, gib(8), false),
        limited(1, Some(0), gib(2), true, Some(gib(6))),
        pool(2, Some(1), gib(1), false),
    ]);
    ledger.admit(7, 0, reserve(0, gib(3))).unwrap();
    let refused = refused(ledger.admit(8, 2, reserve(0, gib(9))));
    assert_eq!(
        refused.to_string(),
        "resource pool `p2` has 1GiB of memory unreserved and is not expandable, 9GiB are asked for: \
         raise its reservation by 8GiB to 9GiB, or make it expandable; and resource pool `p1` has \
         5GiB of memory left below its limit, 8GiB are asked for: raise its limit by 3GiB to 9GiB; \
         and resource pool `p0` has 3GiB of memory unreserved and is the root, 7GiB are asked for: \
         free 4GiB of what is reserved in it, or add hosts; or reserve at most 1GiB"
    );
    assert_eq!(ledger.reservation(8), None);
}

#[test]
fn both_resources_or_none() {
    let mut ledger = ledger(vec![pool(0, None, 10, false)]);
    assert_eq!(refused(ledger.admit(1, 0, reserve(5, 11))).shortages.len(), 1);
    assert_eq!(ledger.usage(0, Resource::Cpu).unwrap().used, 0);
    assert_eq!(refused(ledger.admit(1, 0, reserve(11, 11))).shortages.len(), 2);
    ledger.admit(1, 0, reserve(10, 10)).unwrap();
    ledger.admit(2, 0, reserve(0, 0)).unwrap();
    assert!(ledger.release(1));
    assert!(!ledger.release(1));
    assert_eq!(ledger.usage(0, Resource::Memory).unwrap().available, 10);
}

#[test]
fn pools_are_added_changed_and_removed_within_what_their_parent_has() {
    let mut ledger = ledger(vec![pool(0, None, 10, false), pool(1, Some(0), 6, false)]);
    let most = |refused: Refused<u32>| refused.shortages[0].most;
    assert_eq!(most(refused(ledger.add_pool(&pool(2, Some(0), 5, true)))), Some(4));
    ledger.add_pool(&pool(2, Some(0), 4, true)).unwrap();
    assert_eq!(most(refused(ledger.reconfigure(&pool(1, None, 7, false)))), Some(6));
    ledger.admit(7, 1, reserve(5, 5)).unwrap();
    let too_little = refused(ledger.reconfigure(&pool(1, None, 4, false)));
    let obstacle = &too_little.shortages[0].obstacles[0];
    assert_eq!((obstacle.kind, obstacle.wanted, obstacle.free), (ObstacleKind::Fixed, 5, 4));
    assert_eq!(obstacle.change, Change::RaiseReservation { by: 1, to: 5 });
    // The rest is borrowed, so it may be less than what is used.
    ledger.reconfigure(&pool(1, None, 4, true)).unwrap();
    assert_eq!(ledger.usage(0, Resource::Cpu).unwrap().used, 9);
    let over = ledger.reconfigure(&limited(1, None, 4, true, Some(3)));
    assert!(matches!(over, Err(LedgerError::ReservationOverLimit { .. })), "{over:?}");

    let error = ledger.remove_pool(1).unwrap_err().to_string();
    assert!(error.contains("`p1` holds 0 pools and 1 running VMs"), "{error}");
    let error = ledger.remove_pool(0).unwrap_err().to_string();
    assert!(error.contains("`p0` is the root"), "{error}");
    ledger.remove_pool(2).unwrap();
    assert_eq!(ledger.usage(0, Resource::Cpu).unwrap().used, 5);
    assert_eq!(ledger.usage(2, Resource::Cpu), None);
    assert_eq!(ledger.remove_pool(2), Err(LedgerError::UnknownPool(2)));
}

#[test]
fn a_vm_that_cannot_move_keeps_what_it_has() {
    let mut ledger = ledger(vec![pool(0, None, 10, false), pool(1, Some(0), 4, false)]);
    ledger.admit(7, 0, reserve(5, 5)).unwrap();
    refused(ledger.readmit(7, 1, reserve(5, 5)));
    assert_eq!(ledger.reservation(7), Some((0, PerResource { cpu: 5, memory: 5 })));
    // Its own are given back first.
    ledger.readmit(7, 0, reserve(6, 6)).unwrap();
    ledger.readmit(7, 1, reserve(4, 4)).unwrap();
    assert_eq!(ledger.usage(0, Resource::Cpu).unwrap().used, 4);
    assert_eq!(ledger.readmit(8, 0, reserve(1, 1)), Err(LedgerError::UnknownVm("8".to_owned())));
    let again = ledger.admit(7, 0, reserve(1, 1)).unwrap_err().to_string();
    assert!(again.contains("VM 7 has its reservation in resource pool `p1` already"), "{again}");
}

#[test]
fn lost_hosts_are_told_and_stop_admission() {
    let mut ledger = ledger(vec![pool(0, None, 10, false), pool(1, Some(0), 0, true)]);
    ledger.admit(7, 1, reserve(6, 6)).unwrap();
    assert_eq!(ledger.overcommitted(), []);
    ledger.set_capacity(reserve(4, 10));
    let [(Resource::Cpu, obstacle)] = &ledger.overcommitted()[..] else { panic!("{ledger:?}") };
    assert_eq!((obstacle.pool, obstacle.wanted, obstacle.free), (0, 6, 4));
    assert_eq!(obstacle.change, Change::AddCapacity { by: 2 });
    let refused = refused(ledger.admit(8, 1, reserve(1, 1)));
    assert_eq!(refused.shortages[0].obstacles[0].change, Change::AddCapacity { by: 3 });
    ledger.admit(8, 1, reserve(0, 1)).unwrap();
    // What runs is recorded all the same.
    ledger.restore(9, 1, reserve(u64::MAX, u64::MAX)).unwrap();
    ledger.restore(9, 1, reserve(1, 1)).unwrap();
    assert_eq!(ledger.usage(1, Resource::Cpu).unwrap().used, 7);
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u32, u32, Reserve),
    Readmit(u32, u32, Reserve),
    Restore(u32, u32, Reserve),
    Release(u32),
    AddPool(Pool<u32>),
    RemovePool(u32),
    Reconfigure(Pool<u32>),
    SetCapacity(Reserve),
}

const POOLS: u32 = 6;

fn any_pool() -> impl Strategy<Value = Pool<u32>> {
    let limit = prop::option::of(0..12_u64);
    (1..POOLS, 0..POOLS, 0..6_u64, any::<bool>(), limit).prop_map(
        |(id, parent, reservation, expandable, limit)| {
            let limit = limit.map(|limit| limit.max(reservation));
            limited(id, Some(parent % id), reservation, expandable, limit)
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let reserve = || (0..7_u64, 0..7_u64).prop_map(|(cpu, memory)| reserve(cpu, memory));
    let vm = || 0..8_u32;
    prop_oneof![
        6 => (vm(), 0..POOLS, reserve()).prop_map(|(vm, pool, r)| Step::Admit(vm, pool, r)),
        2 => (vm(), 0..POOLS, reserve()).prop_map(|(vm, pool, r)| Step::Readmit(vm, pool, r)),
        1 => (vm(), 0..POOLS, reserve()).prop_map(|(vm, pool, r)| Step::Restore(vm, pool, r)),
        3 => vm().prop_map(Step::Release),
        3 => any_pool().prop_map(Step::AddPool),
        1 => (0..POOLS).prop_map(Step::RemovePool),
        3 => any_pool().prop_map(Step::Reconfigure),
        1 => (5..25_u64, 5..25_u64).prop_map(|(c, m)| Step::SetCapacity(super::tests::reserve(c, m))),
    ]
}

/// All that is known, and nothing that is computed.
#[derive(Debug, Clone)]
struct Model {
    pools: BTreeMap<u32, Pool<u32>>,
    vms: BTreeMap<u32, (u32, Reserve)>,
}

impl Model {
    fn used(&self, pool: u32, resource: Resource) -> u64 {
        let own = self.vms.values().filter(|(of, _)| *of == pool);
        let vms: u64 = own.map(|(_, reserve)| reserve.amounts()[resource]).sum();
        let below = self.pools.values().filter(|child| child.parent == Some(pool));
        let pools: u64 = below
            .map(|child| child.numbers(resource).reservation.max(self.used(child.id, resource)))
            .sum();
        vms + pools
    }

    fn keeps_rules(&self, pool: u32, resource: Resource) -> bool {
        let numbers = self.pools[&pool].numbers(resource);
        let used = self.used(pool, resource);
        let borrows = numbers.expandable && pool != 0;
        (borrows || used <= numbers.reservation) && numbers.limit.is_none_or(|limit| used <= limit)
    }

    /// Whether a change is allowed: wherever it takes more than before, or a pool itself is
    /// changed, the rules are kept.
    fn allows(&self, after: &Self) -> bool {
        Resource::ALL.into_iter().all(|resource| {
            after.pools.iter().all(|(id, pool)| {
                let before = self.pools.get(id);
                let more =
                    after.used(*id, resource) > before.map_or(0, |_| self.used(*id, resource));
                let changed =
                    before.is_some_and(|before| before.numbers(resource) != pool.numbers(resource));
                !(more || changed) || after.keeps_rules(*id, resource)
            })
        })
    }

    fn check(&self, ledger: &Ledger<u32, u32>) -> Result<(), TestCaseError> {
        prop_assert_eq!(ledger.accounts.len(), self.pools.len());
        let mut over = Vec::new();
        for resource in Resource::ALL {
            for pool in self.pools.keys() {
                let usage = ledger.usage(*pool, resource).unwrap();
                prop_assert_eq!(usage.used, self.used(*pool, resource), "{} {}", pool, resource);
                if !self.keeps_rules(*pool, resource) {
                    over.push((resource, *pool));
                }
            }
        }
        let mut found: Vec<_> =
            ledger.overcommitted().iter().map(|(resource, o)| (*resource, o.pool)).collect();
        found.dedup();
        prop_assert_eq!(found, over);
        Ok(())
    }
}

/// Makes the changes of a refusal, but the `without`th, or with that one smaller by one.
fn made(
    ledger: &Ledger<u32, u32>,
    model: &Model,
    refused: &Refused<u32>,
    less: Option<(usize, bool)>,
) -> Ledger<u32, u32> {
    let mut ledger = ledger.clone();
    let mut pools = model.pools.clone();
    let all = refused.shortages.iter();
    let all = all.flat_map(|shortage| shortage.obstacles.iter().map(|o| (shortage.resource, o)));
    let all: Vec<_> = all.enumerate().collect();
    for (nth, (resource, obstacle)) in all.into_iter().rev() {
        let smaller = match less {
            Some((which, true)) if which == nth => continue,
            Some((which, false)) if which == nth => 1,
            _ => 0,
        };
        let pool = pools.get_mut(&obstacle.pool).unwrap();
        match (obstacle.change, resource) {
            (Change::RaiseReservation { to, .. }, Resource::Cpu) => {
                pool.cpu.reservation = Megahertz(to - smaller);
            }
            (Change::RaiseReservation { to, .. }, Resource::Memory) => {
                pool.memory.reservation = ByteSize(to - smaller);
            }
            (Change::RaiseLimit { to, .. }, Resource::Cpu) => {
                pool.cpu.limit = Some(Megahertz(to - smaller));
            }
            (Change::RaiseLimit { to, .. }, Resource::Memory) => {
                pool.memory.limit = Some(ByteSize(to - smaller));
            }
            (Change::AddCapacity { by }, Resource::Cpu) => pool.cpu.reservation.0 += by - smaller,
            (Change::AddCapacity { by }, Resource::Memory) => {
                pool.memory.reservation.0 += by - smaller;
            }
        }
        if pool.parent.is_none() && !matches!(obstacle.change, Change::RaiseLimit { .. }) {
            let capacity = Reserve { cpu: pool.cpu.reservation, memory: pool.memory.reservation };
            ledger.set_capacity(capacity);
        } else {
            // Without the one left out, it may be refused: then it is not made either.
            let _ = ledger.reconfigure(pool);
        }
    }
    ledger
}

/// The changes of a refusal are enough, each is needed, and none is larger than needed.
fn check_refusal(
    ledger: &Ledger<u32, u32>,
    model: &Model,
    (vm, pool, reserve): (u32, u32, Reserve),
    refused: &Refused<u32>,
) -> Result<(), TestCaseError> {
    let admits = |less| made(ledger, model, refused, less).admit(vm, pool, reserve);
    prop_assert!(admits(None).is_ok(), "{refused} is not enough: {:?}", admits(None));
    let count: usize = refused.shortages.iter().map(|shortage| shortage.obstacles.len()).sum();
    for nth in 0..count {
        prop_assert!(admits(Some((nth, true))).is_err(), "{refused}: not needed is {nth}");
        prop_assert!(admits(Some((nth, false))).is_err(), "{refused}: too large is {nth}");
    }
    for shortage in &refused.shortages {
        let most = shortage.most.unwrap();
        let only = |amount| match shortage.resource {
            Resource::Cpu => self::reserve(amount, 0),
            Resource::Memory => self::reserve(0, amount),
        };
        prop_assert!(ledger.check(pool, only(most)).is_ok(), "{refused}: {most} is too much");
        prop_assert!(ledger.check(pool, only(most + 1)).is_err(), "{refused}: more than {most}");
    }
    Ok(())
}

/// Does a step on both, and says whether the ledger took it as the model does.
fn carry_out(
    step: &Step,
    ledger: &mut Ledger<u32, u32>,
    model: &mut Model,
) -> Result<(), TestCaseError> {
    let mut after = model.clone();
    let exists = |pool: &u32| model.pools.contains_key(pool);
    let (took, allowed) = match step {
        Step::Admit(vm, pool, reserve) => {
            after.vms.insert(*vm, (*pool, *reserve));
            let possible = exists(pool) && !model.vms.contains_key(vm);
            let allowed = possible && model.allows(&after);
            let before = ledger.clone();
            let answer = ledger.admit(*vm, *pool, *reserve);
            if let Err(LedgerError::Refused(refused)) = &answer {
                check_refusal(&before, model, (*vm, *pool, *reserve), refused)?;
            }
            (answer.is_ok(), allowed)
        }
        Step::Readmit(vm, pool, reserve) => {
            let mut without = model.clone();
            let possible = exists(pool) && without.vms.remove(vm).is_some();
            after.vms.insert(*vm, (*pool, *reserve));
            let allowed = possible && without.allows(&after);
            (ledger.readmit(*vm, *pool, *reserve).is_ok(), allowed)
        }
        Step::Restore(vm, pool, reserve) => {
            after.vms.insert(*vm, (*pool, *reserve));
            (ledger.restore(*vm, *pool, *reserve).is_ok(), exists(pool))
        }
        Step::Release(vm) => (ledger.release(*vm), after.vms.remove(vm).is_some()),
        Step::AddPool(pool) => {
            after.pools.insert(pool.id, pool.clone());
            let possible = !exists(&pool.id) && pool.parent.is_some_and(|parent| exists(&parent));
            (ledger.add_pool(pool).is_ok(), possible && model.allows(&after))
        }
        Step::RemovePool(pool) => {
            let empty = model.vms.values().all(|(of, _)| of != pool)
                && model.pools.values().all(|child| child.parent != Some(*pool));
            after.pools.remove(pool);
            (ledger.remove_pool(*pool).is_ok(), *pool != 0 && exists(pool) && empty)
        }
        Step::Reconfigure(pool) => {
            let Some(before) = model.pools.get(&pool.id) else {
                prop_assert!(ledger.reconfigure(pool).is_err());
                return Ok(());
            };
            after.pools.insert(pool.id, Pool { parent: before.parent, ..pool.clone() });
            (ledger.reconfigure(pool).is_ok(), model.allows(&after))
        }
        Step::SetCapacity(capacity) => {
            let root = after.pools.get_mut(&0).unwrap();
            (root.cpu.reservation, root.memory.reservation) = (capacity.cpu, capacity.memory);
            ledger.set_capacity(*capacity);
            (true, true)
        }
    };
    prop_assert_eq!(took, allowed, "{:?} on {:?}", step, model);
    if took {
        *model = after;
    }
    model.check(ledger)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_work_is_as_the_model_says(steps in prop::collection::vec(any_step(), 1..40)) {
        let root = pool(0, None, 20, false);
        let mut ledger = ledger(vec![root.clone()]);
        let mut model = Model { pools: BTreeMap::from([(0, root)]), vms: BTreeMap::new() };
        for step in &steps {
            carry_out(step, &mut ledger, &mut model)?;
        }
        // Without force from outside, nobody is ever promised what is not there.
        let forced = |step: &Step| matches!(step, Step::Restore(..) | Step::SetCapacity(_));
        if !steps.iter().any(forced) {
            prop_assert_eq!(ledger.overcommitted(), []);
        }
        for vm in 0..8 {
            ledger.release(vm);
        }
        for pool in (1..POOLS).rev() {
            let _ = ledger.remove_pool(pool);
        }
        prop_assert_eq!(ledger.usage(0, Resource::Cpu).unwrap().used, 0, "all is given back");
    }
}
