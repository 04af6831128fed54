//! Limits of snapshots: told, refused, or kept by deleting the oldest.

use std::sync::Arc;

use hostler_control::services::snapshot_policy::{
    self, SnapshotPolicyCreate, SnapshotPolicyUpdate,
};
use hostler_control::services::vm::snapshot::{self, SnapshotCreate};
use hostler_control::services::{Options, event, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::Fleet;
use hostler_types::{
    AtLimit, Labels, Ref, SnapshotLimits, SnapshotPolicySpec, SnapshotRules, Task, TaskKind, VmId,
    VmKind, VmUpdate,
};
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

async fn ordered(fleet: &Fleet, vm: &str) -> Result<Arc<Task>, ServiceError> {
    let vm: Ref = vm.parse().unwrap();
    snapshot::create(&fleet.world, &root(), &vm, &SnapshotCreate::default(), &plain()).await
}

async fn take(fleet: &Fleet, count: usize) {
    for _ in 0..count {
        fleet.done(&ordered(fleet, "web01").await.unwrap()).await;
    }
}

async fn policy(fleet: &Fleet, name: &str, limits: SnapshotLimits) -> Ref {
    let spec = SnapshotPolicySpec { limits, ..SnapshotPolicySpec::default() };
    let request = SnapshotPolicyCreate { name: name.parse().unwrap(), spec };
    snapshot_policy::create(&fleet.world, &root(), request).await.unwrap().reference()
}

fn merging() -> SnapshotLimits {
    SnapshotLimits { at_limit: Some(AtLimit::Merge), ..SnapshotLimits::default() }
}

/// As if the VM's first snapshot had been taken so long ago.
fn age(fleet: &Fleet, vm: VmId, hours: i64) {
    let at = Timestamp::now() - SignedDuration::from_hours(hours);
    fleet.host.change(vm, |sim| sim.storage.tree.snapshots[0].at = at);
}

async fn until_warned(fleet: &Fleet, vm: VmId, warned: bool) -> Vec<String> {
    let snapshot = fleet
        .until("it is warned, or not", |now| {
            now.get::<VmKind>(vm).unwrap().status.snapshot_warnings.is_empty() != warned
        })
        .await;
    snapshot.get::<VmKind>(vm).unwrap().status.snapshot_warnings.clone()
}

#[tokio::test]
async fn without_a_policy_it_is_told_and_no_more() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    take(&fleet, 4).await;
    let told = until_warned(&fleet, vm.id(), true).await;
    let depth = "4 snapshots lie beneath its disks, and at most 3 should";
    assert_eq!(told, [depth, "nothing is done about it but to tell"]);
    let events = event::list(&fleet.world, &root(), &event::EventQuery::default()).await.unwrap();
    let told = events.items.iter().filter(|event| event.reason.starts_with("snapshots: 4"));
    assert_eq!(told.count(), 1, "it is told once");

    // The VM may say otherwise for itself.
    let limits = SnapshotLimits { max_depth: Some(10), ..SnapshotLimits::default() };
    let update = VmUpdate { snapshot_limits: Some(limits), ..VmUpdate::default() };
    let update = vm::update(&fleet.world, &root(), &vm.reference(), update, None, &plain()).await;
    fleet.done(&update.unwrap().task.unwrap()).await;
    until_warned(&fleet, vm.id(), false).await;
    age(&fleet, vm.id(), 73);
    let told = until_warned(&fleet, vm.id(), true).await;
    assert!(told[0].ends_with("is older than 72 h"), "{told:?}");
    let wrong = SnapshotLimits { max_depth: Some(65), ..SnapshotLimits::default() };
    let update = VmUpdate { snapshot_limits: Some(wrong), ..VmUpdate::default() };
    let refused = vm::update(&fleet.world, &root(), &vm.reference(), update, None, &plain()).await;
    assert_eq!(refused.unwrap_err().code, "invalid");
}

#[tokio::test]
async fn a_policy_may_refuse() {
    let fleet = Fleet::new().await;
    fleet.vm("web01").await;
    let limits = SnapshotLimits {
        max_depth: Some(1),
        at_limit: Some(AtLimit::Refuse),
        ..SnapshotLimits::default()
    };
    let policy = policy(&fleet, "strict", limits).await;
    take(&fleet, 1).await;
    let error = ordered(&fleet, "web01").await.unwrap_err();
    assert_eq!(error.code, "snapshot_policy");
    assert_eq!(
        error.message,
        "vm `web01` takes no further snapshot: 1 snapshot lies beneath its disks, and 1 may \
         (policy: strict, default)"
    );
    let limits = Some(SnapshotLimits { max_depth: Some(2), ..limits });
    let change = SnapshotPolicyUpdate { selector: None, limits };
    snapshot_policy::update(&fleet.world, &root(), &policy, change, None).await.unwrap();
    take(&fleet, 1).await;
    snapshot_policy::delete(&fleet.world, &root(), &policy).await.unwrap();
    take(&fleet, 1).await;
}

