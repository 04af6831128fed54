//! How long dividing a cluster's CPU and memory takes, and admitting a VM:
//! `cargo run --release --package hostler-policy --example bench_entitlement [-- RUNS]`.
//!
//! In one process and one thread, on a fleet made by a fixed rule: nothing is read, nothing is
//! random, and each division is checked to have lost or made nothing. Counted is the thread's time
//! on the CPU, which on an idle machine is what passes; others' work does not count.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::Duration;

use hostler_policy::entitlement::{EntitlementTree, Entitlements, Entitler};
use hostler_policy::pools::{
    Hierarchy, Ledger, Megahertz, Pool, PoolAllocation, PoolVm, Reserve, Resource, Shares,
    VmAllocation,
};
use hostler_types::ByteSize;
use rustix::time::{ClockId, clock_gettime};

/// A core's speed.
const MHZ: u64 = 2_600;

fn main() {
    let runs = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(15);
    println!("| what | median | range | must reach | |\n|---|---|---|---|---|");
    // Pools two deep of about 100 VMs each, as departments and their projects; and none at all, the
    // worst case for dividing.
    for (vms, pools, most) in [(20_000, 200, 2.0), (400_000, 4_000, 50.0), (400_000, 0, 50.0)] {
        let mut fleet = Fleet::new(vms, pools);
        for resource in Resource::ALL {
            // Of the VMs' demand: hosts were lost; ordinary; idle.
            for (percent, state) in [(10, "short"), (70, "contended"), (150, "spare")] {
                let what = format!(
                    "entitlement, {vms} VMs in {pools} pools, {resource}, {state} ({percent} % of demand)"
                );
                let capacity = fleet.demand(resource) / 100 * percent;
                let times = (0..runs).map(|_| fleet.time(resource, capacity)).collect();
                report(&what, times, Some(most));
            }
        }
        let times = (0..runs.min(5)).map(|_| fleet.time_building()).collect();
        report(&format!("making the tree, {vms} VMs in {pools} pools"), times, None);
        let times = (0..runs.min(5)).map(|_| fleet.time_admission()).collect();
        report(&format!("admitting and releasing each of {vms} VMs"), times, None);
    }
}

/// This thread's time on the CPU so far.
fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn report(what: &str, mut times: Vec<Duration>, most: Option<f64>) {
    times.sort_unstable();
    let milliseconds = |at: usize| times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let (lowest, highest) = (milliseconds(0), milliseconds(times.len().saturating_sub(1)));
    let median = milliseconds(times.len() / 2);
    let (limit, verdict) = match most {
        Some(most) if median <= most => (format!("≤ {most} ms"), "ok"),
        Some(most) => (format!("≤ {most} ms"), "MISSED"),
        None => (String::new(), ""),
    };
    println!("| {what} | {median:.2} ms | {lowest:.2} – {highest:.2} | {limit} | {verdict} |");
}

/// Pools and VMs of a cluster, keyed by number.
struct Fleet {
    pools: Vec<Pool<u32>>,
    vms: Vec<PoolVm<u32, u32>>,
    tree: EntitlementTree<u32, u32>,
    /// In the tree's order of VMs, in thousandths of their size.
    busy: Vec<u64>,
    /// As the server keeps it, from one round to the next.
    entitler: Entitler,
}

impl Fleet {
    fn new(vms: u32, pools: u32) -> Self {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
        let pools: Vec<_> = (0..=pools).map(|id| pool(id, &mut dice)).collect();
        let last = u64::try_from(pools.len() - 1).unwrap_or(0);
        let vms: Vec<_> = (0..vms).map(|id| vm(id, last, &mut dice)).collect();
        let hierarchy = Hierarchy::new(pools.clone()).expect("the rule makes a tree");
        let tree = EntitlementTree::new(hierarchy, &vms).expect("each VM's pool is there");
        let busy = vms.iter().map(|_| dice.roll(1_000)).collect();
        Self { pools, vms, tree, busy, entitler: Entitler::default() }
    }

