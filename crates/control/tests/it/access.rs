//! Who is who, and who may do what.

use std::sync::Arc;

use futures::StreamExt as _;
use hostler_agent_api::ConsoleKind;
use hostler_control::services::approval_rule::ApprovalRuleCreate;
use hostler_control::services::datastore::DatastoreUpdate;
use hostler_control::services::request::RequestFilter;
use hostler_control::services::token::TokenCreate;
use hostler_control::services::user::{UserCreate, UserUpdate};
use hostler_control::services::vm::{VmDelete, VmFilter, VmRegister, VmStop, snapshot};
use hostler_control::services::{
    Options, PageRequest, approval_rule, cluster, console, datastore, drs, event, group, host,
    image, join_token, naming_rule, network, placement, pool, request, rule, snapshot_policy,
    stats, task, template, token, user, vm, watch,
};
use hostler_control::{Actor, ServiceError, World, authenticate};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{
    ApprovalNeed, ApprovalRuleSpec, DatastoreLimits, ExecRequest, ImageCreate, ImageSource, Join,
    Labels, NetworkSpec, Ref, Role, StopMode, StorageKind, VmId, VmUpdate,
};
use jiff::SignedDuration;

const PASSWORD: &str = "correct horse battery";

fn root() -> Actor {
    Actor::root()
}

async fn add_user(world: &World, name: &str, role: Role) -> Ref {
    let request =
        UserCreate { name: name.parse().unwrap(), role, password: Some(PASSWORD.to_owned()) };
    user::create(world, &root(), request).await.unwrap().reference()
}

async fn token_of(world: &World, name: &str, life: Option<SignedDuration>) -> String {
    let request = TokenCreate { name: None, user: Some(name.parse().unwrap()), role: None, life };
    token::create(world, &root(), request).await.unwrap().text
}

async fn actor(world: &World, name: &str, role: Role) -> Actor {
    add_user(world, name, role).await;
    authenticate(world, &token_of(world, name, None).await).unwrap()
}

#[tokio::test]
async fn a_password_opens_a_session_and_a_wrong_one_does_not() {
    let fleet = Fleet::new().await;
    add_user(&fleet.world, "anna", Role::Operator).await;
    let anna = "anna".parse().unwrap();
    let session = user::login(&fleet.world, &anna, PASSWORD.to_owned()).await.unwrap();
    let actor = authenticate(&fleet.world, &session.text).unwrap();
    assert_eq!((actor.name.as_str(), actor.role), ("anna", Role::Operator));
    assert!(session.token.spec.expires_at.is_some());

    let wrong = user::login(&fleet.world, &anna, "wrong".to_owned()).await.unwrap_err();
    let nobody = "nobody".parse().unwrap();
    let unknown = user::login(&fleet.world, &nobody, PASSWORD.to_owned()).await.unwrap_err();
    assert_eq!((wrong.code, &wrong.message), (unknown.code, &unknown.message));
    assert_eq!(wrong.code, "unauthenticated");
}

#[tokio::test]
async fn tokens_end_by_time_by_revocation_and_with_their_user() {
    let fleet = Fleet::new().await;
    let world = &fleet.world;
    add_user(world, "anna", Role::Admin).await;
    let short = token_of(world, "anna", Some(SignedDuration::from_secs(1))).await;
    let long = token_of(world, "anna", None).await;
    assert!(authenticate(world, &short).is_ok());
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(authenticate(world, &short).unwrap_err().code, "token_expired");

    let id = authenticate(world, &long).unwrap().via;
    let hostler_control::Via::Token(id) = id else { panic!("{id:?}") };
    token::delete(world, &root(), &Ref::by_id(id)).await.unwrap();
    assert_eq!(authenticate(world, &long).unwrap_err().code, "unauthenticated");

    // A user who is made anew inherits nothing from the one before.
    let long = token_of(world, "anna", None).await;
    user::delete(world, &root(), &"anna".parse().unwrap()).await.unwrap();
    assert!(authenticate(world, &long).is_err());
    add_user(world, "anna", Role::Admin).await;
    assert_eq!(authenticate(world, &long).unwrap_err().code, "unauthenticated");
}

