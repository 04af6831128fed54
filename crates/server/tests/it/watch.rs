//! Following the change log.

use std::time::Duration;

use futures::StreamExt as _;
use hostler_api::event::{self, Watch, WatchQuery};
use hostler_api::vm::{History, List, VmListQuery, VmPath};
use hostler_endpoint::{CallOptions, NoParams, PageQuery};
use hostler_types::{KindName, Ref, Role};

use crate::rig::{CANARY, Rig};

#[tokio::test]
async fn a_watch_goes_on_after_a_list_without_a_gap() {
    let rig = Rig::start().await;
    let root = rig.root();
    let list = root.call::<List>(&NoParams {}, &VmListQuery::default(), ()).await.unwrap();
    for number in 0..50 {
        rig.user(&format!("user{number}"), Role::Viewer).await;
    }
    let query = WatchQuery { after: Some(list.revision), kind: Vec::new() };
    let watch = root.call::<Watch>(&NoParams {}, &query, ()).await.unwrap();
    let changes: Vec<_> = watch.take(50).map(Result::unwrap).collect().await;
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(change.id, list.revision + 1 + index as u64);
        assert_eq!(change.data.revision, change.id);
    }
    let users = changes.iter().filter(|change| change.data.kind == KindName::User);
    for (index, change) in users.enumerate() {
        assert_eq!(change.data.name.as_str(), format!("user{index}"));
    }
    let options = CallOptions { last_event_id: Some(changes[48].id), ..CallOptions::default() };
    let again = root.call_with::<Watch>(&NoParams {}, &query, (), options).await.unwrap();
    let next: Vec<_> = again.take(1).map(Result::unwrap).collect().await;
    assert_eq!(next[0].id, changes[49].id, "the header wins over the query");
}

#[tokio::test]
async fn changes_arrive_at_once_and_by_kind() {
    let rig = Rig::start().await;
    let query = WatchQuery { after: None, kind: vec![KindName::User] };
    let mut watch = rig.root().call::<Watch>(&NoParams {}, &query, ()).await.unwrap();
    rig.user("ann", Role::Viewer).await;
    rig.token("ann", None).await;
    rig.user("bob", Role::Viewer).await;
    let limit = Duration::from_secs(5);
    for name in ["ann", "bob"] {
        let change = tokio::time::timeout(limit, watch.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(change.data.name.as_str(), name);
        assert_eq!(change.data.kind, KindName::User);
    }
}

#[tokio::test]
async fn a_viewer_does_not_hear_of_users() {
    let rig = Rig::start().await;
    rig.user("eve", Role::Viewer).await;
    let eve = rig.client(&rig.token("eve", None).await);
    let all = event::EventListQuery { full: true, ..event::EventListQuery::default() };
    let events = eve.call::<event::List>(&NoParams {}, &all, ()).await.unwrap();
    assert!(!events.items.is_empty());
    assert!(events.items.iter().all(|e| ![KindName::User, KindName::Token].contains(&e.kind)));
    let text = serde_json::to_string(&events).unwrap();
    assert!(!text.contains(CANARY), "secrets are not in the history");
}

#[tokio::test]
async fn a_watch_ends_with_its_token_and_with_the_server() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Admin).await;
    let ann = rig.client(&rig.token("ann", None).await);
    let mut of_ann = ann.call::<Watch>(&NoParams {}, &WatchQuery::default(), ()).await.unwrap();
    let mut of_root =
        rig.root().call::<Watch>(&NoParams {}, &WatchQuery::default(), ()).await.unwrap();
    let path = hostler_api::user::UserPath { user: "ann".parse::<Ref>().unwrap() };
    rig.root().call::<hostler_api::user::Delete>(&path, &NoParams {}, ()).await.unwrap();
    let limit = Duration::from_secs(5);
    let end = async {
        loop {
            if let Err(problem) = of_ann.next().await.expect("a reason") {
                return problem;
            }
        }
    };
    assert_eq!(tokio::time::timeout(limit, end).await.unwrap().code, "unauthenticated");
    rig.stop().await;
    let rest = async { while let Some(Ok(_)) = of_root.next().await {} };
    tokio::time::timeout(limit, rest).await.expect("the stream ends");
}

#[tokio::test]
async fn a_vms_history_is_its_own() {
    let rig = Rig::start().await;
    let path = VmPath { vm: "web01".parse::<Ref>().unwrap() };
    let page = rig.root().call::<History>(&path, &PageQuery::default(), ()).await.unwrap();
    assert_eq!(page.items[0].action, event::ChangeAction::Created);
    assert!(page.items.iter().all(|change| change.name.as_str() == "web01"));
    assert!(!serde_json::to_string(&page).unwrap().contains(CANARY));
}
