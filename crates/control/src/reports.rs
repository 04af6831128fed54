//! What the hosts last said of their VMs, and how it becomes a VM's status.
//!
//! A VM's status has one writer at a time: the task that holds the VM, else the controller of its
//! host. While a task is at work the host's reports are only kept here; when it ends, whatever is
//! left of a difference is written.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hostler_agent_api::VmReport;
use hostler_types::{ByteSize, Epoch, HostId, PowerState, SnapshotTree, VmId, VmStatus};

/// An event may have been sent before an answer and arrive after it. For so long after an answer,
/// reports of an earlier power state are not believed.
const OVERTAKING: Duration = Duration::from_secs(2);
/// Disks grow with every write of the guest; only what a person would notice is recorded.
const STEP: u64 = 64 << 20;

/// The last report of each VM.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<Board>);

/// What happens to one host's VMs must not cost more with every other host there is.
#[derive(Debug, Default)]
struct Board {
    noted: HashMap<VmId, Noted>,
    /// The VMs in `noted`.
    by_host: HashMap<HostId, HashSet<VmId>>,
}

#[derive(Debug)]
struct Noted {
    host: HostId,
    epoch: Epoch,
    since: jiff::Timestamp,
    /// A [`VmReport`] as JSON: a fifth of what it takes in memory, and seldom looked at again.
    report: Box<[u8]>,
    answered: Option<Instant>,
}

impl Noted {
    fn new(host: HostId, report: &VmReport, answered: Option<Instant>) -> Self {
        let text = serde_json::to_vec(report).expect("a report has a JSON form");
        Self { host, epoch: report.epoch, since: report.since, report: text.into(), answered }
    }

    fn report(&self) -> VmReport {
        serde_json::from_slice(&self.report).expect("it was a report")
    }
}

impl Board {
    fn note(&mut self, vm: VmId, noted: Noted) {
        let host = noted.host;
        if let Some(old) = self.noted.insert(vm, noted)
            && old.host != host
        {
            self.unlist(old.host, vm);
        }
        self.by_host.entry(host).or_default().insert(vm);
    }

    fn forget(&mut self, vm: VmId) {
        if let Some(old) = self.noted.remove(&vm) {
            self.unlist(old.host, vm);
        }
    }

    fn unlist(&mut self, host: HostId, vm: VmId) {
        if let Some(vms) = self.by_host.get_mut(&host) {
            vms.remove(&vm);
            if vms.is_empty() {
                self.by_host.remove(&host);
            }
        }
    }

    /// Forgets what a host said of its VMs, but for those that `keep` holds.
    fn forget_host(&mut self, host: HostId, keep: impl Fn(&Noted) -> bool) {
        let vms = self.by_host.get(&host).into_iter().flatten();
        let gone = vms.filter(|vm| !self.noted.get(vm).is_some_and(&keep)).copied();
        for vm in gone.collect::<Vec<_>>() {
            self.forget(vm);
        }
    }
}

impl Noted {
    fn answered_just_now(&self) -> bool {
        self.answered.is_some_and(|answered| answered.elapsed() < OVERTAKING)
    }
}

impl Reports {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the answer to a command.
    pub(crate) fn answer(&self, host: HostId, report: &VmReport) {
        self.board().note(report.vm, Noted::new(host, report, Some(Instant::now())));
    }

    /// From the event stream.
    pub(crate) fn event(&self, host: HostId, report: &VmReport) {
        let mut board = self.board();
        if let Some(noted) = board.noted.get(&report.vm)
            && noted.host == host
            && noted.answered_just_now()
            && report.since < noted.since
        {
            return;
        }
        // Of a VM that another host has under a later epoch.
        if let Some(noted) = board.noted.get(&report.vm)
            && noted.host != host
            && noted.epoch > report.epoch
        {
            return;
        }
        board.note(report.vm, Noted::new(host, report, None));
    }

    /// All that a host has: VMs that `reports` does not hold are forgotten, unless they were told of
    /// just now, by an answer that may have overtaken this.
    pub(crate) fn replace(&self, host: HostId, reports: &[VmReport]) {
        self.board().forget_host(host, Noted::answered_just_now);
        for report in reports {
            self.event(host, report);
        }
    }

    pub(crate) fn forget(&self, vm: VmId) {
        self.board().forget(vm);
    }

    /// A host does not have the VM any more; what another one says of it stays.
    pub(crate) fn forget_from(&self, host: HostId, vm: VmId) {
        let mut board = self.board();
        if board.noted.get(&vm).is_some_and(|noted| noted.host == host) {
            board.forget(vm);
        }
    }