#[tokio::test]
async fn malformed_and_foreign_tokens_are_refused() {
    let fleet = Fleet::new().await;
    add_user(&fleet.world, "anna", Role::Viewer).await;
    let good = token_of(&fleet.world, "anna", None).await;
    let other = token_of(&fleet.world, "anna", None).await;
    let (id, _) = good.rsplit_once('_').unwrap();
    let swapped = format!("{id}_{}", &other[id.len() + 1..]);
    let cut = &good[..good.len() - 1];
    for bad in ["", "hostler_", "hostler__", "x", &format!("{id}_"), cut, &swapped, "hostler_ä_ß"]
    {
        let error = authenticate(&fleet.world, bad).unwrap_err();
        assert_eq!(error.code, "unauthenticated", "{bad}");
    }
    assert!(authenticate(&fleet.world, &good).is_ok());
}

#[tokio::test]
async fn a_token_is_at_most_what_its_user_is_now() {
    let fleet = Fleet::new().await;
    let world = &fleet.world;
    let anna = add_user(world, "anna", Role::Admin).await;
    let text = token_of(world, "anna", None).await;
    let demote = UserUpdate { role: Some(Role::Viewer), password: None };
    user::update(world, &root(), &anna, demote, None).await.unwrap();
    let actor = authenticate(world, &text).unwrap();
    assert_eq!(actor.role, Role::Viewer);
    let more = TokenCreate { name: None, user: None, role: Some(Role::Admin), life: None };
    assert_eq!(token::create(world, &actor, more).await.unwrap_err().code, "invalid");
}

#[tokio::test]
async fn a_weak_token_does_not_become_strong_through_the_password() {
    let fleet = Fleet::new().await;
    let world = &fleet.world;
    let anna = add_user(world, "anna", Role::Admin).await;
    let weak =
        TokenCreate { name: None, user: Some(anna.clone()), role: Some(Role::Viewer), life: None };
    let weak = token::create(world, &root(), weak).await.unwrap().text;
    let weak = authenticate(world, &weak).unwrap();
    let update = || UserUpdate { role: None, password: Some("another password".to_owned()) };
    let error = user::update(world, &weak, &anna, update(), None).await.unwrap_err();
    assert_eq!(error.code, "forbidden");
    let whole = authenticate(world, &token_of(world, "anna", None).await).unwrap();
    user::update(world, &whole, &anna, update(), None).await.unwrap();
    assert!(user::login(world, &"anna".parse().unwrap(), PASSWORD.to_owned()).await.is_err());
}

#[tokio::test]
async fn console_tickets_open_one_console_once() {
    let fleet = Fleet::new().await;
    let (one, two) = (fleet.vm("one").await.reference(), fleet.vm("two").await.reference());
    let world = &fleet.world;
    let operator = actor(world, "anna", Role::Operator).await;
    let ticket = || console::ticket(world, &operator, &one, ConsoleKind::Vnc).unwrap().secret;

    let used = ticket();
    assert_eq!(console::redeem(world, &used, &one, ConsoleKind::Vnc).unwrap(), operator);
    let refused = |secret: &str, vm: &Ref, kind| {
        assert_eq!(console::redeem(world, secret, vm, kind).unwrap_err().code, "ticket_invalid");
    };
    refused(&used, &one, ConsoleKind::Vnc);
    refused(&ticket(), &two, ConsoleKind::Vnc);
    refused(&ticket(), &one, ConsoleKind::Serial);
    refused("made-up", &one, ConsoleKind::Vnc);

    let left = ticket();
    user::delete(world, &root(), &"anna".parse().unwrap()).await.unwrap();
    refused(&left, &one, ConsoleKind::Vnc);
}

#[tokio::test]
async fn a_join_token_lets_one_host_in() {
    let fleet = Fleet::new().await;
    let world = &fleet.world;
    let issued = join_token::create(world, &root(), None).await.unwrap();
    let text: hostler_pki::JoinToken = issued.text.parse().unwrap();
    let csr = hostler_pki::KeyRequest::generate().unwrap();
    let join = |secret: &str, name: &str| Join {
        secret: secret.to_owned(),
        name: name.parse().unwrap(),
        address: "10.0.0.5:7444".to_owned(),
        csr: csr.request().to_owned(),
    };
    let error = host::join(world, join("guessed", "h1")).await.unwrap_err();
    assert_eq!(error.code, "join_refused");
    // Two at once with one token.
    let (a, b) = tokio::join!(
        host::join(world, join(text.secret(), "h1")),
        host::join(world, join(text.secret(), "h2")),
    );
    assert_eq!([&a, &b].iter().filter(|answer| answer.is_ok()).count(), 1);
    let error = host::join(world, join(text.secret(), "h3")).await.unwrap_err();
    assert_eq!(error.code, "join_refused");

    let short = SignedDuration::from_secs(1);
    let expired = join_token::create(world, &root(), Some(short)).await.unwrap();
    let expired: hostler_pki::JoinToken = expired.text.parse().unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let error = host::join(world, join(expired.secret(), "h4")).await.unwrap_err();
    assert_eq!(error.code, "join_refused");
}

