//! VMs that may not stay for ever.

use hostler_control::services::vm::Renewal;
use hostler_control::services::{Options, event, vm};
use hostler_control::{Actor, Settings, Snapshot};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{LeaseStage, PowerState, VmId, VmKind, VmUpdate};
use jiff::SignedDuration;

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

async fn fleet(grace: SignedDuration) -> Fleet {
    let settings = Settings { lease_grace: grace, ..Settings::default() };
    let fleet = Fleet::with_settings(settings).await;
    fleet.image("tiny").await;
    fleet
}

fn ended(id: VmId) -> impl Fn(&Snapshot) -> bool {
    move |now| {
        let vm = now.get::<VmKind>(id).unwrap();
        let stage = vm.spec.lease.as_ref().map(|lease| lease.stage);
        let busy = now.task_on(id.untyped()).is_some();
        stage == Some(LeaseStage::Ended) && vm.status.power == PowerState::Stopped && !busy
    }
}

#[tokio::test]
async fn a_lease_warns_stops_and_recycles() {
    let fleet = fleet(SignedDuration::from_secs(2)).await;
    let mut request = vm_request("web01");
    (request.lease_seconds, request.start) = (Some(2), true);
    let made = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    let id = made.object.id();
    fleet.done(&made.task.unwrap()).await;
    fleet.until("it is stopped", ended(id)).await;
    let error = vm::start(&fleet.world, &root(), &"web01".parse().unwrap(), &plain()).await;
    assert_eq!(error.unwrap_err().code, "lease_over");
    let snapshot = fleet
        .until("it is in the recycle bin", |now| now.get::<VmKind>(id).unwrap().is_recycled())
        .await;
    let by = snapshot.get::<VmKind>(id).unwrap().spec.recycled.clone().unwrap().by;
    assert_eq!(by, "system (lease)");
    let events = event::list(&fleet.world, &root(), &event::EventQuery::default()).await.unwrap();
    let warned = events.items.iter().filter(|event| event.reason.starts_with("lease: it ends"));
    assert_eq!(warned.count(), 1, "it is warned once");

    // Taken back, it has its time again.
    let back = vm::undelete(&fleet.world, &root(), &"web01".parse().unwrap(), None, &plain()).await;
    fleet.done(&back.unwrap()).await;
    let lease = fleet.show("web01").spec.lease.clone().unwrap();
    assert_eq!((lease.stage, lease.seconds), (LeaseStage::Active, 2));
}

#[tokio::test]
async fn a_renewed_vm_stays_and_a_protected_one_is_only_stopped() {
    let fleet = fleet(SignedDuration::from_millis(100)).await;
    let vm = fleet.running_vm("web01").await;
    let renew = |renewal| {
        let (world, reference) = (fleet.world.clone(), vm.reference());
        async move { vm::renew(&world, &root(), &reference, renewal).await }
    };
    let error = renew(Renewal::Again).await.unwrap_err();
    assert!(error.message.contains("has no lease"), "{}", error.message);
    assert_eq!(renew(Renewal::For(0)).await.unwrap_err().code, "invalid");
    assert_eq!(renew(Renewal::For(u64::MAX)).await.unwrap_err().code, "invalid");
    let protect = VmUpdate { protected: Some(true), ..VmUpdate::default() };
    let update = vm::update(&fleet.world, &root(), &vm.reference(), protect, None, &plain()).await;
    fleet.done(&update.unwrap().task.unwrap()).await;
    renew(Renewal::For(1)).await.unwrap();
    fleet.until("it is stopped", ended(vm.id())).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!fleet.show("web01").is_recycled(), "a protected VM is not deleted by anyone");

    let renewed = renew(Renewal::For(3600)).await.unwrap();
    assert_eq!(renewed.spec.lease.as_ref().unwrap().stage, LeaseStage::Active);
    let start = vm::start(&fleet.world, &root(), &vm.reference(), &plain()).await.unwrap();
    fleet.done(&start).await;
    let again = renew(Renewal::Again).await.unwrap();
    assert_eq!(again.spec.lease.as_ref().unwrap().seconds, 3600);
    assert_eq!(renew(Renewal::Never).await.unwrap().spec.lease, None);
}
