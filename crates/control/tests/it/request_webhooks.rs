//! What the server does for a request outside of its VM: webhooks and probes.

use expect_test::expect;
use futures::StreamExt as _;
use hostler_control::services::event::{self, EventQuery};
use hostler_control::services::network::{self, NetworkCreate};
use hostler_control::services::task::{self, TaskFilter};
use hostler_control::services::{PageRequest, request, watch};
use hostler_control::{Actor, Settings, WebhookRules};
use hostler_sim::Fleet;
use hostler_types::{Labels, RequestState, Revision, Role, VmKind};
use serde_json::{Value, json};

use crate::receiver::{Reaction, Receiver};
use crate::requests::{approve_all, ask, delivered, ended, fleet, order, person, rule};

const SECRET: &str = "hunter2";
/// As Slack, Teams and Discord have it.
const PATH_SECRET: &str = "b4dc0de";

fn header<'a>(heard: &'a crate::receiver::Heard, name: &str) -> &'a str {
    heard.headers[name].to_str().unwrap()
}

#[tokio::test]
async fn a_webhook_is_called_until_it_answers_and_is_signed() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let (receiver, at) = Receiver::start([Reaction::Answer(503), Reaction::Answer(429)]).await;
    let hook =
        json!({"url": format!("http://{at}/services/T0/{PATH_SECRET}?token=1"), "secret": SECRET});
    let wish = json!({"post": [{"webhook": hook}], "notify": [hook], "owner": "team"});
    let it = ask(&fleet, order("web01", wish)).await;
    let vm = delivered(&fleet, &it).await;
    fleet.until("all tasks have ended", |now| now.task_on(it.id().untyped()).is_none()).await;

    let heard = receiver.heard();
    assert_eq!(heard.len(), 4, "twice in vain, once well, and the notification");
    let id = header(&heard[0], "idempotency-key");
    assert!(heard[..3].iter().all(|heard| header(heard, "idempotency-key") == id));
    assert_ne!(header(&heard[3], "idempotency-key"), id);
    let bodies: Vec<Value> =
        heard.iter().map(|heard| serde_json::from_slice(&heard.body).unwrap()).collect();
    assert_eq!(bodies[0]["event"], "post-configure");
    assert_eq!(bodies[3]["event"], "delivered");
    assert_eq!(bodies[3]["vm"]["id"], vm.id().to_string());
    assert_eq!(bodies[3]["request"]["owner"], "team");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let mut signed = format!("{}.", header(&heard[3], "hostler-timestamp")).into_bytes();
    signed.extend_from_slice(&heard[3].body);
    let tag = ring::hmac::sign(&key, &signed);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header(&heard[3], "hostler-signature"), format!("sha256={hex}"));

    // Nobody is told the secret.
    let anna = person("anna", Role::Viewer);
    let shown = request::show(&fleet.world, &anna, &it.reference()).unwrap();
    let events = event::list(&fleet.world, &Actor::root(), &EventQuery::default()).await.unwrap();
    let json = serde_json::to_string(&*shown).unwrap();
    assert!(json.contains(&format!("\"url\":\"http://{at}/[redacted]\"")), "{json}");
    let tasks = task::list(&fleet.world, &anna, &TaskFilter::default(), &PageRequest::default());
    let tasks = format!("{:?}", tasks.unwrap().items);
    assert!(tasks.contains(&format!("http://{at}/[redacted]")), "{tasks}");
    let mut watched = watch::watch(&fleet.world, &anna, Some(Revision(0)), Vec::new()).unwrap();
    let mut changes = String::new();
    for _ in 0..fleet.snapshot().revision.0 {
        changes += &format!("{:?}", watched.next().await);
    }
    for text in [format!("{shown:?}"), json, tasks, changes, format!("{events:?}")] {
        assert!(!text.contains(SECRET) && !text.contains("hostler-sealed"), "{text}");
        assert!(!text.contains("token=1") && !text.contains(PATH_SECRET), "{text}");
    }
    let store = std::fs::read(fleet.store_path()).unwrap();
    assert!(!store.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()));
}

