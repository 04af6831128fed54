//! What goes well.

use hostler_endpoint::{CallOptions, Client, NoParams};
use serde_json::json;

use crate::toy::{
    self, ListQuery, Note, NoteCreate, NoteDelete, NoteList, NotePath, NoteTouch, Tag,
};

#[tokio::test]
async fn parameters_and_bodies_arrive_as_they_were_sent() {
    let base = toy::serve(toy::Board::default()).await;
    for http in [toy::http1(), toy::http2()] {
        let client = Client::new(http, &base).bearer("sesame");
        let tag = vec!["a&b=c".to_owned(), "ü".to_owned()];
        let query = ListQuery { limit: Some(2), tag };
        let page = client.call::<NoteList>(&NoParams {}, &query, ()).await.unwrap();
        assert_eq!((page.items.len(), page.revision), (2, 7));
        assert_eq!(page.items[0].text, "a&b=c+ü");

        let note = Note { text: "hello".to_owned(), tags: vec![Tag { weight: 1 }] };
        let made = client.call::<NoteCreate>(&NoParams {}, &NoParams {}, note.clone()).await;
        assert_eq!(made.unwrap(), note);

        let options = CallOptions {
            if_match: Some(42),
            idempotency_key: Some("key-1".to_owned()),
            ..CallOptions::default()
        };
        let path = NotePath { note: "a/b ?#%ü".to_owned() };
        let seen = client.call_with::<NoteTouch>(&path, &NoParams {}, (), options).await.unwrap();
        assert_eq!(seen.name, "a/b ?#%ü");
        assert_eq!((seen.if_match, seen.key.as_deref()), (Some(42), Some("key-1")));

        let path = NotePath { note: "x".to_owned() };
        client.call::<NoteDelete>(&path, &NoParams {}, ()).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_carries_its_revision_and_request_id() {
    let base = toy::serve(toy::Board::default()).await;
    let request = toy::http1()
        .post(format!("{base}/notes"))
        .bearer_auth("sesame")
        .header("x-request-id", "0198a5d0-0000-7000-8000-000000000001")
        .json(&json!({"text": "x", "tags": [{"weight": 1}, {"weight": 2}]}));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["etag"], "\"2\"");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(response.headers()["x-request-id"], "0198a5d0-0000-7000-8000-000000000001");

    let hostile = toy::http1().get(format!("{base}/notes")).header("x-request-id", "a b\"c");
    let response = hostile.send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap();
    assert_eq!(id.len(), 36, "a new id instead of {id}");
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_goes_away() {
    let board = toy::Board::default();
    let base = toy::serve(board.clone()).await;
    let client = Client::new(toy::http1(), &base);
    let options = CallOptions {
        timeout: Some(std::time::Duration::from_millis(50)),
        ..CallOptions::default()
    };
    let path = NotePath { note: "slow".to_owned() };
    let error = client.call_with::<NoteDelete>(&path, &NoParams {}, (), options).await.unwrap_err();
    assert!(error.to_string().contains("has not answered within 0.05 s"), "{error}");
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(*board.finished.lock().unwrap(), ["slow"]);
}

#[test]
fn the_document_says_what_the_types_say() {
    let document = toy::document();
    assert!(document.conflicts().is_empty());
    let document = document.build();
    let create = &document["paths"]["/notes"]["post"];
    assert_eq!(create["operationId"], "note_create");
    assert_eq!(create["x-required-role"], "writer");
    let schema = &create["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(schema, "#/components/schemas/Note");
    assert!(create["responses"]["201"].is_object());
    assert!(create["responses"]["default"].is_object());
    let delete = &document["paths"]["/notes/{note}"]["delete"];
    assert!(delete["responses"]["204"].is_object());
    assert_eq!(delete["security"], json!([]));
    assert_eq!(delete["parameters"][0]["name"], "note");
    assert!(document["components"]["schemas"]["Tag"].is_object(), "nested schemas are there");
    assert_eq!(document, toy::document().build());
}
