//! Requests from the wish to the delivered VM.

use std::sync::Arc;

use expect_test::expect;
use hostler_control::services::approval_rule::{self, ApprovalRuleCreate};
use hostler_control::services::customization_spec::{self, CustomizationSpecCreate};
use hostler_control::services::network::{self, NetworkCreate};
use hostler_control::services::request::{self, RequestFilter};
use hostler_control::services::{Options, PageRequest, image, task, template, vm};
use hostler_control::{Actor, ServiceError, Settings, Via, WebhookRules};
use hostler_sim::{Fault, Fleet, vm_request};
use hostler_types::{
    CustomizationRules, DatastoreKind, HostKind, Labels, NetworkSpec, PowerState, Ref, Request,
    RequestKind, RequestOrder, RequestState, Role, TaskKind, UserId, Vm, VmKind,
};
use jiff::SignedDuration;
use serde_json::{Value, json};

/// Loopback may be called, because that is where the tests are.
pub(crate) fn settings() -> Settings {
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let webhooks = WebhookRules { plain_http: true, networks };
    Settings { webhooks, ..Settings::default() }
}

pub(crate) async fn fleet() -> Fleet {
    let fleet = Fleet::with_settings(settings()).await;
    fleet.image("tiny").await;
    fleet
}

pub(crate) fn person(name: &str, role: Role) -> Actor {
    Actor { name: name.to_owned(), user: Some(UserId::generate()), role, via: Via::Internal }
}

pub(crate) fn order(vm: &str, more: Value) -> RequestOrder {
    let mut order = json!({"vm": {"name": vm, "image": "tiny"}, "proof_seconds": 0});
    let Value::Object(more) = more else { panic!("{more} is no map") };
    order.as_object_mut().unwrap().extend(more);
    serde_json::from_value(order).unwrap()
}

/// Asked for by `anna`, a viewer.
pub(crate) async fn ask(fleet: &Fleet, order: RequestOrder) -> Arc<Request> {
    request::create(&fleet.world, &person("anna", Role::Viewer), order).await.unwrap()
}

pub(crate) async fn rule(fleet: &Fleet, name: &str, spec: Value) {
    let (name, spec) = (name.parse().unwrap(), serde_json::from_value(spec).unwrap());
    let rule = ApprovalRuleCreate { name, spec };
    approval_rule::create(&fleet.world, &Actor::root(), rule).await.unwrap();
}

/// Every request is approved at once.
pub(crate) async fn approve_all(fleet: &Fleet) {
    rule(fleet, "all", json!({"need": {"approvals": 0}})).await;
    rule(fleet, "scripts", json!({"when": {"scripts": true}, "need": {"approvals": 0}})).await;
}

async fn approve(fleet: &Fleet, it: &Request, actor: &Actor) -> Result<Arc<Request>, ServiceError> {
    request::approve(&fleet.world, actor, &it.reference(), None).await
}

/// The request as it has come to rest.
pub(crate) async fn ended(fleet: &Fleet, it: &Request) -> Arc<Request> {
    let id = it.id();
    let ended = |now: &hostler_control::Snapshot| {
        now.get::<RequestKind>(id).is_some_and(|now| !now.status.state.is_open())
    };
    let snapshot = fleet.until("the request ends", ended).await;
    snapshot.get::<RequestKind>(id).unwrap().clone()
}

pub(crate) async fn delivered(fleet: &Fleet, it: &Request) -> Arc<Vm> {
    let ended = ended(fleet, it).await;
    let RequestState::Delivered { vm } = ended.status.state else {
        panic!("{:?}", ended.status);
    };
    fleet.snapshot().get::<VmKind>(vm).unwrap().clone()
}