#[tokio::test]
async fn a_webhook_that_hangs_or_leads_elsewhere_fails_the_step() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let reactions = [
        Reaction::Hang,
        Reaction::Redirect("http://169.254.169.254/latest"),
        Reaction::Answer(404),
    ];
    let (receiver, at) = Receiver::start(reactions).await;
    for (number, expected) in
        ["no answer within 1 s (1 tries)", "redirects are not followed", "it answered 404"]
            .into_iter()
            .enumerate()
    {
        let hook = json!({"url": format!("http://{at}/"), "timeout_seconds": 1, "retries": 0});
        let wish = json!({"post": [{"webhook": hook}], "on_failure": "remove"});
        let it = ask(&fleet, order(&format!("web0{number}"), wish)).await;
        let RequestState::Failed { step, reason } = ended(&fleet, &it).await.status.state.clone()
        else {
            panic!("it was delivered")
        };
        assert_eq!(step, "post-configure");
        assert!(reason.contains(expected), "{reason}");
    }
    assert_eq!(receiver.heard().len(), 3);
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
}

#[tokio::test]
async fn a_gigabyte_of_an_answer_is_not_read() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let (_receiver, at) = Receiver::start([Reaction::Flood]).await;
    let hook = json!({"url": format!("http://{at}/"), "timeout_seconds": 5, "retries": 0});
    let it = ask(&fleet, order("web01", json!({"post": [{"webhook": hook}]}))).await;
    delivered(&fleet, &it).await;
}

/// A failed notification takes nothing back, and a failure is notified.
#[tokio::test]
async fn those_who_are_to_be_told_are_told_of_both_ends() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let (receiver, at) = Receiver::start([Reaction::Answer(410)]).await;
    let notify = json!([{"url": format!("http://{at}/"), "retries": 0}]);
    let it = ask(&fleet, order("web01", json!({"notify": notify}))).await;
    delivered(&fleet, &it).await;
    let wish = json!({"notify": notify, "probes": [{"check": {"tcp": 1}, "retries": 0}]});
    let it = ask(&fleet, order("web02", wish)).await;
    let failed = ended(&fleet, &it).await;
    assert!(matches!(failed.status.state, RequestState::Failed { .. }));
    let heard: Vec<Value> =
        receiver.heard().iter().map(|heard| serde_json::from_slice(&heard.body).unwrap()).collect();
    assert_eq!((&heard[0]["event"], &heard[1]["event"]), (&json!("delivered"), &json!("failed")));
    assert_eq!(heard[1]["reason"], "validate: tcp 1: the guest has no address yet (1 tries)");
}

/// Its actions were done once: another try does not do them again.
#[tokio::test]
async fn actions_are_done_once_and_probes_look_at_the_guest() {
    let fleet = fleet().await;
    approve_all(&fleet).await;
    let (receiver, at) = Receiver::start([Reaction::Answer(200), Reaction::Answer(503)]).await;
    let probes = json!([
        {"check": {"tcp": at.port()}, "retries": 0},
        {"check": {"http": {"port": at.port(), "path": "/health"}}, "retries": 0},
        {"check": {"command": ["systemctl", "is-system-running"]}, "retries": 0},
        {"check": "agent", "retries": 0},
    ]);
    let post = json!([
        {"script": {"text": "echo hello"}},
        {"command": {"run": ["touch", "/ready"]}},
        {"webhook": {"url": format!("http://{at}/"), "retries": 0}},
    ]);
    let it = ask(&fleet, order("web01", json!({"post": post, "probes": probes}))).await;
    let running = |now: &hostler_control::Snapshot| {
        now.all::<VmKind>().iter().any(|vm| vm.status.power.is_live())
    };
    fleet.until("it runs", running).await;
    let say = |addresses: Value| {
        let since = "2026-01-01T00:00:00Z";
        let guest = json!({"agent": true, "since": since, "addresses": addresses});
        let vm = fleet.show("web01").id();
        fleet.host.change(vm, |vm| vm.guest = serde_json::from_value(guest).unwrap());
    };
    // The metadata service is none of its addresses, whatever it says.
    say(json!(["169.254.169.254", "192.0.2.1", "127.0.0.1"]));
    let failed = ended(&fleet, &it).await;
    let RequestState::Failed { step, reason } = &failed.status.state else {
        panic!("{:?}", failed.status)
    };
    let port = at.port();
    let expected = format!("http {port}/health: 127.0.0.1: it answered 503, not 200 (1 tries)");
    assert_eq!((step.as_str(), reason.as_str()), ("validate", expected.as_str()));
    assert_eq!(failed.status.progress.actions, 3);
    request::retry(&fleet.world, &person("o", Role::Operator), &it.reference()).await.unwrap();
    delivered(&fleet, &it).await;
    let heard = receiver.heard();
    assert_eq!(heard.len(), 3, "one webhook, two looks");
    assert_eq!(fleet.host.times_done("vm_exec"), 2 + 1, "two actions, one probe");
}