/// What a service said, without the answer.
type Said = Result<(), ServiceError>;

fn said<T>(answer: Result<T, ServiceError>) -> Said {
    answer.map(|_| ())
}

/// Every service with the least role that it needs. The objects named do not exist: who is not
/// refused for the role is refused for that.
async fn all_services(world: &Arc<World>, actor: &Actor) -> Vec<(&'static str, Role, Said)> {
    let mut all = vm_services(world, actor).await;
    all.extend(snapshot_services(world, actor).await);
    all.extend(template_services(world, actor).await);
    all.extend(guest_services(world, actor).await);
    all.extend(image_services(world, actor).await);
    all.extend(host_services(world, actor).await);
    all.extend(placement_services(world, actor).await);
    all.extend(request_services(world, actor).await);
    all.extend(pool_services(world, actor).await);
    all.extend(people_services(world, actor).await);
    all
}

fn none() -> Ref {
    "none".parse().unwrap()
}

fn nothing() -> hostler_endpoint::ByteStream {
    Box::pin(futures::stream::empty())
}

async fn vm_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Operator, Viewer};
    let (vm, page, o) = (&none(), PageRequest::default(), &Options::default());
    let stop = VmStop { mode: StopMode::PowerOff, timeout_seconds: None };
    let register = VmRegister { datastore: none(), vm: none(), name: None };
    let lost = vm::VmRegisterFromHost { host: none(), vm: VmId::generate(), name: None };
    let mut request = vm_request("none");
    request.image = Some(none());
    let (update, name) = (VmUpdate::default(), "other".parse().unwrap());
    vec![
        ("vm::list", Viewer, said(vm::list(w, a, &VmFilter::default(), &page))),
        ("vm::show", Viewer, said(vm::show(w, a, vm))),
        ("stats::vm", Viewer, said(stats::vm(w, a, vm))),
        ("vm::create", Operator, said(vm::create(w, a, request, o).await)),
        ("vm::update", Operator, said(vm::update(w, a, vm, update, None, o).await)),
        ("vm::rename", Operator, said(vm::rename(w, a, vm, name, None, o).await)),
        ("vm::deletion_plan", Viewer, said(vm::deletion_plan(w, a, vm))),
        ("vm::delete", Operator, said(vm::delete(w, a, vm, VmDelete::default(), o).await)),
        ("vm::renew", Operator, said(vm::renew(w, a, vm, vm::Renewal::Never).await)),
        ("vm::recycled", Viewer, said(vm::recycled(w, a, &page))),
        ("vm::undelete", Operator, said(vm::undelete(w, a, vm, None, o).await)),
        ("vm::purge", Operator, said(vm::purge(w, a, vm, o).await)),
        ("vm::start", Operator, said(vm::start(w, a, vm, o).await)),
        ("vm::stop", Operator, said(vm::stop(w, a, vm, stop, o).await)),
        ("vm::reset", Operator, said(vm::reset(w, a, vm, o).await)),
        ("vm::seal", Operator, said(vm::seal(w, a, vm, o).await)),
        ("vm::suspend", Operator, said(vm::suspend(w, a, vm, o).await)),
        ("vm::migrate", Operator, said(vm::migrate(w, a, vm, &vm::VmMigrate::default(), o).await)),
        ("vm::resume", Operator, said(vm::resume(w, a, vm, o).await)),
        ("vm::unregister", Operator, said(vm::unregister(w, a, vm, o).await)),
        ("vm::register", Operator, said(vm::register(w, a, register, o).await)),
        ("vm::unregistered", Operator, said(vm::unregistered(w, a, vm).await)),
        ("vm::on_host", Operator, said(vm::on_host(w, a, vm).await)),
        ("vm::register_from_host", Operator, said(vm::register_from_host(w, a, lost, o).await)),
    ]
}