    pub(crate) fn forget_host(&self, host: HostId) {
        self.board().forget_host(host, |_| false);
    }

    /// What each host last said of each VM, whether the inventory knows it or not.
    pub(crate) fn all(&self) -> Vec<(HostId, VmReport)> {
        self.board().noted.values().map(|noted| (noted.host, noted.report())).collect()
    }

    pub(crate) fn last(&self, vm: VmId) -> Option<VmReport> {
        self.board().noted.get(&vm).map(Noted::report)
    }

    /// What a host last said of a VM under an epoch.
    pub(crate) fn of(&self, host: HostId, vm: VmId, epoch: Epoch) -> Option<VmReport> {
        let board = self.board();
        let noted = board.noted.get(&vm).filter(|n| n.host == host && n.epoch == epoch);
        noted.map(Noted::report)
    }

    /// Whether a host has said anything of it.
    pub(crate) fn knows(&self, vm: VmId) -> bool {
        self.board().noted.contains_key(&vm)
    }
}

/// Takes a host's report over; `false` if there is nothing worth writing.
///
/// Whatever the host says is true, legal transition or not: it sees the process. Only what was said
/// under an older ownership is not.
pub(crate) fn absorb(status: &mut VmStatus, report: &VmReport) -> bool {
    if report.epoch < status.epoch {
        return false;
    }
    let mut new = status.clone();
    new.power = report.power;
    new.power_since = report.since;
    new.message.clone_from(&report.message);
    new.nics.clone_from(&report.nics);
    new.guest.clone_from(&report.guest);
    new.hardware = report.hardware;
    new.cpu.clone_from(&report.cpu);
    new.pending.clone_from(&report.pending);
    new.snapshots = as_last_told(&status.snapshots, &report.snapshots);
    new.seal.clone_from(&report.seal);
    // An agent of the version before says nothing of it.
    if report.customization.is_some() {
        new.customization.clone_from(&report.customization);
    }
    let grown = disks_differ(status, report);
    if new == *status && !grown {
        return false;
    }
    new.disks.clone_from(&report.disks);
    new.snapshots.clone_from(&report.snapshots);
    *status = new;
    true
}

/// The tree as it is now, its sizes as they were where they have not grown much since.
fn as_last_told(old: &SnapshotTree, new: &SnapshotTree) -> SnapshotTree {
    let mut tree = new.clone();
    for snapshot in &mut tree.snapshots {
        let before = old.get(snapshot.id).map(|before| before.written);
        snapshot.written =
            before.filter(|b| !grown(*b, snapshot.written)).unwrap_or(snapshot.written);
    }
    tree
}

fn grown(old: ByteSize, new: ByteSize) -> bool {
    old.0.abs_diff(new.0) >= STEP
}

fn disks_differ(status: &VmStatus, report: &VmReport) -> bool {
    if status.disks.len() != report.disks.len() {
        return true;
    }
    status.disks.iter().zip(&report.disks).any(|(old, new)| {
        old.name != new.name
            || grown(old.allocated, new.allocated)
            || !old.layers.iter().map(|l| &l.file).eq(new.layers.iter().map(|l| &l.file))
    })
}

/// Its host does not answer.
pub(crate) fn lose(status: &mut VmStatus, now: jiff::Timestamp, host: &str) -> bool {
    if matches!(status.power, PowerState::Unknown | PowerState::Creating) {
        return false;
    }
    let before = status.power;
    status.power = PowerState::Unknown;
    status.power_since = now;
    status.message = Some(format!("host `{host}` does not answer; it was {before} before"));
    true
}

#[cfg(test)]
mod tests {
    use hostler_types::{DatastoreId, DiskStatus, Epoch};
    use jiff::Timestamp;

    use super::*;

    fn status() -> VmStatus {
        VmStatus {
            power: PowerState::Stopped,
            power_since: Timestamp::UNIX_EPOCH,
            message: None,
            host: HostId::generate(),
            epoch: Epoch(2),
            datastore: DatastoreId::generate(),
            disks: Vec::new(),
            nics: Vec::new(),
            customization: None,
            guest: None,
            hardware: None,
            cpu: None,
            pending: Vec::new(),
            snapshots: SnapshotTree::default(),
            snapshot_warnings: Vec::new(),
            seal: None,
            placement: Vec::new(),
            moved_at: None,
            last_move: None,
        }
    }