#[tokio::test]
async fn what_an_admin_has_approved_is_delivered() {
    let fleet = fleet().await;
    let mut wish = order("web01", json!({"owner": "team-web", "purpose": "the shop"}));
    wish.vm.lease_seconds = Some(3600);
    let it = ask(&fleet, wish).await;
    assert!(matches!(it.status.state, RequestState::Pending { .. }), "{:?}", it.status);
    assert!(it.name().as_str().starts_with("web01-"));
    let why = request::why(&fleet.world, &person("anna", Role::Viewer), &it.reference()).unwrap();
    assert_eq!((why.approved, why.rules.len(), why.rules[0].missing), (false, 1, 1));

    // Neither her own word nor an operator's counts.
    let anna = Actor { role: Role::Admin, ..person("anna", Role::Viewer) };
    for (actor, reason) in [(anna, "has asked for it"), (person("o", Role::Operator), "role admin")]
    {
        let error = approve(&fleet, &it, &actor).await.unwrap_err();
        assert_eq!(error.code, "may_not_approve");
        assert!(error.message.contains(reason), "{}", error.message);
    }
    approve(&fleet, &it, &person("bert", Role::Admin)).await.unwrap();
    let vm = delivered(&fleet, &it).await;
    assert_eq!(vm.status.power, PowerState::Running);
    assert_eq!(vm.metadata.labels["owner"], "team-web");
    assert_eq!(vm.metadata.labels["request"], it.name().as_str());
    assert_eq!(vm.spec.lease.as_ref().unwrap().seconds, 3600);
    let at_host = fleet.host.vm(vm.id()).unwrap().definition.vm;
    assert_eq!(at_host.metadata.labels, vm.metadata.labels, "its host knows whose it is");
    let now = fleet.snapshot().find::<RequestKind>(&it.reference()).unwrap().clone();
    assert_eq!(now.status.approvals.len(), 1);
    assert!(now.status.decision.approved);
    assert_eq!(
        approve(&fleet, &it, &person("c", Role::Admin)).await.unwrap_err().code,
        "wrong_state"
    );
}

#[tokio::test]
async fn a_large_one_needs_two_people() {
    let fleet = fleet().await;
    let need = json!({"approvals": 2, "role": "operator"});
    rule(&fleet, "large", json!({"when": {"min_cpus": 4}, "need": need})).await;
    let mut wish = order("web01", json!({}));
    wish.vm.cpus = Some(4.try_into().unwrap());
    let it = ask(&fleet, wish).await;
    let olga = person("olga", Role::Operator);
    let once = approve(&fleet, &it, &olga).await.unwrap();
    assert_eq!(once.status.decision.rules[0].missing, 1);
    assert_eq!(once.status.decision.rules[0].given, ["olga"]);
    assert_eq!(approve(&fleet, &it, &olga).await.unwrap_err().code, "already_approved");
    assert_eq!(
        approve(&fleet, &it, &person("v", Role::Viewer)).await.unwrap_err().code,
        "may_not_approve"
    );
    approve(&fleet, &it, &person("bert", Role::Admin)).await.unwrap();
    delivered(&fleet, &it).await;

    // A small one is no rule's business.
    let small = ask(&fleet, order("web02", json!({}))).await;
    assert_eq!(small.status.decision.rules[1].why, "no rule is about this request");
}

#[tokio::test]
async fn nobody_is_asked_where_a_rule_says_so() {
    let fleet = fleet().await;
    rule(&fleet, "small", json!({"when": {"max_cpus": 1}, "need": {"approvals": 0}})).await;
    let it = ask(&fleet, order("web01", json!({"leave_off": true}))).await;
    assert_eq!(it.status.state, RequestState::Approved);
    assert_eq!(delivered(&fleet, &it).await.status.power, PowerState::Stopped);
}

