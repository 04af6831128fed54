//! What every request can rely on: pages, filters, revisions, idempotency, errors, streams.

use futures::{StreamExt as _, TryStreamExt as _};
use hostler_api::image::{self, ImagePath, Upload, UploadQuery};
use hostler_api::system::{ShowDocument, ShowReady};
use hostler_api::vm::{
    List, Log, Screenshot, Show, Start, Update, VmListQuery, VmLogQuery, VmPath,
};
use hostler_endpoint::{Bytes, CallOptions, ClientError, NoParams};
use hostler_sim::Fault;
use hostler_types::{ImageCreate, PowerState, Ref, VmUpdate};

use crate::rig::{CANARY, Rig};

fn vm(name: &str) -> VmPath {
    VmPath { vm: name.parse::<Ref>().unwrap() }
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String) {
    let error = result.unwrap_err();
    let problem = error.problem().unwrap_or_else(|| panic!("{error}"));
    (problem.status, problem.code.clone())
}

#[tokio::test]
async fn lists_come_in_pages_and_by_filter() {
    let rig = Rig::start().await;
    let root = rig.root();
    let list = async |query: VmListQuery| {
        root.call::<List>(&NoParams {}, &query, ()).await.map(|page| {
            let names: Vec<_> = page.items.iter().map(|vm| vm.name().to_string()).collect();
            (names, page.next)
        })
    };
    let query = VmListQuery::default;
    let (names, next) = list(VmListQuery { limit: Some(1), ..query() }).await.unwrap();
    assert_eq!(names, ["db01"]);
    let (names, next) = list(VmListQuery { after: next, ..query() }).await.unwrap();
    assert_eq!((names, next), (vec!["web01".to_owned()], None));
    let by_name = VmListQuery { name: Some("we".to_owned()), ..query() };
    assert_eq!(list(by_name).await.unwrap().0, ["web01"]);
    let by_power = VmListQuery { power: Some(PowerState::Stopped), ..query() };
    assert_eq!(list(by_power).await.unwrap().0, ["db01"]);
    let by_label = VmListQuery { label: vec!["env=prod".to_owned()], ..query() };
    assert!(list(by_label).await.unwrap().0.is_empty());
    let on_datastore = VmListQuery { datastore: Some("local".parse().unwrap()), ..query() };
    assert_eq!(list(on_datastore).await.unwrap().0.len(), 2);
    let nowhere = VmListQuery { host: Some("nowhere".parse().unwrap()), ..query() };
    assert_eq!(code(list(nowhere).await), (404, "not_found".to_owned()));
    let none = VmListQuery { limit: Some(0), ..query() };
    assert_eq!(code(list(none).await), (400, "invalid".to_owned()));
}

#[tokio::test]
async fn an_object_carries_its_revision_as_etag_and_a_stale_one_is_refused() {
    let rig = Rig::start().await;
    rig.user("ann", hostler_types::Role::Operator).await;
    let token = rig.token("ann", None).await;
    let request = rig.http().get(rig.url("/v1/vms/db01")).bearer_auth(&token);
    let response = request.send().await.unwrap();
    let etag = response.headers()["etag"].to_str().unwrap().to_owned();
    let object: hostler_types::Vm = response.json().await.unwrap();
    let revision = object.metadata.revision.0;
    assert_eq!(etag, format!("\"{revision}\""));
    assert!(!serde_json::to_string(&object).unwrap().contains(CANARY));

    let change = VmUpdate { description: Some("x".to_owned()), ..VmUpdate::default() };
    let options = CallOptions { if_match: Some(revision + 7), ..CallOptions::default() };
    let client = rig.client(&token);
    let stale =
        client.call_with::<Update>(&vm("db01"), &NoParams {}, change.clone(), options).await;
    assert_eq!(code(stale), (409, "stale_revision".to_owned()));
    let options = CallOptions { if_match: Some(revision), ..CallOptions::default() };
    client.call_with::<Update>(&vm("db01"), &NoParams {}, change, options).await.unwrap();
}

#[tokio::test]
async fn the_same_key_is_carried_out_once() {
    let rig = Rig::start().await;
    let root = rig.root();
    let keyed =
        |key: &str| CallOptions { idempotency_key: Some(key.to_owned()), ..CallOptions::default() };
    let start = async |vm: &VmPath, key: &str| {
        root.call_with::<Start>(vm, &NoParams {}, (), keyed(key)).await
    };
    rig.fleet.host.fault("vm_start", Fault::Hang);
    let db01 = vm("db01");
    let (first, second) = tokio::join!(start(&db01, "k1"), start(&db01, "k1"));
    assert_eq!(first.unwrap().id(), second.unwrap().id());
    assert_eq!(code(start(&vm("db01"), "k2").await), (409, "busy".to_owned()));
    assert_eq!(code(start(&vm("web01"), "k1").await).1, "idempotency_mismatch");
}