    fn report(epoch: u64, power: PowerState, second: i64) -> VmReport {
        VmReport {
            vm: VmId::from_uuid(uuid::Uuid::nil()),
            epoch: Epoch(epoch),
            power,
            since: Timestamp::from_second(second).unwrap(),
            message: None,
            disks: Vec::new(),
            nics: Vec::new(),
            guest: None,
            hardware: None,
            cpu: None,
            pending: Vec::new(),
            customization: None,
            snapshots: SnapshotTree::default(),
            seal: None,
            guest_disks: None,
            datastore: None,
        }
    }

    #[test]
    fn what_an_earlier_owner_says_is_not_believed() {
        let mut status = status();
        assert!(!absorb(&mut status, &report(1, PowerState::Running, 5)));
        assert_eq!(status.power, PowerState::Stopped);
        assert!(absorb(&mut status, &report(2, PowerState::Running, 5)));
        assert_eq!(status.power, PowerState::Running);
    }

    #[test]
    fn small_growth_of_a_disk_is_not_written() {
        let mut status = status();
        let disk = |mib| DiskStatus {
            name: "disk0".parse().unwrap(),
            allocated: hostler_types::ByteSize::mib(mib),
            layers: Vec::new(),
        };
        status.disks = vec![disk(10)];
        let mut grown = report(2, PowerState::Stopped, 0);
        grown.disks = vec![disk(60)];
        assert!(!absorb(&mut status, &grown));
        grown.disks = vec![disk(80)];
        assert!(absorb(&mut status, &grown));
        assert_eq!(status.disks, [disk(80)]);
    }

    #[test]
    fn small_growth_of_a_snapshot_is_not_written() {
        let id = hostler_types::SnapshotId::generate();
        let tree = |mib: u64, name: &str| {
            let snapshot = serde_json::json!({
                "id": id, "name": name, "at": Timestamp::UNIX_EPOCH, "by": "root",
                "consistency": "crash", "disks": [], "written": mib << 20,
            });
            let snapshots = vec![serde_json::from_value(snapshot).unwrap()];
            SnapshotTree { current: Some(id), snapshots }
        };
        let mut status = status();
        let mut told = report(2, PowerState::Stopped, 0);
        told.snapshots = tree(10, "a");
        assert!(absorb(&mut status, &told), "a new one is");
        told.snapshots = tree(60, "a");
        assert!(!absorb(&mut status, &told));
        told.snapshots = tree(60, "b");
        assert!(absorb(&mut status, &told));
        assert_eq!(status.snapshots, tree(60, "b"), "with its size of now");
        told.snapshots = tree(200, "b");
        assert!(absorb(&mut status, &told));
        told.snapshots = SnapshotTree::default();
        assert!(absorb(&mut status, &told));
        assert!(status.snapshots.is_empty());
    }

    #[test]
    fn a_host_that_is_forgotten_takes_only_its_own_with_it() {
        let (reports, one, two) = (Reports::default(), HostId::generate(), HostId::generate());
        let of = |vm| VmReport { vm, ..report(1, PowerState::Running, 1) };
        let vms: Vec<_> = (0..4).map(|_| VmId::generate()).collect();
        reports.replace(one, &[of(vms[0]), of(vms[1])]);
        reports.replace(two, &[of(vms[2])]);
        // It has moved, been forgotten, been answered for just now.
        reports.event(two, &of(vms[1]));
        reports.forget(vms[0]);
        reports.answer(one, &of(vms[3]));
        reports.replace(one, &[]);
        let known = |vm: &VmId| reports.knows(*vm);
        assert_eq!(vms.iter().map(known).collect::<Vec<_>>(), [false, true, true, true]);
        reports.forget_host(one);
        assert_eq!(vms.iter().map(known).collect::<Vec<_>>(), [false, true, true, false]);
        reports.forget_host(two);
        assert!(reports.all().is_empty() && reports.board().by_host.is_empty());
    }

    #[test]
    fn an_event_that_an_answer_has_overtaken_is_dropped() {
        let (reports, host) = (Reports::default(), HostId::generate());
        let vm = report(1, PowerState::Running, 9).vm;
        reports.answer(host, &report(1, PowerState::Running, 9));
        reports.event(host, &report(1, PowerState::Starting, 8));
        assert_eq!(reports.last(vm).unwrap().power, PowerState::Running);
        reports.event(host, &report(1, PowerState::Failed, 10));
        assert_eq!(reports.last(vm).unwrap().power, PowerState::Failed);
        // Without an answer before it, an earlier time is a clock that was set back.
        reports.event(host, &report(1, PowerState::Running, 7));
        assert_eq!(reports.last(vm).unwrap().power, PowerState::Running);
    }
}