/// The image beneath a template is one that a rule can be about; and a rule for nobody lets through
/// no template, spec, bridge or script that it does not name.
#[tokio::test]
async fn rules_see_templates_specs_networks_and_scripts() {
    let fleet = fleet().await;
    let (world, root) = (&fleet.world, Actor::root());
    fleet.vm("base").await;
    let made = json!({"name": "golden", "vm": "base", "move": true});
    let made = serde_json::from_value(made).unwrap();
    let task = template::create(world, &root, &made, &Options::default()).await.unwrap();
    fleet.done(&task).await;
    let office = NetworkCreate {
        name: "office".parse().unwrap(),
        labels: Labels::new(),
        spec: NetworkSpec::Bridge { bridge: "br0".to_owned(), vlan: None, pool: None },
    };
    network::create(world, &root, office).await.unwrap();
    let domain = CustomizationSpecCreate {
        name: "domain".parse().unwrap(),
        labels: Labels::new(),
        spec: CustomizationRules::default(),
    };
    customization_spec::create(world, &root, domain).await.unwrap();
    rule(&fleet, "small", json!({"when": {"max_cpus": 8}, "need": {"approvals": 0}})).await;
    rule(&fleet, "tiny", json!({"when": {"images": ["tiny"]}, "need": {"approvals": 2}})).await;

    let mut text = String::new();
    let run = json!([{"script": {"text": "id"}}]);
    let look = json!([{"check": {"command": ["id"]}}]);
    for (name, more) in [
        ("a", json!({"vm": {"name": "a", "template": "golden"}})),
        ("b", json!({"vm": {"name": "b", "disks": [{"size": "1GiB"}]}})),
        (
            "c",
            json!({"vm": {"name": "c", "disks": [{"size": "1GiB"}], "nics": [{"network": "office"}]}}),
        ),
        (
            "d",
            json!({"vm": {"name": "d", "disks": [{"size": "1GiB"}], "customization_spec": "domain"}}),
        ),
        ("e", json!({"vm": {"name": "e", "disks": [{"size": "1GiB"}]}, "post": run})),
        ("f", json!({"vm": {"name": "f", "disks": [{"size": "1GiB"}]}, "probes": look})),
    ] {
        let it = ask(&fleet, order(name, more)).await;
        for verdict in &it.status.decision.rules {
            let rule = verdict.rule.as_ref().map_or("default", |name| name.as_str());
            let fits = if verdict.fits { "fits" } else { "does not" };
            text +=
                &format!("{name}: {rule} {fits}, {} missing: {}\n", verdict.missing, verdict.why);
        }
    }
    expect![[r#"
        a: small does not, 0 missing: it asks for nobody, and does not name the template `golden`
        a: tiny fits, 2 missing: image tiny
        b: small fits, 0 missing: 1 CPU
        b: tiny does not, 0 missing: it uses none of the rule's images
        c: small does not, 0 missing: it asks for nobody, and does not name the bridged network `office`
        c: tiny does not, 0 missing: it uses none of the rule's images
        c: default fits, 1 missing: no rule is about this request
        d: small does not, 0 missing: it asks for nobody, and does not name the customization spec `domain`
        d: tiny does not, 0 missing: it uses none of the rule's images
        d: default fits, 1 missing: no rule is about this request
        e: small does not, 0 missing: it asks for nobody, and is not about what runs in the guest
        e: tiny does not, 0 missing: it uses none of the rule's images
        e: default fits, 1 missing: no rule is about this request
        f: small does not, 0 missing: it asks for nobody, and is not about what runs in the guest
        f: tiny does not, 0 missing: it uses none of the rule's images
        f: default fits, 1 missing: no rule is about this request
    "#]].assert_eq(&text);
}

/// Whatever makes the guest run something, and whatever of the world outside it is chosen.
#[tokio::test]
async fn rules_see_what_a_request_makes_run_and_what_it_chooses() {
    let fleet = fleet().await;
    rule(&fleet, "small", json!({"need": {"approvals": 0}})).await;
    let domain = json!({"domain": "corp.example", "user": "joiner", "password": "secret"});
    let configuration = "version: 2\nethernets: {}\n";
    let nic = |more: Value| {
        let mut nic = json!({"network": "default"});
        nic.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"nics": [nic]})
    };
    let told = |told: Value| json!({"customization": told});
    let host = fleet.snapshot().all::<HostKind>().iter().next().unwrap().name().clone();
    let store = fleet.snapshot().all::<DatastoreKind>().iter().next().unwrap().name().clone();
    let mut text = String::new();
    for (name, more) in [
        ("run", told(json!({"run_once": ["touch /root/pwned"]}))),
        ("data", told(json!({"user_data": "#cloud-config\nruncmd: [id]\n"}))),
        ("packages", told(json!({"packages": ["nginx"]}))),
        ("domain", told(json!({"os": "windows", "domain_join": domain}))),
        ("unattend", told(json!({"os": "windows", "windows": {"unattend": "<unattend/>"}}))),
        ("network", told(json!({"network_config": configuration}))),
        ("mac", nic(json!({"mac": "52:54:00:00:00:01"}))),
        ("static", nic(json!({"address": {"static": {"address": "10.77.0.9", "prefix": 24}}}))),
        ("host", json!({"host": host})),
        ("store", json!({"datastore": store})),
        ("shares", json!({"resources": {"cpu_shares": "high"}})),
        ("plain", told(json!({"users": [{"name": "anna", "sudo": true}], "locale": "C"}))),
    ] {
        let mut vm = json!({"name": name, "disks": [{"size": "1GiB"}]});
        vm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let it = ask(&fleet, order(name, json!({"vm": vm, "leave_off": true}))).await;
        text += &format!("{name}: {}\n", it.status.decision.rules[0].why);
    }
    expect![[r#"
        run: it asks for nobody, and is not about what runs in the guest
        data: it asks for nobody, and is not about what runs in the guest
        packages: it asks for nobody, and is not about what runs in the guest
        domain: it asks for nobody, and is not about what runs in the guest
        unattend: it asks for nobody, and is not about what runs in the guest
        network: it asks for nobody, and is not about addresses that are chosen
        mac: it asks for nobody, and is not about addresses that are chosen
        static: it asks for nobody, and is not about addresses that are chosen
        host: it asks for nobody, and is not about hosts, datastores and resources that are chosen
        store: it asks for nobody, and is not about hosts, datastores and resources that are chosen
        shares: it asks for nobody, and is not about hosts, datastores and resources that are chosen
        plain: it is about every request
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn a_rule_that_is_changed_counts_for_those_who_wait() {
    let fleet = fleet().await;
    rule(&fleet, "all", json!({"need": {"approvals": 2}})).await;
    let it = ask(&fleet, order("web01", json!({"leave_off": true}))).await;
    approve(&fleet, &it, &person("bert", Role::Admin)).await.unwrap();
    let all = "all".parse().unwrap();
    let one = serde_json::from_value(json!({"need": {"approvals": 1}})).unwrap();
    approval_rule::update(&fleet.world, &Actor::root(), &all, one, None).await.unwrap();
    delivered(&fleet, &it).await;
}

#[tokio::test]
async fn a_request_that_nobody_answers_expires() {
    let approval_wait = SignedDuration::from_millis(200);
    let fleet = Fleet::with_settings(Settings { approval_wait, ..settings() }).await;
    fleet.image("tiny").await;
    let it = ask(&fleet, order("web01", json!({}))).await;
    assert_eq!(ended(&fleet, &it).await.status.state, RequestState::Expired);
    let late = approve(&fleet, &it, &person("bert", Role::Admin)).await.unwrap_err();
    assert_eq!(late.code, "wrong_state");
    // The name is free again.
    ask(&fleet, order("web01", json!({}))).await;
}

#[tokio::test]
async fn rejected_cancelled_and_asked_for_twice() {
    let fleet = fleet().await;
    let (world, anna) = (&fleet.world, person("anna", Role::Viewer));
    let it = request::create(world, &anna, order("web01", json!({}))).await.unwrap();
    let again = request::create(world, &anna, order("web01", json!({}))).await.unwrap_err();
    assert_eq!(again.code, "already_requested");
    let (bert, name) = (person("bert", Role::Admin), it.reference());
    let none = request::reject(world, &bert, &name, " ".to_owned()).await.unwrap_err();
    assert_eq!(none.code, "invalid");
    let other = person("eve", Role::Viewer);
    let error = request::reject(world, &other, &name, "no".to_owned()).await.unwrap_err();
    assert_eq!(error.code, "may_not_approve");
    let rejected = request::reject(world, &bert, &name, "too dear".to_owned()).await.unwrap();
    let expected = RequestState::Rejected { by: "bert".into(), reason: "too dear".into() };
    assert_eq!(rejected.status.state, expected);

    let it = request::create(world, &anna, order("web01", json!({}))).await.unwrap();
    let error = request::cancel(world, &other, &it.reference()).await.unwrap_err();
    assert_eq!(error.code, "forbidden");
    let cancelled = request::cancel(world, &anna, &it.reference()).await.unwrap();
    assert_eq!(cancelled.status.state, RequestState::Cancelled { by: "anna".into() });
    let error = request::retry(world, &anna, &it.reference()).await.unwrap_err();
    assert_eq!(error.code, "wrong_state");

    let filter = RequestFilter { state: Some("rejected".to_owned()), requester: None };
    let page = request::list(world, &anna, &filter, &PageRequest::default()).unwrap();
    assert_eq!(page.items.len(), 1);
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
}

#[tokio::test]
async fn what_cannot_be_made_is_not_asked_for() {
    let fleet = fleet().await;
    fleet.vm("taken").await;
    let check = async |change: Value, code: &str| {
        let mut wish = json!({"vm": {"name": "web01", "image": "tiny"}});
        wish.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let wish: RequestOrder = serde_json::from_value(wish).unwrap();
        let made = request::create(&fleet.world, &person("anna", Role::Viewer), wish).await;
        assert_eq!(made.unwrap_err().code, code, "{change}");
    };
    check(json!({"vm": {"name": "taken", "image": "tiny"}}), "name_taken").await;
    check(json!({"vm": {"name": "web01", "image": "none"}}), "not_found").await;
    check(json!({"vm": {"name": "web01", "image": "tiny", "memory": "1MiB"}}), "invalid").await;
    check(json!({"vm": {"name": "web01", "image": "tiny", "lease_seconds": 0}}), "invalid").await;
    check(json!({"notify": [{"url": "http://169.254.169.254/"}]}), "invalid").await;
    check(json!({"post": [{"webhook": {"url": "ftp://example.org/"}}]}), "invalid").await;
    check(json!({"probes": [{"check": {"tcp": 0}}]}), "invalid").await;
    // What only needs time is asked for: there may be room when it is approved.
    let mut huge = order("web01", json!({}));
    huge.vm.memory = Some(hostler_types::ByteSize::gib(4096));
    ask(&fleet, huge).await;
}

#[tokio::test]
async fn a_failed_one_keeps_its_vm_and_goes_on_where_it_failed() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    fleet.host.fault("vm_start", Fault::refuse(502, "qemu_failed", "QEMU does not start"));
    let it = ask(&fleet, order("web01", json!({}))).await;
    let failed = ended(&fleet, &it).await;
    let RequestState::Failed { step, reason } = &failed.status.state else {
        panic!("{:?}", failed.status)
    };
    assert_eq!(step, "power-on");
    assert!(reason.contains("QEMU does not start"), "{reason}");
    let kept = failed.status.progress.vm.unwrap();
    assert_eq!(fleet.show("web01").id(), kept, "it stays to be looked at");

    let anna = person("anna", Role::Viewer);
    let other = request::retry(&fleet.world, &person("eve", Role::Viewer), &it.reference()).await;
    assert_eq!(other.unwrap_err().code, "forbidden");
    let _ = anna;
    request::retry(&fleet.world, &person("o", Role::Operator), &it.reference()).await.unwrap();
    let vm = delivered(&fleet, &it).await;
    assert_eq!((vm.id(), vm.status.power), (kept, PowerState::Running));
    assert_eq!(fleet.host.times_done("vm_create"), 1);
}

#[tokio::test]
async fn a_failed_one_is_removed_if_that_is_wanted() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let probe = json!([{"check": {"tcp": 1}, "retries": 1, "pause_seconds": 1}]);
    let wish = json!({"on_failure": "remove", "probes": probe});
    let it = ask(&fleet, order("web01", wish)).await;
    let failed = ended(&fleet, &it).await;
    let RequestState::Failed { step, reason } = &failed.status.state else {
        panic!("{:?}", failed.status)
    };
    assert_eq!(step, "validate");
    assert_eq!(reason, "tcp 1: the guest has no address yet (2 tries)");
    assert_eq!(failed.status.progress.vm, None);
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
    assert_eq!(fleet.host.vms().len(), 0);
}

#[tokio::test]
async fn a_provisioning_is_cancelled_in_the_middle() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    fleet.host.fault("vm_start", Fault::Hang);
    let it = ask(&fleet, order("web01", json!({"on_failure": "remove"}))).await;
    let starting = |now: &hostler_control::Snapshot| {
        now.all::<VmKind>().iter().any(|vm| vm.status.power == PowerState::Starting)
    };
    fleet.until("it is being started", starting).await;
    request::cancel(&fleet.world, &person("o", Role::Operator), &it.reference()).await.unwrap();
    let ended = ended(&fleet, &it).await;
    assert_eq!(ended.status.state, RequestState::Cancelled { by: "o".into() });
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
}

