//! How long a guest may stand still when it moves: what its VM says, what is foretold and refused, what is
//! kept of how it went; and many that are to move at once.

use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::VmMigrationMeasured;
use hostler_control::services::Options;
use hostler_control::services::vm as vms;
use hostler_control::services::vm::{Migration, VmMigrate};
use hostler_control::{Actor, ServiceError};
use hostler_types::{
    HostKind, MigrationPolicy, MigrationTerms, PowerState, Ref, Task, TaskState, VmKind, VmUpdate,
};
use serde_json::json;

use crate::migrate::{Two, plain, soon};

async fn migrate(two: &Two, request: VmMigrate, dry_run: bool) -> Result<Migration, ServiceError> {
    let options = Options { dry_run, ..Options::default() };
    vms::migrate(&two.fleet.world, &Actor::root(), &Ref::by_id(two.vm), &request, &options).await
}

async fn says(two: &Two, downtime_ms: Option<u64>, policy: Option<MigrationPolicy>) {
    let migration = MigrationTerms { downtime_ms, policy };
    let update = VmUpdate { migration, ..VmUpdate::default() };
    let vm = Ref::by_id(two.vm);
    let told = vms::update(&two.fleet.world, &Actor::root(), &vm, update, None, &plain()).await;
    if let Some(task) = told.unwrap().task {
        two.fleet.done(&task).await;
    }
}

/// Writes more than comes through.
const BUSY: VmMigrationMeasured =
    VmMigrationMeasured { resident: 500_000_000, dirty_rate: 200_000_000, bandwidth: 100_000_000 };

#[tokio::test]
async fn a_move_keeps_to_what_its_vm_says_unless_the_command_says_otherwise() {
    let two = Two::with_vm(PowerState::Running).await;
    says(&two, Some(120), Some(MigrationPolicy::Wait)).await;
    says(&two, Some(150), None).await;
    let spec = two.fleet.show("web01").spec.migration;
    assert_eq!((spec.downtime_ms, spec.policy), (Some(150), Some(MigrationPolicy::Wait)));

    let told = migrate(&two, VmMigrate::default(), true).await.unwrap();
    let told = told.explanation.join("\n");
    assert!(told.contains("150 ms, as the VM says (wait if that cannot be kept)"), "{told}");
    let ordered = VmMigrate { downtime_ms: Some(90), ..VmMigrate::default() };
    let task = migrate(&two, ordered, false).await.unwrap().task.unwrap();
    two.fleet.done(&task).await;
    assert_eq!(two.fleet.show("web01").status.last_move.as_ref().unwrap().allowed_ms, 90);
}