/// Whoever is root in a guest on a bridge could have the server look which machines and ports there
/// are: by what the guest reports, or by a static address that was asked for.
#[tokio::test]
async fn probes_call_nobody_else_on_a_bridge() {
    let webhooks = WebhookRules {
        plain_http: true,
        networks: vec!["127.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()],
    };
    let fleet = Fleet::with_settings(Settings { webhooks, ..Settings::default() }).await;
    fleet.image("tiny").await;
    let pool = json!({"range": "198.51.100.10-198.51.100.20", "prefix": 24});
    for (name, vlan, pool) in [("open", 1, Value::Null), ("pooled", 2, pool)] {
        let spec = json!({"mode": "bridge", "bridge": "br0", "vlan": vlan, "pool": pool});
        let spec = serde_json::from_value(spec).unwrap();
        let (name, labels) = (name.parse().unwrap(), Labels::new());
        let create = NetworkCreate { name, labels, spec };
        network::create(&fleet.world, &Actor::root(), create).await.unwrap();
    }
    let mut when = json!({"networks": ["open", "pooled", "default"], "scripts": true});
    rule(&fleet, "all", json!({"when": when, "need": {"approvals": 0}})).await;
    when["addresses"] = true.into();
    rule(&fleet, "chosen", json!({"when": when, "need": {"approvals": 0}})).await;

    let fixed = |address: &str| json!({"static": {"address": address, "prefix": 24}});
    let mut text = String::new();
    for (name, nic, reported) in [
        ("reported", json!({"network": "open"}), json!(["198.51.100.7"])),
        ("asked-for", json!({"network": "open", "address": fixed("198.51.100.7")}), json!([])),
        ("outside", json!({"network": "pooled", "address": fixed("198.51.100.7")}), json!([])),
        ("pool", json!({"network": "pooled", "address": "pool"}), json!(["198.51.100.99"])),
        ("allowed", json!({"network": "open"}), json!(["198.51.100.7", "192.0.2.7"])),
        ("the-host", json!({"network": "default"}), json!(["10.77.0.1", "192.168.122.1"])),
    ] {
        let wish = json!({
            "vm": {"name": name, "image": "tiny", "nics": [nic]},
            "post": [{"command": {"run": ["true"]}}],
            "probes": [{"check": {"tcp": 1}, "retries": 0, "timeout_seconds": 1}],
        });
        let it = ask(&fleet, order(name, wish)).await;
        let runs = |now: &hostler_control::Snapshot| {
            let mut vms = now.all::<VmKind>().iter();
            vms.any(|vm| vm.name().as_str() == name && vm.status.power.is_live())
        };
        fleet.until("it runs", runs).await;
        let guest = json!({"agent": true, "since": "2026-01-01T00:00:00Z", "addresses": reported});
        let guest = serde_json::from_value(guest).unwrap();
        fleet.host.change(fleet.show(name).id(), |vm| vm.guest = guest);
        let failed = ended(&fleet, &it).await;
        // What the network at hand says to a connection.
        let called = ["198.51.100.10:", "192.0.2.7:"];
        let reason = match &failed.status.state {
            RequestState::Failed { reason, .. } if !called.iter().any(|it| reason.contains(it)) => {
                reason.clone()
            }
            RequestState::Failed { .. } | RequestState::Delivered { .. } => "called".to_owned(),
            other => panic!("{other:?}"),
        };
        text += &format!("{name}: {reason}\n");
    }
    expect![[r#"
        reported: tcp 1: 198.51.100.7 is on a bridged network, where the server calls only addresses of the network's pool that the VM was given, and those of `hostler server --webhook-network`; ask for an address of the pool, or look with an `agent` or `command` probe (1 tries)
        asked-for: tcp 1: 198.51.100.7 is on a bridged network, where the server calls only addresses of the network's pool that the VM was given, and those of `hostler server --webhook-network`; ask for an address of the pool, or look with an `agent` or `command` probe (1 tries)
        outside: tcp 1: 198.51.100.7 is on a bridged network, where the server calls only addresses of the network's pool that the VM was given, and those of `hostler server --webhook-network`; ask for an address of the pool, or look with an `agent` or `command` probe (1 tries)
        pool: called
        allowed: called
        the-host: tcp 1: the guest has no address yet (1 tries)
    "#]].assert_eq(&text);
}