#[tokio::test]
async fn another_image_under_the_same_name_is_not_taken() {
    let fleet = fleet().await;
    let it = ask(&fleet, order("web01", json!({}))).await;
    let tiny: Ref = "tiny".parse().unwrap();
    let gone = image::delete(&fleet.world, &Actor::root(), &tiny, &Options::default()).await;
    fleet.done(&gone.unwrap()).await;
    fleet.image("tiny").await;
    approve(&fleet, &it, &person("bert", Role::Admin)).await.unwrap();
    let RequestState::Failed { step, reason } = ended(&fleet, &it).await.status.state.clone()
    else {
        panic!("it was made from another image")
    };
    assert_eq!(step, "select");
    assert!(reason.contains("is not the one that was asked for"), "{reason}");
}

/// The server dies while the guest boots; the next one goes on and makes no second VM.
#[tokio::test]
async fn a_provisioning_survives_the_server() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let it = ask(&fleet, order("web01", json!({"probes": [{"check": "agent"}]}))).await;
    let looking = |now: &hostler_control::Snapshot| {
        now.all::<TaskKind>().iter().any(|task| task.spec.action == "request.probe")
    };
    fleet.until("its agent is waited for", looking).await;
    let fleet = fleet.restart(true).await;
    let vm = fleet.show("web01");
    let guest = json!({"agent": true, "since": "2026-01-01T00:00:00Z"});
    fleet.host.change(vm.id(), |vm| vm.guest = serde_json::from_value(guest).unwrap());
    assert_eq!(delivered(&fleet, &it).await.id(), vm.id());
    assert_eq!(fleet.host.times_done("vm_create"), 1);
    let tasks = fleet.snapshot();
    let of = |action: &str| {
        tasks.all::<TaskKind>().iter().filter(|task| task.spec.action == action).count()
    };
    assert_eq!((of("request.provision"), of("vm.create"), of("request.probe")), (1, 1, 1));
}

