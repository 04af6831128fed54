//! Who may do what: every endpoint of the API document, without a token and with each role.

use std::collections::BTreeSet;

use hostler_api::{token, user};
use hostler_endpoint::{ClientError, Meta, Method, NoParams};
use hostler_types::{Ref, Role};
use serde_json::{Value, json};

use crate::rig::Rig;

/// Open to everyone; each has another proof of who may, or tells nothing.
const PUBLIC: [&str; 8] =
    ["console_attach", "features", "health", "host_join", "login", "openapi", "ready", "version"];

/// A body that gets as far as the service. The objects named do not exist where being there would
/// let the call succeed: who may not is refused before anyone looks.
fn body(id: &str) -> Option<Value> {
    Some(match id {
        "vm_clone" | "template_clone" => json!({"name": "new"}),
        "vm_flatten" => json!({}),
        "vm_create" => json!({"name": "new", "cpus": 1024, "memory": "1GiB"}),
        "vm_update" | "vm_plan" => json!({"description": "x"}),
        "disk_add" => json!({"size": "1GiB"}),
        "disk_update" => json!({"size": "1GiB"}),
        "snapshot_create" | "snapshot_update" | "snapshot_revert" | "vm_consolidate" => json!({}),
        "snapshot_policy_create" => {
            json!({"name": "p", "spec": {"limits": {"max_depth": 65}}})
        }
        "snapshot_policy_update" => json!({}),
        "vm_rename" => json!({"name": "other"}),
        "vm_customize" => json!({"reboot": false}),
        "customization_spec_create" => {
            json!({"name": "s", "spec": {"networks": [{"static": {"address": "10.0.0.1"}}]}})
        }
        "customization_spec_update" => json!({}),
        "network_set_pool" => json!({"pool": null}),
        "vm_exec" => json!({"command": ["true"]}),
        "vm_console_ticket" => json!({"kind": "serial"}),
        "image_create" => json!({"name": "i", "source": {"url": "ftp://x"}}),
        "datastore_create" => json!({"name": "d", "path": "relative"}),
        "template_create" => json!({"name": "t", "vm": "no-such-vm", "move": true}),
        "template_update" | "template_to_vm" => json!({}),
        "request_create" => json!({"vm": {"name": "r", "image": "no-such-image"}}),
        "request_approve" => json!({}),
        "request_reject" => json!({"reason": "no"}),
        "approval_rule_create" => json!({"name": "r", "spec": {"need": {"approvals": 99}}}),
        "approval_rule_update" => json!({}),
        "datastore_adopt" => json!({"path": "vms/x"}),
        "datastore_remove_orphans" => json!({"paths": ["vms/x"]}),
        "cluster_update" => json!({"vcpus_per_cpu": 1001}),
        "pool_create" => json!({"name": "p", "parent": "no-such-pool"}),
        "pool_update" | "vm_migrate" | "drs_apply" => json!({}),
        "host_maintenance_enter" | "host_maintenance_exit" => json!({}),
        "rule_create" => {
            json!({"name": "r", "spec": {"relation": "run-on", "vms": {"names": ["no-such-vm"]}}})
        }
        "group_create" => {
            json!({"name": "g", "spec": {"of": "vms", "members": {"names": ["no-such-vm"]}}})
        }
        "rule_update" | "group_update" | "host_update" | "simulate" => json!({}),
        "naming_rule_create" => json!({"name": "r", "spec": {"pattern": "("}}),
        "network_create" => {
            json!({"name": "n", "spec": {"mode": "nat", "subnet": "10.0.0.0/30"}})
        }
        "user_create" => json!({"name": "root", "role": "viewer"}),
        "user_set_password" => json!({"password": "short"}),
        "token_create" => json!({"name": "t1", "user": "nobody-there"}),
        _ => return None,
    })
}

fn path(meta: &Meta) -> String {
    let id = hostler_types::VmId::generate().to_string();
    meta.path
        .replace("{datastore}/unregistered/{vm}", &format!("nowhere/unregistered/{id}"))
        .replace("{host}/unregistered/{vm}", &format!("nowhere/unregistered/{id}"))
        .replace("{vm}", "no-such-vm")
        .replace("{disk}", "no-such-disk")
        .replace("{image}", "no-such-image")
        .replace("{datastore}", "nowhere")
        .replace("{network}", "no-such-network")
        .replace("{spec}", "no-such-spec")
        .replace("{template}", "no-such-template")
        .replace("{request}", "no-such-request")
        .replace("{rule}", "no-such-rule")
        .replace("{snapshot}", "no-such-snapshot")
        .replace("{pool}", "no-such-pool")
        .replace("{group}", "no-such-group")
        .replace("{decision}", &id)
        .replace("{policy}", "no-such-policy")
        .replace("{host}", "no-such-host")
        .replace("{task}", &id)
        .replace("{token}", "no-such-token")
        .replace("{user}", "no-such-user")
}

