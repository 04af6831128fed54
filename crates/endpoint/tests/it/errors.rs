//! Every shape of refusal, as a problem with a code, the field and a request id.

use std::time::Duration;

use hostler_endpoint::{CallOptions, Client, ClientError, NoParams, Problem};
use http::StatusCode;
use serde_json::{Value, json};

use crate::toy::{self, ListQuery, NoteDelete, NoteList, NotePath};

/// Sends a raw request and answers the problem that must come back.
async fn refused(request: reqwest::RequestBuilder) -> Problem {
    let response = request.bearer_auth("sesame").send().await.unwrap();
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.status, status.as_u16());
    assert_eq!(problem.request_id, Some(id));
    assert_eq!(problem.title, status.canonical_reason().unwrap_or_default());
    assert!(problem.kind.ends_with(&problem.code));
    problem
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let base = toy::serve(toy::Board::default()).await;
    let http = toy::http1();
    let post = |body: Value| http.post(format!("{base}/notes")).json(&body);
    let check = async |request, status: StatusCode, code: &str, field: Option<&str>, word: &str| {
        let problem = refused(request).await;
        assert_eq!((problem.status, problem.code.as_str()), (status.as_u16(), code), "{problem:?}");
        let named = problem.errors.first().map(|error| error.field.as_str());
        assert_eq!(named, field, "{problem:?}");
        assert!(problem.detail.contains(word), "{problem:?}");
    };
    let bad = StatusCode::BAD_REQUEST;
    let nested = json!({"text": "x", "tags": [{"weight": 1}, {"weight": 300}]});
    check(post(nested), bad, "invalid", Some("tags[1].weight"), "300").await;
    check(post(json!({"text": 1})), bad, "invalid", Some("text"), "expected a string").await;
    let unknown = json!({"text": "x", "txet": 1});
    check(post(unknown), bad, "invalid", Some("txet"), "unknown field `txet`").await;
    check(post(json!({})), bad, "invalid", None, "missing field `text`").await;
    check(http.post(format!("{base}/notes")), bad, "invalid", None, "missing field").await;
    let truncated = http
        .post(format!("{base}/notes"))
        .header("content-type", "application/json")
        .body("{\"text\": ");
    check(truncated, bad, "invalid", Some("text"), "line 1").await;
    let trailing = http
        .post(format!("{base}/notes"))
        .header("content-type", "application/json; charset=utf-8")
        .body("{\"text\": \"x\"} x");
    check(trailing, bad, "invalid", None, "trailing").await;
    let deep = http
        .post(format!("{base}/notes"))
        .header("content-type", "application/json")
        .body("[".repeat(900));
    check(deep, bad, "invalid", Some("[0]"), "").await;
    let form = http.post(format!("{base}/notes")).body("text=x");
    check(form, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", None, "JSON").await;
    let long = post(json!({"text": "x".repeat(2000)}));
    check(long, StatusCode::PAYLOAD_TOO_LARGE, "too_large", None, "1000 bytes").await;
    let limit = http.get(format!("{base}/notes?limit=many"));
    check(limit, bad, "invalid", Some("limit"), "`many`").await;
    let typo = http.get(format!("{base}/notes?limt=1"));
    check(typo, bad, "invalid", Some("limt"), "unknown field").await;
    let touch = || http.post(format!("{base}/notes/x/touch"));
    check(touch().header("if-match", "W/\"1\""), bad, "invalid", Some("if-match"), "ETag").await;
    let key = touch().header("idempotency-key", "a b");
    check(key, bad, "invalid", Some("idempotency-key"), "visible").await;
    let unconditional = http.delete(format!("{base}/notes/x")).header("if-match", "\"1\"");
    check(unconditional, bad, "invalid", Some("if-match"), "conditional").await;
    check(touch().body("surprise"), bad, "invalid", None, "no body").await;
    let path = http.get(format!("{base}/nowhere"));
    check(path, StatusCode::NOT_FOUND, "unknown_path", None, "/nowhere").await;
    let method = http.put(format!("{base}/notes"));
    check(method, StatusCode::METHOD_NOT_ALLOWED, "wrong_method", None, "PUT").await;
}