#[tokio::test]
async fn the_guests_proof_is_waited_for() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let mut wish = order("web01", json!({}));
    wish.proof_seconds = 60;
    let it = ask(&fleet, wish.clone()).await;
    let running = |now: &hostler_control::Snapshot| {
        now.all::<VmKind>().iter().any(|vm| vm.status.power == PowerState::Running)
    };
    fleet.until("it runs", running).await;
    let proof = |state: &str| {
        let at = "2026-01-01T00:00:00Z";
        json!({"state": state, "reason": "no such package", "hash": "x", "run": 0, "at": at})
    };
    let say = |vm: &str, state: &str| {
        let proof = serde_json::from_value(proof(state)).unwrap();
        let vm = fleet.show(vm).id();
        fleet.host.change(vm, |vm| vm.definition.vm.status.customization = Some(proof));
    };
    say("web01", "failed");
    let RequestState::Failed { step, reason } = ended(&fleet, &it).await.status.state.clone()
    else {
        panic!("it was delivered without proof")
    };
    assert_eq!((step.as_str(), reason.contains("no such package")), ("customize", true));
    // The guest was mended by hand, and says so.
    say("web01", "applied");
    request::retry(&fleet.world, &person("o", Role::Operator), &it.reference()).await.unwrap();
    delivered(&fleet, &it).await;
}