async fn snapshot_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Admin, Operator, Viewer};
    use snapshot::{SnapshotCreate, SnapshotDelete, SnapshotRevert, SnapshotUpdate};
    let (it, page, o) = (&none(), PageRequest::default(), &Options::default());
    let (create, update) = (SnapshotCreate::default(), SnapshotUpdate::default());
    let (delete, revert) = (SnapshotDelete::default(), SnapshotRevert::default());
    let (name, wrong) = ("none".parse().unwrap(), [("A".to_owned(), String::new())].into());
    let spec = hostler_types::SnapshotPolicySpec { selector: wrong, ..Default::default() };
    let bad = snapshot_policy::SnapshotPolicyCreate { name, spec };
    let change = snapshot_policy::SnapshotPolicyUpdate::default();
    vec![
        ("snapshot::list", Viewer, said(snapshot::list(w, a, it))),
        ("snapshot::show", Viewer, said(snapshot::show(w, a, it, it))),
        ("snapshot::plan", Viewer, said(snapshot::plan(w, a, it, &delete))),
        ("snapshot::create", Operator, said(snapshot::create(w, a, it, &create, o).await)),
        ("snapshot::update", Operator, said(snapshot::update(w, a, it, it, &update, o).await)),
        ("snapshot::revert", Operator, said(snapshot::revert(w, a, it, it, revert, o).await)),
        ("snapshot::delete", Operator, said(snapshot::delete(w, a, it, &delete, o).await)),
        ("snapshot::consolidate", Operator, said(snapshot::consolidate(w, a, it, None, o).await)),
        ("snapshot_policy::list", Viewer, said(snapshot_policy::list(w, a, &page))),
        ("snapshot_policy::show", Viewer, said(snapshot_policy::show(w, a, it))),
        ("snapshot_policy::create", Admin, said(snapshot_policy::create(w, a, bad).await)),
        (
            "snapshot_policy::update",
            Admin,
            said(snapshot_policy::update(w, a, it, change, None).await),
        ),
        ("snapshot_policy::delete", Admin, said(snapshot_policy::delete(w, a, it).await)),
    ]
}

async fn template_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Operator, Viewer};
    let (it, page, o) = (&"none:1".parse().unwrap(), PageRequest::default(), &Options::default());
    let create = hostler_types::TemplateCreate {
        name: "none".parse().unwrap(),
        vm: none(),
        moves: true,
        description: String::new(),
        labels: Labels::new(),
    };
    let update = hostler_types::TemplateUpdate::default();
    vec![
        ("template::list", Viewer, said(template::list(w, a, &page))),
        ("template::show", Viewer, said(template::show(w, a, it))),
        ("template::create", Operator, said(template::create(w, a, &create, o).await)),
        ("template::update", Operator, said(template::update(w, a, &none(), &update, None).await)),
        ("template::seal", Operator, said(template::seal(w, a, it, o).await)),
        ("template::to_vm", Operator, said(template::to_vm(w, a, it, None, o).await)),
        ("template::delete", Operator, said(template::delete(w, a, it, o).await)),
    ]
}

async fn guest_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::Operator;
    let (vm, kind) = (&none(), ConsoleKind::Serial);
    let exec =
        ExecRequest { command: vec!["id".to_owned()], stdin: String::new(), timeout_seconds: 1 };
    vec![
        ("vm::exec", Operator, said(vm::exec(w, a, vm, exec).await)),
        ("vm::log", Operator, said(vm::log(w, a, vm, false).await)),
        ("vm::screenshot", Operator, said(vm::screenshot(w, a, vm).await)),
        ("console::ticket", Operator, said(console::ticket(w, a, vm, kind))),
        ("console::attach", Operator, said(console::attach(w, a, vm, kind, nothing()).await)),
    ]
}

