//! Who is who, and who may do what.

use std::sync::Arc;

use futures::StreamExt as _;
use hostler_agent_api::ConsoleKind;
use hostler_control::services::token::TokenCreate;
use hostler_control::services::user::{UserCreate, UserUpdate};
use hostler_control::services::vm::{VmFilter, VmRegister, VmStop};
use hostler_control::services::{
    Options, PageRequest, console, datastore, event, host, image, join_token, network, task, token,
    user, vm, watch,
};
use hostler_control::{Actor, ServiceError, World, authenticate};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{
    ExecRequest, ImageCreate, ImageSource, Join, Labels, NetworkSpec, Ref, Role, StopMode, VmUpdate,
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
    use Role::{Admin, Operator, Viewer};
    let none: Ref = "none".parse().unwrap();
    let (page, options) = (PageRequest::default(), Options::default());
    let stop = VmStop { mode: StopMode::PowerOff, timeout_seconds: None };
    let exec =
        ExecRequest { command: vec!["id".to_owned()], stdin: String::new(), timeout_seconds: 1 };
    let nothing = || -> hostler_endpoint::ByteStream { Box::pin(futures::stream::empty()) };
    let register = VmRegister { datastore: none.clone(), vm: none.clone(), name: None };
    let import = ImageCreate {
        name: "none".parse().unwrap(),
        labels: Labels::new(),
        datastore: Some(none.clone()),
        source: ImageSource::Url("https://none.test/".to_owned()),
        sha256: None,
    };
    let serial = ConsoleKind::Serial;
    let add_datastore = datastore::DatastoreCreate {
        name: "none".parse().unwrap(),
        labels: Labels::new(),
        host: Some(none.clone()),
        path: "/none".to_owned(),
    };
    let add_network = network::NetworkCreate {
        name: "none".parse().unwrap(),
        labels: Labels::new(),
        spec: NetworkSpec::Bridge { bridge: "not a bridge".to_owned(), vlan: None },
    };
    let bad_user = UserCreate { name: "root".parse().unwrap(), role: Viewer, password: None };
    let query = event::EventQuery::default();
    let token = TokenCreate { name: None, user: Some(none.clone()), role: None, life: None };
    let (vm_filter, task_filter) = (VmFilter::default(), task::TaskFilter::default());
    let mut request = vm_request("none");
    request.image = Some(none.clone());
    let update = VmUpdate::default();
    let name = "other".parse().unwrap();
    let life = Some(SignedDuration::ZERO);
    vec![
        ("vm::list", Viewer, said(vm::list(world, actor, &vm_filter, &page))),
        ("vm::show", Viewer, said(vm::show(world, actor, &none))),
        ("vm::create", Operator, said(vm::create(world, actor, request, &options).await)),
        (
            "vm::update",
            Operator,
            said(vm::update(world, actor, &none, update, None, &options).await),
        ),
        ("vm::rename", Operator, said(vm::rename(world, actor, &none, name, None, &options).await)),
        ("vm::delete", Operator, said(vm::delete(world, actor, &none, false, &options).await)),
        ("vm::start", Operator, said(vm::start(world, actor, &none, &options).await)),
        ("vm::stop", Operator, said(vm::stop(world, actor, &none, stop, &options).await)),
        ("vm::reset", Operator, said(vm::reset(world, actor, &none, &options).await)),
        ("vm::suspend", Operator, said(vm::suspend(world, actor, &none, &options).await)),
        ("vm::resume", Operator, said(vm::resume(world, actor, &none, &options).await)),
        ("vm::unregister", Operator, said(vm::unregister(world, actor, &none, &options).await)),
        ("vm::register", Operator, said(vm::register(world, actor, register, &options).await)),
        ("vm::unregistered", Operator, said(vm::unregistered(world, actor, &none).await)),
        ("vm::exec", Operator, said(vm::exec(world, actor, &none, exec).await)),
        ("vm::log", Operator, said(vm::log(world, actor, &none, false).await)),
        ("vm::screenshot", Operator, said(vm::screenshot(world, actor, &none).await)),
        ("console::ticket", Operator, said(console::ticket(world, actor, &none, serial))),
        (
            "console::attach",
            Operator,
            said(console::attach(world, actor, &none, serial, nothing()).await),
        ),
        (
            "image::list",
            Viewer,
            said(image::list(world, actor, &image::ImageFilter::default(), &page)),
        ),
        ("image::show", Viewer, said(image::show(world, actor, &none))),
        ("image::create", Operator, said(image::create(world, actor, import, &options).await)),
        ("image::received", Operator, said(image::received(world, actor, &none).await)),
        ("image::upload", Operator, said(image::upload(world, actor, &none, 0, nothing()).await)),
        ("image::import", Operator, said(image::import(world, actor, &none, &options).await)),
        ("image::delete", Operator, said(image::delete(world, actor, &none, &options).await)),
        ("host::list", Viewer, said(host::list(world, actor, &host::HostFilter::default(), &page))),
        ("host::show", Viewer, said(host::show(world, actor, &none))),
        ("host::delete", Admin, said(host::delete(world, actor, &none).await)),
        (
            "datastore::list",
            Viewer,
            said(datastore::list(world, actor, &datastore::DatastoreFilter::default(), &page)),
        ),
        ("datastore::show", Viewer, said(datastore::show(world, actor, &none))),
        ("datastore::create", Admin, said(datastore::create(world, actor, add_datastore).await)),
        ("datastore::delete", Admin, said(datastore::delete(world, actor, &none).await)),
        ("network::list", Viewer, said(network::list(world, actor, &page))),
        ("network::show", Viewer, said(network::show(world, actor, &none))),
        ("network::create", Admin, said(network::create(world, actor, add_network).await)),
        ("network::delete", Admin, said(network::delete(world, actor, &none).await)),
        ("join_token::create", Admin, said(join_token::create(world, actor, life).await)),
        ("join_token::list", Admin, said(join_token::list(world, actor, &page))),
        ("join_token::delete", Admin, said(join_token::delete(world, actor, &none).await)),
        ("user::list", Admin, said(user::list(world, actor, &page))),
        ("user::show", Admin, said(user::show(world, actor, &none))),
        ("user::create", Admin, said(user::create(world, actor, bad_user).await)),
        (
            "user::update",
            Admin,
            said(user::update(world, actor, &none, UserUpdate::default(), None).await),
        ),
        ("user::delete", Admin, said(user::delete(world, actor, &none).await)),
        ("token::create for another", Admin, said(token::create(world, actor, token).await)),
        ("token::list", Viewer, said(token::list(world, actor, &page))),
        ("token::delete", Viewer, said(token::delete(world, actor, &none).await)),
        ("task::list", Viewer, said(task::list(world, actor, &task_filter, &page))),
        ("task::show", Viewer, said(task::show(world, actor, &none))),
        ("task::watch", Viewer, said(task::watch(world, actor, &none))),
        ("task::cancel", Operator, said(task::cancel(world, actor, &none).await)),
        ("task::retry", Operator, said(task::retry(world, actor, &none).await)),
        ("task::abandon", Admin, said(task::abandon(world, actor, &none).await)),
        ("event::list", Viewer, said(event::list(world, actor, &query).await)),
        ("watch::watch", Viewer, said(watch::watch(world, actor, None, Vec::new()))),
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