#[tokio::test]
async fn what_cannot_be_removed_stays_and_is_told() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let wish = json!({"on_failure": "remove", "probes": [{"check": {"tcp": 1}, "retries": 0}]});
    fleet.host.fault("vm_stop", Fault::refuse(502, "qemu_failed", "it does not stop"));
    let it = ask(&fleet, order("web01", wish)).await;
    let failed = ended(&fleet, &it).await;
    assert!(matches!(failed.status.state, RequestState::Failed { .. }), "{:?}", failed.status);
    assert_eq!(failed.status.progress.vm, Some(fleet.show("web01").id()));
    let task = failed.status.progress.task.unwrap();
    let task = task::show(&fleet.world, &Actor::root(), &Ref::by_id(task)).unwrap();
    let told = task.status.messages.iter().any(|message| message.text.contains("does not stop"));
    assert!(told, "{:?}", task.status.messages);
}

#[tokio::test]
async fn a_vm_that_someone_deletes_meanwhile_is_not_delivered() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let it = ask(&fleet, order("web01", json!({"probes": [{"check": "agent"}]}))).await;
    let looking = |now: &hostler_control::Snapshot| {
        now.all::<TaskKind>().iter().any(|task| task.spec.action == "request.probe")
    };
    fleet.until("its agent is waited for", looking).await;
    let delete = vm::VmDelete { now: true, force: true, ..vm::VmDelete::default() };
    let web01 = "web01".parse().unwrap();
    let gone = vm::delete(&fleet.world, &Actor::root(), &web01, delete, &Options::default()).await;
    fleet.done(&gone.unwrap()).await;
    let RequestState::Failed { step, reason } = ended(&fleet, &it).await.status.state.clone()
    else {
        panic!("there is nothing to deliver")
    };
    assert_eq!(step, "validate");
    assert!(reason.contains("was deleted") || reason.contains("stopped"), "{reason}");
    // Another try makes another.
    request::retry(&fleet.world, &person("o", Role::Operator), &it.reference()).await.unwrap();
    fleet.until("it is made anew", |now| now.all::<VmKind>().iter().count() == 1).await;
    let made = vm_request("web01").name;
    assert_eq!(*fleet.show("web01").name(), made);
}
