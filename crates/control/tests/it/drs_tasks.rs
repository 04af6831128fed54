//! The tasks that move several VMs: the three harness tests of each.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hostler_control::{Core, testing};
use hostler_sim::SimConnector;
use hostler_store::{Batch, Store, Write};
use hostler_tasks::harness::{
    Scenario, Stage, fails_at_each_step, repeats_each_step, survives_a_crash_at_each_commit,
};
use hostler_types::{
    Cluster, ClusterSpec, ClusterStatus, HostId, HostKind, KindName, Object, PowerState, Ref, Rule,
    RuleRelation, RuleSpec, RuleStatus, RuleStrength, Selector, VmId, VmKind,
};
use jiff::Timestamp;

use crate::migrate::{datastore, host, object, plant, vm};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verb {
    /// A rule wants its VMs on the other host.
    Apply,
    Maintenance,
    BringBack,
}

/// A VM that runs and one that is off on the first of two hosts.
struct Case {
    verb: Verb,
    /// Of the trial at work.
    trial: Mutex<Option<(SimConnector, [HostId; 2])>>,
}

fn not_on(vms: &[VmId], host: HostId) -> Rule {
    let spec = RuleSpec {
        relation: RuleRelation::NotRunOn,
        strength: RuleStrength::Must,
        vms: Selector::Names(vms.iter().map(|vm| Ref::by_id(*vm)).collect()),
        hosts: Some(Selector::Names(vec![Ref::by_id(host)])),
        scope: None,
        description: String::new(),
    };
    object("elsewhere", spec, RuleStatus {})
}

#[async_trait]
impl Scenario for Case {
    type World = Core;

    async fn set_up(&self, store: Arc<dyn Store>) -> Stage<Core> {
        let mut hosts = [host("one", 7444), host("two", 7445)];
        let ids = hosts.each_ref().map(Object::id);
        let datastore = datastore(ids);
        let states = [PowerState::Running, PowerState::Stopped];
        let mut vms = states.map(|power| vm(ids[0], &datastore, power));
        vms[1].metadata.name = "web02".parse().unwrap();
        let own: Vec<_> = vms.iter().map(Object::id).collect();
        if self.verb == Verb::BringBack {
            hosts[1].status.evacuated.clone_from(&own);
        }
        let cluster: Cluster = object("default", ClusterSpec::default(), ClusterStatus::default());
        let mut batch = Batch::new("tester", "set up", Timestamp::now())
            .with_all(hosts.iter().map(Write::create))
            .with(Write::create(&datastore))
            .with(Write::create(&cluster))
            .with_all(vms.iter().map(Write::create));
        if self.verb == Verb::Apply {
            batch = batch.with(Write::create(&not_on(&own, ids[0])));
        }
        store.commit(batch).await.unwrap();
        let connector = SimConnector::default();
        vms.iter().for_each(|vm| plant(&connector, ids, vm));
        *self.trial.lock().unwrap() = Some((connector.clone(), ids));
        let world = testing::core(store, Arc::new(connector)).await.unwrap();
        let snapshot = world.snapshot();
        let submit = match self.verb {
            Verb::Apply => testing::drs_apply(&world).await,
            Verb::Maintenance => testing::host_maintenance(snapshot.get(ids[0]).unwrap()),
            Verb::BringBack => testing::host_bring_back(&world, ids[1]),
        };
        Stage { world, registry: testing::registry(), submit }
    }

    async fn restart(&self, _: Arc<Core>, store: Arc<dyn Store>) -> Arc<Core> {
        let (connector, _) = self.trial.lock().unwrap().clone().unwrap();
        testing::core(store, Arc::new(connector)).await.unwrap()
    }

    /// What has moved stays, whatever fails: so only that each VM is on exactly the host that the record
    /// says, that nothing is left over, and what is kept of the hosts.
    async fn describe(&self, _: &Core, store: &dyn Store) -> String {
        let (connector, ids) = self.trial.lock().unwrap().clone().unwrap();
        let hosts = ids.map(|id| connector.host(id));
        let (mut text, mut away, mut remembered) = (String::new(), Vec::new(), Vec::new());
        for record in &store.load_all().await.unwrap().records {
            if record.kind == KindName::Vm {
                let vm = record.object::<VmKind>().unwrap();
                let agrees = connector.host(vm.status.host).vm(vm.id()).is_some_and(|there| {
                    there.power == vm.status.power && there.epoch == vm.status.epoch
                });
                if vm.status.host != ids[0] {
                    away.push(vm.id());
                }
                let have = hosts.iter().filter(|host| host.vm(vm.id()).is_some()).count();
                text += &format!("{} {} agrees {agrees}, on {have}\n", vm.name(), vm.status.power);
            }
            if record.kind == KindName::Host {
                let host = record.object::<HostKind>().unwrap();
                text += &format!("{} {}\n", host.name(), host.spec.maintenance);
                remembered.extend(host.status.evacuated.clone());
            }
        }
        let left: usize = hosts.iter().map(|host| host.awaited().len() + host.given().len()).sum();
        // Whoever has left for a maintenance is known, also when that was broken off.
        let known = self.verb != Verb::Maintenance || away.iter().all(|vm| remembered.contains(vm));
        format!("{text}left {left}, known {known}\n")
    }
}

fn case(verb: Verb) -> Case {
    Case { verb, trial: Mutex::default() }
}

#[tokio::test]
async fn recommendations_stop_where_a_step_fails() {
    fails_at_each_step(&case(Verb::Apply)).await;
}

#[tokio::test]
async fn recommendations_are_made_once_however_often_a_step_is_repeated() {
    repeats_each_step(&case(Verb::Apply)).await;
}

#[tokio::test]
async fn recommendations_go_on_after_a_crash() {
    survives_a_crash_at_each_commit(&case(Verb::Apply)).await;
}

#[tokio::test]
async fn a_host_is_open_again_when_a_step_of_its_maintenance_fails() {
    fails_at_each_step(&case(Verb::Maintenance)).await;
}

#[tokio::test]
async fn a_host_is_emptied_once_however_often_a_step_is_repeated() {
    repeats_each_step(&case(Verb::Maintenance)).await;
}

#[tokio::test]
async fn a_host_goes_on_into_maintenance_after_a_crash() {
    survives_a_crash_at_each_commit(&case(Verb::Maintenance)).await;
}

#[tokio::test]
async fn vms_stop_coming_back_where_a_step_fails() {
    fails_at_each_step(&case(Verb::BringBack)).await;
}

#[tokio::test]
async fn vms_come_back_once_however_often_a_step_is_repeated() {
    repeats_each_step(&case(Verb::BringBack)).await;
}

#[tokio::test]
async fn vms_go_on_coming_back_after_a_crash() {
    survives_a_crash_at_each_commit(&case(Verb::BringBack)).await;
}