async fn call(rig: &Rig, meta: &Meta, token: Option<&str>) -> (u16, String) {
    let mut request = rig.http().request(meta.method.into(), rig.url(&path(meta)));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body(meta.id) {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    if status < 400 {
        return (status, String::new());
    }
    let problem: Value = response.json().await.unwrap();
    (status, problem["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn nothing_is_told_to_strangers_but_what_is_documented() {
    let rig = Rig::start().await;
    let document = hostler_api::endpoints();
    let public: BTreeSet<_> =
        document.endpoints().iter().filter(|m| m.access.is_empty()).map(|m| m.id).collect();
    assert_eq!(public, PUBLIC.into());
    let id = hostler_types::TokenId::generate().uuid().simple().to_string();
    let unknown = format!("hostler_{id}_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    for meta in document.endpoints().iter().filter(|meta| !meta.access.is_empty()) {
        for token in [None, Some("x"), Some(unknown.as_str())] {
            let (status, code) = call(&rig, meta, token).await;
            assert_eq!((status, code.as_str()), (401, "unauthenticated"), "{} {token:?}", meta.id);
        }
    }
}

#[tokio::test]
async fn each_role_may_do_what_is_documented_and_nothing_else() {
    let rig = Rig::start().await;
    let roles = [("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)];
    let document = hostler_api::endpoints();
    for (name, role) in roles {
        rig.user(name, role).await;
        for meta in document.endpoints().iter().filter(|meta| !meta.access.is_empty()) {
            // Anew for each, because one of the calls ends it.
            let token = rig.token(name, None).await;
            let needed = roles.iter().find(|(known, _)| *known == meta.access).unwrap().1;
            // Of others, what everyone may do for themselves needs an admin.
            let others = ["user_set_password", "token_create"].contains(&meta.id);
            let needed = if others { Role::Admin } else { needed };
            let (status, code) = call(&rig, meta, Some(&token)).await;
            let refused = status == 403 && code == "forbidden";
            assert_eq!(refused, role < needed, "{name} calls {}: {status} {code}", meta.id);
            assert_ne!(status, 401, "{name} calls {}", meta.id);
            assert_ne!(status, 500, "{name} calls {}: {code}", meta.id);
        }
    }
}

#[tokio::test]
async fn everyone_may_see_to_their_own() {
    let rig = Rig::start().await;
    rig.user("eve", Role::Viewer).await;
    rig.user("bob", Role::Viewer).await;
    let eve = rig.client(&rig.token("eve", None).await);
    let bobs = rig.token("bob", None).await;
    let request = token::TokenCreate {
        name: "mine".parse().unwrap(),
        user: None,
        role: Some(Role::Admin),
        lifetime_seconds: None,
    };
    let more = eve.call::<token::Create>(&NoParams {}, &NoParams {}, request.clone()).await;
    assert!(more.is_err(), "a viewer makes no admin's token");
    let request = token::TokenCreate { role: None, ..request };
    eve.call::<token::Create>(&NoParams {}, &NoParams {}, request).await.unwrap();
    let query = token::TokenListQuery::default();
    let tokens = eve.call::<token::List>(&NoParams {}, &query, ()).await.unwrap();
    assert_eq!(tokens.items.len(), 2, "one's own only");

    let all = rig.root().call::<token::List>(&NoParams {}, &query, ()).await.unwrap().items;
    let bobs_token = all.iter().find(|token| token.name().as_str().starts_with("bob-")).unwrap();
    let path = token::TokenPath { token: bobs_token.reference() };
    let error = eve.call::<token::Delete>(&path, &NoParams {}, ()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().status, 404, "another's is not there");
    rig.client(&bobs).call::<user::Whoami>(&NoParams {}, &NoParams {}, ()).await.unwrap();
}

#[tokio::test]
async fn tokens_end_with_their_time_and_their_user() {
    let rig = Rig::start().await;
    let whoami = async |token: &str| {
        let client = rig.client(token);
        match client.call::<user::Whoami>(&NoParams {}, &NoParams {}, ()).await {
            Ok(identity) => identity.name,
            Err(ClientError::Problem(problem)) => problem.code,
            Err(other) => panic!("{other}"),
        }
    };
    rig.user("ann", Role::Admin).await;
    let short = rig.token("ann", Some(1)).await;
    let long = rig.token("ann", None).await;
    assert_eq!(whoami(&short).await, "ann");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(whoami(&short).await, "token_expired");
    let mut forged = long.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    assert_eq!(whoami(&forged).await, "unauthenticated");

    let path = user::UserPath { user: "ann".parse::<Ref>().unwrap() };
    rig.root().call::<user::Delete>(&path, &NoParams {}, ()).await.unwrap();
    assert_eq!(whoami(&long).await, "unauthenticated");
    rig.user("ann", Role::Viewer).await;
    assert_eq!(whoami(&long).await, "unauthenticated", "a name made anew inherits nothing");
}

#[tokio::test]
async fn root_is_known_by_the_socket_unless_it_shows_a_token() {
    let rig = Rig::start().await;
    let root = rig.root();
    let me = root.call::<user::Whoami>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    assert_eq!((me.name.as_str(), me.role), ("root", Role::Admin));
    rig.user("eve", Role::Viewer).await;
    let eve = rig.root().bearer(rig.token("eve", None).await);
    let me = eve.call::<user::Whoami>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    assert_eq!((me.name.as_str(), me.role), ("eve", Role::Viewer));
    let bad = rig.root().bearer("nonsense");
    bad.call::<user::Whoami>(&NoParams {}, &NoParams {}, ()).await.unwrap_err();
}

#[tokio::test]
async fn no_reading_request_changes_anything() {
    let document = hostler_api::endpoints();
    let rig = Rig::start().await;
    rig.user("ann", Role::Admin).await;
    let token = rig.token("ann", None).await;
    // What controllers find at the start they write by themselves, the CPU baseline for one.
    let mut before = rig.fleet.snapshot().revision;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let now = rig.fleet.snapshot().revision;
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    for meta in document.endpoints() {
        if meta.method == Method::Get && !["watch", "task_watch"].contains(&meta.id) {
            call(&rig, meta, Some(&token)).await;
        }
    }
    assert_eq!(rig.fleet.snapshot().revision, before);
}