async fn image_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Operator, Viewer};
    let (image, page, o) = (&none(), PageRequest::default(), &Options::default());
    let create = ImageCreate {
        name: "none".parse().unwrap(),
        labels: Labels::new(),
        datastore: Some(none()),
        source: ImageSource::Url("https://none.test/".to_owned()),
        sha256: None,
    };
    vec![
        ("image::list", Viewer, said(image::list(w, a, &image::ImageFilter::default(), &page))),
        ("image::show", Viewer, said(image::show(w, a, image))),
        ("image::create", Operator, said(image::create(w, a, create, o).await)),
        ("image::received", Operator, said(image::received(w, a, image).await)),
        ("image::upload", Operator, said(image::upload(w, a, image, 0, nothing()).await)),
        ("image::import", Operator, said(image::import(w, a, image, o).await)),
        ("image::delete", Operator, said(image::delete(w, a, image, o).await)),
    ]
}

async fn host_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Admin, Operator, Viewer};
    let (it, page) = (&none(), PageRequest::default());
    let name: hostler_types::Name = "none".parse().unwrap();
    let new_datastore = datastore::DatastoreCreate {
        name: name.clone(),
        labels: Labels::new(),
        hosts: vec![none()],
        kind: StorageKind::Local,
        limits: DatastoreLimits::default(),
        path: "/none".to_owned(),
    };
    let spec = NetworkSpec::Bridge { bridge: "not a bridge".to_owned(), vlan: None, pool: None };
    let new_network = network::NetworkCreate { name, labels: Labels::new(), spec };
    let (hosts, stores) = (host::HostFilter::default(), datastore::DatastoreFilter::default());
    let life = Some(SignedDuration::ZERO);
    let bad_rule = naming_rule::NamingRuleCreate {
        name: "none".parse().unwrap(),
        spec: hostler_types::NamingRuleSpec {
            selector: Labels::new(),
            pattern: "(".to_owned(),
            template: None,
        },
    };
    vec![
        ("host::list", Viewer, said(host::list(w, a, &hosts, &page))),
        ("host::show", Viewer, said(host::show(w, a, it))),
        ("stats::host", Viewer, said(stats::host(w, a, it))),
        (
            "host::maintenance_enter",
            Admin,
            said(host::maintenance_enter(w, a, it, &Default::default(), &Options::default()).await),
        ),
        (
            "host::maintenance_exit",
            Admin,
            said(host::maintenance_exit(w, a, it, &Default::default(), &Options::default()).await),
        ),
        (
            "host::update",
            Admin,
            said(host::update(w, a, it, host::HostUpdate::default(), None).await),
        ),
        ("host::delete", Admin, said(host::delete(w, a, it).await)),
        ("datastore::list", Viewer, said(datastore::list(w, a, &stores, &page))),
        ("datastore::show", Viewer, said(datastore::show(w, a, it))),
        ("datastore::create", Admin, said(datastore::create(w, a, new_datastore).await)),
        (
            "datastore::update",
            Admin,
            said(datastore::update(w, a, it, DatastoreUpdate::default(), None).await),
        ),
        ("datastore::delete", Admin, said(datastore::delete(w, a, it).await)),
        ("naming_rule::list", Viewer, said(naming_rule::list(w, a, &page))),
        ("naming_rule::show", Viewer, said(naming_rule::show(w, a, it))),
        ("naming_rule::create", Admin, said(naming_rule::create(w, a, bad_rule).await)),
        ("naming_rule::delete", Admin, said(naming_rule::delete(w, a, it).await)),
        ("naming_rule::next", Operator, said(naming_rule::next(w, a, it).await)),
        ("network::list", Viewer, said(network::list(w, a, &page))),
        ("network::show", Viewer, said(network::show(w, a, it))),
        ("network::create", Admin, said(network::create(w, a, new_network).await)),
        ("network::delete", Admin, said(network::delete(w, a, it).await)),
        ("join_token::create", Admin, said(join_token::create(w, a, life).await)),
        ("join_token::list", Admin, said(join_token::list(w, a, &page))),
        ("join_token::delete", Admin, said(join_token::delete(w, a, it).await)),
    ]
}