/// Gives the VM the labels, as `vm set --label` does, and tells what counts for it then.
async fn labelled(fleet: &Fleet, vm: &str, labels: &[(&str, &str)]) -> SnapshotRules {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let update = VmUpdate { labels: Some(labels.collect()), ..VmUpdate::default() };
    let vm: Ref = vm.parse().unwrap();
    let ordered = vm::update(&fleet.world, &root(), &vm, update, None, &plain()).await.unwrap();
    if let Some(task) = ordered.task {
        fleet.done(&task).await;
    }
    snapshot::list(&fleet.world, &root(), &vm).unwrap().rules
}

#[tokio::test]
async fn a_projects_policy_is_about_the_vms_with_its_label_and_no_others() {
    let fleet = Fleet::new().await;
    fleet.vm("web01").await;
    fleet.vm("web02").await;
    let selector: Labels = [("project".to_owned(), "shop".to_owned())].into();
    let limits = SnapshotLimits {
        max_depth: Some(1),
        at_limit: Some(AtLimit::Refuse),
        ..SnapshotLimits::default()
    };
    let mut of_databases = selector.clone();
    of_databases.insert("tier".to_owned(), "db".to_owned());
    let deeper = SnapshotLimits { max_depth: Some(2), ..SnapshotLimits::default() };
    for (name, selector, limits) in [("shop", selector, limits), ("shop-db", of_databases, deeper)]
    {
        let spec = SnapshotPolicySpec { selector, limits };
        let request = SnapshotPolicyCreate { name: name.parse().unwrap(), spec };
        snapshot_policy::create(&fleet.world, &root(), request).await.unwrap();
    }

    let rules = labelled(&fleet, "web01", &[("project", "shop")]).await;
    assert_eq!((rules.max_depth, rules.at_limit), (Some(1), AtLimit::Refuse));
    assert_eq!(rules.from, ["shop", "default"]);
    let rules = labelled(&fleet, "web02", &[("project", "blog")]).await;
    assert_eq!(rules.from, ["default"], "another project is none of its business");
    for vm in ["web01", "web02"] {
        fleet.done(&ordered(&fleet, vm).await.unwrap()).await;
    }
    let refused = ordered(&fleet, "web01").await.unwrap_err();
    assert!(refused.message.contains("(policy: shop, default)"), "{}", refused.message);
    fleet.done(&ordered(&fleet, "web02").await.unwrap()).await;

    // Within the project, the VMs of one tier may have more; who leaves it is rid of its limits.
    let rules = labelled(&fleet, "web01", &[("project", "shop"), ("tier", "db")]).await;
    assert_eq!(rules.from, ["shop-db", "shop", "default"]);
    fleet.done(&ordered(&fleet, "web01").await.unwrap()).await;
    assert_eq!(labelled(&fleet, "web01", &[]).await.at_limit, AtLimit::Warn);
}

#[tokio::test]
async fn a_policy_may_merge_and_says_why() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    policy(&fleet, "tidy", merging()).await;
    take(&fleet, 2).await;
    age(&fleet, vm.id(), 73);
    let snapshot = fleet
        .until("the old one is gone", |now| {
            let vm = now.get::<VmKind>(vm.id()).unwrap();
            vm.status.snapshots.snapshots.len() == 1 && now.task_on(vm.id().untyped()).is_none()
        })
        .await;
    let mut tasks = snapshot.all::<TaskKind>().iter();
    let task = tasks.find(|task| task.spec.action == "vm.snapshot_delete").unwrap();
    assert_eq!(task.spec.actor, "system");
    let said = &task.status.messages[0].text;
    assert!(said.starts_with("snapshot policy: snapshot `snap-"), "{said}");
    until_warned(&fleet, vm.id(), false).await;
}

#[tokio::test]
async fn merging_waits_for_the_quiet_window() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    // One that does not begin within the hour, whatever time it is now.
    let at = |hours: i64| (&Zoned::now() + hours.hours()).strftime("%H:00").to_string();
    let window = format!("{}-{}", at(2), at(3));
    let limits = SnapshotLimits { window: Some(window.parse().unwrap()), ..merging() };
    let policy = policy(&fleet, "nightly", limits).await;
    take(&fleet, 4).await;
    let told = until_warned(&fleet, vm.id(), true).await;
    assert_eq!(told[1], format!("the oldest are deleted in the quiet window, {window}"));
    let deletions = |now: &hostler_control::Snapshot| {
        let tasks = now.all::<TaskKind>().iter();
        tasks.filter(|task| task.spec.action == "vm.snapshot_delete").count()
    };
    // VMs are looked at in the order of their ids: whoever sees to the second has seen the first.
    let other = fleet.vm("web02").await;
    fleet.done(&ordered(&fleet, "web02").await.unwrap()).await;
    age(&fleet, other.id(), 73);
    until_warned(&fleet, other.id(), true).await;
    assert_eq!(deletions(&fleet.snapshot()), 0);
    // Opened, it is done.
    let limits = Some(merging());
    let change = SnapshotPolicyUpdate { selector: None, limits };
    snapshot_policy::update(&fleet.world, &root(), &policy, change, None).await.unwrap();
    fleet
        .until("the oldest is gone", |now| {
            now.get::<VmKind>(vm.id()).unwrap().status.snapshots.snapshots.len() == 3
        })
        .await;
}