#[tokio::test]
async fn wrong_requests_are_explained() {
    let rig = Rig::start().await;
    let root = rig.root();
    let missing = root.call::<Show>(&vm("nowhere"), &NoParams {}, ()).await.unwrap_err();
    let problem = missing.problem().unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (404, "not_found"));
    assert!(problem.hint.is_some() && problem.request_id.is_some());
    assert!(problem.detail.contains("nowhere"));
    assert_eq!(code(root.call::<Start>(&vm("web01"), &NoParams {}, ()).await).1, "wrong_state");

    rig.user("ann", hostler_types::Role::Operator).await;
    let token = rig.token("ann", None).await;
    let create = async |body: serde_json::Value| {
        let request = rig.http().post(rig.url("/v1/vms")).bearer_auth(&token).json(&body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<serde_json::Value>().await.unwrap())
    };
    let check = async |body: serde_json::Value, field: &str| {
        let (status, problem) = create(body.clone()).await;
        assert_eq!(status, 400, "{body} {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{body} {problem}");
    };
    use serde_json::json;
    check(json!({"name": "Web_01"}), "name").await;
    check(json!({"name": "w", "cpus": 0}), "cpus").await;
    check(json!({"name": "w", "cpus": -1}), "cpus").await;
    check(json!({"name": "w", "memory": "0"}), "memory").await;
    check(json!({"name": "w", "memory": "lots"}), "memory").await;
    check(json!({"name": "w", "memory": -5}), "memory").await;
    check(json!({"name": "w", "disks": [{"size": "1GiB", "sise": 1}]}), "disks[0].sise").await;
    check(json!({"name": "w", "disks": [{"size": 0}]}), "disks[0].size").await;
    let (status, problem) = create(json!({"name": "web01"})).await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("name_taken")), "{problem}");
    let (status, problem) = create(json!({"name": "w", "cpus": 1000})).await;
    assert_eq!((status, problem["code"].as_str()), (507, Some("no_capacity")), "{problem}");
    let path = rig.http().get(rig.url("/v2/vms")).send().await.unwrap();
    assert_eq!(path.status(), 404);
}

#[tokio::test]
async fn a_dry_run_explains_and_makes_nothing() {
    use hostler_api::vm::{Create, VmCreateQuery};
    let rig = Rig::start().await;
    let root = rig.root();
    let request = serde_json::json!({"name": "new", "disks": [{"size": "1GiB"}]});
    let request: hostler_types::VmCreate = serde_json::from_value(request).unwrap();
    let query = VmCreateQuery { dry_run: true };
    let made = root.call::<Create>(&NoParams {}, &query, request).await.unwrap();
    assert!(made.task.is_none() && !made.placement.is_empty(), "{made:?}");
    assert_eq!(code(root.call::<Show>(&vm("new"), &NoParams {}, ()).await).0, 404);
}

#[tokio::test]
async fn streams_come_through() {
    let rig = Rig::start().await;
    let root = rig.root();
    let query = VmLogQuery { follow: false };
    let log = root.call::<Log>(&vm("web01"), &query, ()).await.unwrap();
    assert_eq!(log.try_collect::<Vec<_>>().await.unwrap().concat(), b"login: ");
    let query = VmLogQuery { follow: true };
    let mut log = root.call::<Log>(&vm("web01"), &query, ()).await.unwrap();
    assert_eq!(log.next().await.unwrap().unwrap(), "login: ");
    let picture = root.call::<Screenshot>(&vm("web01"), &NoParams {}, ()).await.unwrap();
    assert!(!picture.try_collect::<Vec<_>>().await.unwrap().concat().is_empty());

    let announced = serde_json::json!({"name": "debian", "source": {"upload": 100}});
    let announced: ImageCreate = serde_json::from_value(announced).unwrap();
    let made = root.call::<image::Create>(&NoParams {}, &NoParams {}, announced).await.unwrap();
    assert!(made.task.is_none(), "the client uploads");
    let image = ImagePath { image: "debian".parse::<Ref>().unwrap() };
    let upload = async |offset, length| {
        let body = futures::stream::iter([Ok(Bytes::from(vec![0; length]))]);
        root.call::<Upload>(&image, &UploadQuery { offset }, Box::pin(body)).await
    };
    assert_eq!(upload(0, 60).await.unwrap().received.bytes(), 60);
    let early = root.call::<image::Import>(&image, &NoParams {}, ()).await;
    assert_eq!(code(early), (409, "wrong_state".to_owned()));
    let status = root.call::<image::UploadProgress>(&image, &NoParams {}, ()).await.unwrap();
    assert_eq!(status.received.bytes(), 60, "an interrupted upload goes on here");
    assert_eq!(upload(60, 40).await.unwrap().received.bytes(), 100);
    assert_eq!(code(upload(101, 1).await), (400, "invalid".to_owned()));
    let task = root.call::<image::Import>(&image, &NoParams {}, ()).await.unwrap();
    rig.fleet.done(&task).await;
}

#[tokio::test]
async fn the_document_is_served() {
    let rig = Rig::start().await;
    let anyone = hostler_endpoint::Client::new(rig.http(), &rig.url(""));
    anyone.call::<ShowReady>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    let served = anyone.call::<ShowDocument>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    assert_eq!(served, hostler_api::document());
}