async fn placement_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Admin, Viewer};
    let (it, page) = (&none(), PageRequest::default());
    let name = || "none".parse().unwrap();
    let selector = || hostler_types::Selector::Names(vec![none()]);
    let spec = hostler_types::RuleSpec {
        relation: hostler_types::RuleRelation::RunOn,
        strength: hostler_types::RuleStrength::Must,
        vms: selector(),
        hosts: None,
        scope: None,
        description: String::new(),
    };
    let bad_rule = rule::RuleCreate { name: name(), labels: Labels::new(), spec };
    let spec = hostler_types::GroupSpec {
        of: hostler_types::GroupOf::Vms,
        members: selector(),
        description: String::new(),
    };
    let bad_group = group::GroupCreate { name: name(), labels: Labels::new(), spec };
    let (rule_update, group_update) = (rule::RuleUpdate::default(), group::GroupUpdate::default());
    let decision = hostler_types::DecisionId::generate();
    let question = || hostler_types::Simulation::default();
    vec![
        ("rule::list", Viewer, said(rule::list(w, a, &page))),
        ("rule::show", Viewer, said(rule::show(w, a, it))),
        ("rule::create", Admin, said(rule::create(w, a, bad_rule).await)),
        ("rule::update", Admin, said(rule::update(w, a, it, rule_update, None).await)),
        ("rule::delete", Admin, said(rule::delete(w, a, it).await)),
        ("rule::list_violations", Viewer, said(rule::list_violations(w, a))),
        ("group::list", Viewer, said(group::list(w, a, &page))),
        ("group::show", Viewer, said(group::show(w, a, it))),
        ("group::create", Admin, said(group::create(w, a, bad_group).await)),
        ("group::update", Admin, said(group::update(w, a, it, group_update, None).await)),
        ("group::delete", Admin, said(group::delete(w, a, it).await)),
        ("placement::why", Viewer, said(placement::why(w, a, it).await)),
        ("placement::why_not", Viewer, said(placement::why_not(w, a, it, it))),
        ("placement::export", Viewer, said(placement::export(w, a))),
        ("placement::simulate", Viewer, said(placement::simulate(w, a, question()).await)),
        ("drs::recommendations", Viewer, said(drs::recommendations(w, a).await)),
        (
            "drs::apply",
            Role::Operator,
            said(drs::apply(w, a, &Default::default(), &Options::default()).await),
        ),
        ("drs::history", Viewer, said(drs::history(w, a, None, None).await)),
        (
            "placement::list_decisions",
            Viewer,
            said(placement::list_decisions(w, a, None, None, None).await),
        ),
        ("placement::show_decision", Viewer, said(placement::show_decision(w, a, decision).await)),
        (
            "placement::replay_decision",
            Viewer,
            said(placement::replay_decision(w, a, decision).await),
        ),
    ]
}

/// What only whom it concerns may do is tested with the requests.
async fn request_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Admin, Viewer};
    let (it, page, text) = (&none(), PageRequest::default(), || "no".to_owned());
    let wish = serde_json::json!({"vm": {"name": "none", "image": "none"}});
    let wish = serde_json::from_value(wish).unwrap();
    let need = ApprovalNeed { approvals: 99, ..ApprovalNeed::default() };
    let bad = || ApprovalRuleSpec { need: need.clone(), ..ApprovalRuleSpec::default() };
    let rule = ApprovalRuleCreate { name: "none".parse().unwrap(), spec: bad() };
    vec![
        ("request::list", Viewer, said(request::list(w, a, &RequestFilter::default(), &page))),
        ("request::show", Viewer, said(request::show(w, a, it))),
        ("request::why", Viewer, said(request::why(w, a, it))),
        ("request::create", Viewer, said(request::create(w, a, wish).await)),
        ("request::approve", Viewer, said(request::approve(w, a, it, None).await)),
        ("request::reject", Viewer, said(request::reject(w, a, it, text()).await)),
        ("request::cancel", Viewer, said(request::cancel(w, a, it).await)),
        ("request::retry", Viewer, said(request::retry(w, a, it).await)),
        ("approval_rule::list", Viewer, said(approval_rule::list(w, a, &page))),
        ("approval_rule::show", Viewer, said(approval_rule::show(w, a, it))),
        ("approval_rule::create", Admin, said(approval_rule::create(w, a, rule).await)),
        ("approval_rule::update", Admin, said(approval_rule::update(w, a, it, bad(), None).await)),
        ("approval_rule::delete", Admin, said(approval_rule::delete(w, a, it).await)),
    ]
}