#[tokio::test]
async fn a_budget_of_nothing_or_of_hours_is_refused() {
    let two = Two::with_vm(PowerState::Stopped).await;
    for bad in [0, 60_001] {
        let migration = MigrationTerms { downtime_ms: Some(bad), policy: None };
        let update = VmUpdate { migration, ..VmUpdate::default() };
        let vm = Ref::by_id(two.vm);
        let world = &two.fleet.world;
        let error = vms::update(world, &Actor::root(), &vm, update, None, &plain()).await;
        let error = error.unwrap_err();
        assert_eq!(error.code, "invalid");
        assert!(error.message.contains("1 to 60000"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_dry_run_foretells_the_standstill_and_what_follows_from_it() {
    let two = Two::with_vm(PowerState::Running).await;
    let told = migrate(&two, VmMigrate::default(), true).await.unwrap();
    let told = told.explanation.join("\n");
    assert!(told.contains("expected: about 25 ms of standstill"), "{told}");
    assert!(!told.contains("are allowed"), "{told}");

    two.source.measures(BUSY);
    let told = migrate(&two, VmMigrate::default(), true).await.unwrap().explanation.join("\n");
    assert!(told.contains("about 5025 ms of standstill"), "{told}");
    assert!(told.contains("writes 200 MB/s, and 100 MB/s come through"), "{told}");
    assert!(told.contains("only 300 ms are allowed: it would be slowed down"), "{told}");
    // As fast as is asked for, and no faster.
    let slowly = VmMigrate { max_bandwidth: Some(50_000_000), ..VmMigrate::default() };
    let told = migrate(&two, slowly, true).await.unwrap().explanation.join("\n");
    assert!(told.contains("50 MB/s come through"), "{told}");
    assert_eq!(two.fleet.show("web01").status.host, two.source.id(), "nothing has moved");
    assert_eq!(two.source.times_done("vm_migration_offer"), 0);
}

#[tokio::test]
async fn who_would_rather_not_move_is_refused_before_anything_is_done() {
    let two = Two::with_vm(PowerState::Running).await;
    says(&two, Some(200), Some(MigrationPolicy::Refuse)).await;
    two.source.measures(BUSY);
    let task = migrate(&two, VmMigrate::default(), false).await.unwrap().task.unwrap();
    let ended = two.fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(ended.status.error_code.as_deref(), Some("not_movable"));
    let error = ended.status.error.clone().unwrap();
    assert!(error.contains("longer than the 200 ms"), "{error}");
    assert!(error.contains("--downtime-policy throttle"), "{error}");
    assert_eq!(two.target.times_done("vm_migration_prepare"), 0);
    assert_eq!(two.fleet.show("web01").status.host, two.source.id());

    // It does less now.
    two.source.measures(VmMigrationMeasured { dirty_rate: 1_000_000, ..BUSY });
    let task = migrate(&two, VmMigrate::default(), false).await.unwrap().task.unwrap();
    two.fleet.done(&task).await;
    assert_eq!(two.fleet.show("web01").status.host, two.target.id());
}

#[tokio::test]
async fn what_was_measured_of_the_last_move_stays_with_the_vm() {
    let two = Two::with_vm(PowerState::Running).await;
    let request = VmMigrate { downtime_ms: Some(40), ..VmMigrate::default() };
    let task = migrate(&two, request, false).await.unwrap().task.unwrap();
    let ended = two.fleet.ended(&task).await;
    let last = two.fleet.show("web01").status.last_move.clone().unwrap();
    assert_eq!((last.from, last.allowed_ms), (two.source.id(), 40));
    assert_eq!((last.paused_microseconds, last.total_microseconds), (42_000, 1_000_000));
    let told: Vec<_> = ended.status.messages.iter().map(|message| message.text.as_str()).collect();
    let told = told.join("\n");
    assert!(told.contains("stood still for 42.0 ms (40 ms were allowed)"), "{told}");
}

#[tokio::test]
async fn of_200_moves_asked_at_once_a_host_makes_two_at_a_time_and_all_come_to_their_end() {
    const VMS: usize = 200;
    let two = Two::with_vm(PowerState::Running).await;
    let (world, actor) = (&two.fleet.world, Actor::root());
    let snapshot = two.fleet.snapshot();
    let source = snapshot.get::<HostKind>(two.source.id()).unwrap().name().clone();
    let mut movers = vec![two.vm];
    // One after the other: how long so many take at once is no matter of this test.
    for number in 1..VMS {
        let request = json!({
            "name": format!("vm{number}"), "datastore": "nfs", "nics": [], "start": true,
            "host": source, "memory": "64MiB", "disks": [{"size": "64MiB"}],
        });
        let request = serde_json::from_value(request).unwrap();
        let made = vms::create(world, &actor, request, &plain()).await.unwrap();
        two.fleet.done(&made.task.unwrap()).await;
        movers.push(two.fleet.show(&format!("vm{number}")).id());
    }
    let gate = two.source.hold("vm_migrate", VMS);
    let request = VmMigrate { host: Some(Ref::by_id(two.target.id())), ..VmMigrate::default() };
    let mut tasks: Vec<Arc<Task>> = Vec::new();
    for vm in &movers {
        let ordered = vms::migrate(world, &actor, &Ref::by_id(*vm), &request, &plain()).await;
        tasks.push(ordered.unwrap().task.unwrap());
    }
    soon("two are under way", || two.target.awaited().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(two.target.awaited().len(), 2, "the others wait for their turn");
    drop(gate);
    for task in &tasks {
        two.fleet.done(task).await;
    }
    let snapshot = two.fleet.snapshot();
    for vm in movers {
        assert_eq!(snapshot.get::<VmKind>(vm).unwrap().status.host, two.target.id());
        assert!(two.target.vm(vm).is_some() && two.source.vm(vm).is_none());
    }
}