#[tokio::test]
async fn a_panic_tells_nothing_but_its_request_id() {
    let base = toy::serve(toy::Board::default()).await;
    let problem = refused(toy::http1().delete(format!("{base}/notes/panic"))).await;
    assert_eq!((problem.status, problem.code.as_str()), (500, "internal"));
    assert!(!serde_json::to_string(&problem).unwrap().contains("secret"), "{problem:?}");
    let path = NotePath { note: "x".to_owned() };
    let client = Client::new(toy::http1(), &base);
    client.call::<NoteDelete>(&path, &NoParams {}, ()).await.expect("the server lives on");
}

#[tokio::test]
async fn the_gate_comes_before_everything_else() {
    let base = toy::serve(toy::Board::default()).await;
    let body = json!({"text": 1});
    let response = toy::http1().post(format!("{base}/notes")).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn the_client_tells_problems_from_broken_servers() {
    let client = toy::client().await;
    let path = NotePath { note: "missing".to_owned() };
    let error = client.call::<NoteDelete>(&path, &NoParams {}, ()).await.unwrap_err();
    let problem = error.problem().expect("a problem");
    assert_eq!((problem.code.as_str(), problem.hint.as_deref()), ("not_found", Some("list them")));
    assert_eq!(error.to_string(), "there is no note `missing`");

    let list = async |base: &str, timeout| {
        let options = CallOptions { timeout: Some(timeout), ..CallOptions::default() };
        let client = Client::new(toy::http1(), base).answer_limit(1000);
        let query = ListQuery::default();
        client.call_with::<NoteList>(&NoParams {}, &query, (), options).await.unwrap_err()
    };
    let long = Duration::from_secs(5);
    let nobody = list("http://127.0.0.1:1", long).await;
    assert!(matches!(nobody, ClientError::Connect { .. }) && nobody.is_unsent(), "{nobody:?}");
    assert!(nobody.to_string().contains("Connection refused"), "{nobody}");

    let html = toy::serve_bytes(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno").await;
    let error = list(&html, long).await;
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("502 Bad Gateway"), "{error}");

    let junk = toy::serve_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\njunk").await;
    assert!(matches!(list(&junk, long).await, ClientError::Protocol { .. }));

    let cut = toy::serve_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n{\"items\"").await;
    let error = list(&cut, Duration::from_millis(300)).await;
    assert!(matches!(error, ClientError::Broken { .. } | ClientError::Timeout { .. }), "{error:?}");

    let silent = toy::serve_bytes(b"").await;
    let error = list(&silent, Duration::from_millis(300)).await;
    assert!(!error.is_unsent(), "{error:?}");
}

#[tokio::test]
async fn answers_are_bounded() {
    let base = toy::serve(toy::Board::default()).await;
    let client = Client::new(toy::http2(), &base).answer_limit(1000);
    let query = ListQuery { limit: Some(1000), tag: Vec::new() };
    let error = client.call::<NoteList>(&NoParams {}, &query, ()).await.unwrap_err();
    assert!(error.to_string().contains("longer than 1000 bytes"), "{error}");
}

#[tokio::test]
async fn a_parameter_that_would_change_the_path_is_not_sent() {
    let client = toy::client().await;
    for note in ["", ".", ".."] {
        let path = NotePath { note: note.to_owned() };
        let error = client.call::<NoteDelete>(&path, &NoParams {}, ()).await.unwrap_err();
        assert!(matches!(error, ClientError::Request(_)), "{note:?}: {error:?}");
    }
}

#[test]
fn secrets_are_not_in_debug_output() {
    let client = Client::new(toy::http1(), "https://server").bearer("hunter2");
    assert!(!format!("{client:?}").contains("hunter2"));
}