async fn pool_services(w: &World, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Admin, Viewer};
    let (it, page, what) = (&none(), PageRequest::default(), pool::Explained::Either(none()));
    let wrong = serde_json::json!({"name": "none", "parent": "none"});
    let wrong = serde_json::from_value(wrong).unwrap();
    let change = hostler_types::ClusterUpdate { vcpus_per_cpu: Some(1001), ..Default::default() };
    let update = hostler_types::PoolUpdate::default();
    vec![
        ("cluster::show", Viewer, said(cluster::show(w, a))),
        ("cluster::cpu_baseline", Viewer, said(cluster::cpu_baseline(w, a))),
        ("cluster::update", Admin, said(cluster::update(w, a, change, None).await)),
        ("pool::list", Viewer, said(pool::list(w, a, &page))),
        ("pool::show", Viewer, said(pool::show(w, a, it))),
        ("pool::create", Admin, said(pool::create(w, a, wrong).await)),
        ("pool::update", Admin, said(pool::update(w, a, it, update, None).await)),
        ("pool::delete", Admin, said(pool::delete(w, a, it).await)),
        ("pool::tree", Viewer, said(pool::tree(w, a).await)),
        ("pool::explain", Viewer, said(pool::explain(w, a, what).await)),
    ]
}

async fn people_services(w: &Arc<World>, a: &Actor) -> Vec<(&'static str, Role, Said)> {
    use Role::{Admin, Operator, Viewer};
    let (it, page) = (&none(), PageRequest::default());
    let bad = UserCreate { name: "root".parse().unwrap(), role: Viewer, password: None };
    let token = TokenCreate { name: None, user: Some(none()), role: None, life: None };
    let (update, tasks) = (UserUpdate::default(), task::TaskFilter::default());
    let query = event::EventQuery::default();
    vec![
        ("user::list", Admin, said(user::list(w, a, &page))),
        ("user::show", Admin, said(user::show(w, a, it))),
        ("user::create", Admin, said(user::create(w, a, bad).await)),
        ("user::update", Admin, said(user::update(w, a, it, update, None).await)),
        ("user::delete", Admin, said(user::delete(w, a, it).await)),
        ("token::create", Admin, said(token::create(w, a, token).await)),
        ("token::list", Viewer, said(token::list(w, a, &page))),
        ("token::delete", Viewer, said(token::delete(w, a, it).await)),
        ("task::list", Viewer, said(task::list(w, a, &tasks, &page))),
        ("task::show", Viewer, said(task::show(w, a, it))),
        ("task::watch", Viewer, said(task::watch(w, a, it))),
        ("task::cancel", Operator, said(task::cancel(w, a, it).await)),
        ("task::retry", Operator, said(task::retry(w, a, it).await)),
        ("task::abandon", Admin, said(task::abandon(w, a, it).await)),
        ("event::list", Viewer, said(event::list(w, a, &query).await)),
        ("watch::watch", Viewer, said(watch::watch(w, a, None, Vec::new()))),
    ]
}

#[tokio::test]
async fn each_service_needs_its_role() {
    let fleet = Fleet::new().await;
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        let actor = actor(&fleet.world, role.as_str(), role).await;
        for (service, needed, said) in all_services(&fleet.world, &actor).await {
            let forbidden = said.as_ref().is_err_and(|error| error.code == "forbidden");
            assert_eq!(forbidden, role < needed, "{service} as {role}: {said:?}");
        }
    }
}

#[tokio::test]
async fn what_is_an_admins_business_is_in_nobody_elses_history() {
    let fleet = Fleet::new().await;
    let world = &fleet.world;
    let viewer = actor(world, "viewer", Role::Viewer).await;
    let from = fleet.snapshot().revision;
    let mut watch = watch::watch(world, &viewer, Some(from), Vec::new()).unwrap();
    add_user(world, "secret-person", Role::Admin).await;
    fleet.vm("web01").await;
    let first = watch.next().await.unwrap().unwrap();
    assert_ne!(first.name.as_str(), "secret-person");
    let events = event::list(world, &viewer, &event::EventQuery::default()).await.unwrap();
    assert!(events.items.iter().all(|event| event.name.as_str() != "secret-person"));
    let events = event::list(world, &root(), &event::EventQuery::default()).await.unwrap();
    assert!(events.items.iter().any(|event| event.name.as_str() == "secret-person"));

    // A watch ends with the right to watch.
    user::delete(world, &root(), &"viewer".parse().unwrap()).await.unwrap();
    let rest: Vec<_> = watch.collect().await;
    assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code, "unauthenticated");
}