    fn entitle(&mut self, resource: Resource, capacity: u64) -> Entitlements {
        let size = match resource {
            Resource::Cpu => 4 * MHZ,
            Resource::Memory => ByteSize::gib(8).bytes(),
        };
        let busy = &self.busy;
        self.entitler.entitle(&self.tree, resource, capacity, |at| size / 1_000 * busy[at])
    }

    /// What the VMs want together.
    fn demand(&mut self, resource: Resource) -> u64 {
        self.entitle(resource, 0).vms.iter().map(|vm| vm.demand).sum()
    }

    fn time(&mut self, resource: Resource, capacity: u64) -> Duration {
        let begin = on_cpu();
        let entitlements = self.entitle(resource, capacity);
        let took = on_cpu().saturating_sub(begin);
        let given: u64 = entitlements.vms.iter().map(|vm| vm.entitled).sum();
        let usable = entitlements.pools.first().map_or(0, |root| root.ceiling);
        assert_eq!(given, capacity.min(usable), "nothing is lost or made");
        took
    }

    fn time_building(&self) -> Duration {
        let pools = self.pools.clone();
        let begin = on_cpu();
        let hierarchy = Hierarchy::new(pools).expect("the rule makes a tree");
        let tree = EntitlementTree::new(hierarchy, &self.vms).expect("each VM's pool is there");
        let took = on_cpu().saturating_sub(begin);
        assert_eq!(tree.vms().len(), self.vms.len());
        took
    }

    fn time_admission(&self) -> Duration {
        let hierarchy = Hierarchy::new(self.pools.clone()).expect("the rule makes a tree");
        let mut ledger = Ledger::new(&hierarchy);
        ledger.set_capacity(Reserve { cpu: Megahertz(u64::MAX), memory: ByteSize(u64::MAX) });
        let begin = on_cpu();
        for vm in &self.vms {
            let reserve = Reserve { cpu: vm.cpu.reservation, memory: vm.memory.reservation };
            ledger.admit(vm.id, vm.pool, reserve).expect("there is room for all");
        }
        for vm in &self.vms {
            assert!(ledger.release(vm.id));
        }
        on_cpu().saturating_sub(begin)
    }
}

/// The root, then departments, then nine projects to each; all may borrow.
fn pool(id: u32, dice: &mut Dice) -> Pool<u32> {
    let parent = match id {
        0 => None,
        id if id % 10 == 1 => Some(0),
        id => Some((id - 1) / 10 * 10 + 1),
    };
    let reservation = if id == 0 { 0 } else { dice.roll(10_000) };
    Pool {
        id,
        name: format!("pool-{id}"),
        parent,
        cpu: PoolAllocation {
            shares: dice.shares(),
            reservation: Megahertz(reservation),
            expandable: true,
            limit: None,
        },
        memory: PoolAllocation {
            shares: dice.shares(),
            reservation: ByteSize::mib(reservation),
            expandable: true,
            limit: None,
        },
    }
}

fn vm(id: u32, pools: u64, dice: &mut Dice) -> PoolVm<u32, u32> {
    let vcpus = 1 << dice.roll(4);
    let gib = vcpus * (1 + dice.roll(8));
    // One in four has something reserved.
    let reserved = if dice.roll(4) == 0 { dice.roll(500) } else { 0 };
    PoolVm {
        id,
        pool: u32::try_from(if pools == 0 { 0 } else { 1 + dice.roll(pools) }).unwrap_or(0),
        vcpus: u32::try_from(vcpus).unwrap_or(1),
        cpu: VmAllocation {
            shares: dice.shares(),
            reservation: Megahertz(vcpus * MHZ * reserved / 1_000),
            limit: None,
            configured: Megahertz(vcpus * MHZ),
        },
        memory: VmAllocation {
            shares: dice.shares(),
            reservation: ByteSize::mib(gib * reserved),
            limit: None,
            configured: ByteSize::gib(gib),
        },
    }
}

/// Marsaglia's xorshift: the same fleet on every machine.
struct Dice(u64);

impl Dice {
    /// Below `sides`, which is not zero.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn shares(&mut self) -> Shares {
        match self.roll(10) {
            0 => Shares::Low,
            1 => Shares::High,
            _ => Shares::Normal,
        }
    }
}
