//! The toy API: notes on a board.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use hostler_endpoint::{
    ByteStream, Bytes, Call, Client, Document, Empty, Endpoint, EventStream, Events, Item, Json,
    Meta, Method, NoParams, Page, Problem, Routes, Stream,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) tags: Vec<Tag>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tag {
    pub(crate) weight: u8,
}

/// What a handler saw of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) if_match: Option<u64>,
    pub(crate) key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
pub(crate) struct NotePath {
    pub(crate) note: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListQuery {
    pub(crate) limit: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tag: Vec<String>,
}

pub(crate) struct NoteList;
impl Endpoint for NoteList {
    const ID: &'static str = "note_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/notes";
    const SUMMARY: &'static str = "List notes";
    const TAG: &'static str = "note";
    type Path = NoParams;
    type Query = ListQuery;
    type Body = Empty;
    type Answer = Json<Page<Note>>;
}

pub(crate) struct NoteCreate;
impl Endpoint for NoteCreate {
    const ID: &'static str = "note_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/notes";
    const SUMMARY: &'static str = "Write a note";
    const TAG: &'static str = "note";
    const ACCESS: &'static str = "writer";
    const STATUS: u16 = 201;
    const BODY_LIMIT: usize = 1000;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<Note>;
    type Answer = Json<Note>;

    fn revision(answer: &Note) -> Option<u64> {
        Some(answer.tags.len() as u64)
    }
}

pub(crate) struct NoteTouch;
impl Endpoint for NoteTouch {
    const ID: &'static str = "note_touch";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/notes/{note}/touch";
    const SUMMARY: &'static str = "Tell what was received";
    const TAG: &'static str = "note";
    const CONDITIONAL: bool = true;
    const REPEATABLE: bool = true;
    type Path = NotePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Seen>;
}

pub(crate) struct NoteDelete;
impl Endpoint for NoteDelete {
    const ID: &'static str = "note_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/notes/{note}";
    const SUMMARY: &'static str = "Delete a note";
    const TAG: &'static str = "note";
    type Path = NotePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}

pub(crate) struct NoteWatch;
impl Endpoint for NoteWatch {
    const ID: &'static str = "note_watch";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/watch";
    const SUMMARY: &'static str = "Follow notes";
    const TAG: &'static str = "note";
    type Path = NoParams;
    type Query = ListQuery;
    type Body = Empty;
    type Answer = Events<Note>;
}

pub(crate) struct Echo;
impl Endpoint for Echo {
    const ID: &'static str = "echo";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/echo";
    const SUMMARY: &'static str = "Send back what comes";
    const TAG: &'static str = "stream";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Stream;
    type Answer = Stream;
}

/// Shared by handlers and tests.
#[derive(Debug, Default, Clone)]
pub(crate) struct Board {
    pub(crate) finished: Arc<Mutex<Vec<String>>>,
}

async fn note_list(_: Board, call: Call<NoteList>) -> Result<Page<Note>, Problem> {
    let count = call.query.limit.unwrap_or(3);
    let text = call.query.tag.join("+");
    let note = Note { text, tags: Vec::new() };
    Ok(Page { items: vec![note; count as usize], next: None, revision: 7 })
}

async fn note_create(_: Board, call: Call<NoteCreate>) -> Result<Note, Problem> {
    Ok(call.body)
}

async fn note_touch(_: Board, call: Call<NoteTouch>) -> Result<Seen, Problem> {
    Ok(Seen { name: call.path.note, if_match: call.if_match, key: call.idempotency_key })
}

async fn note_delete(board: Board, call: Call<NoteDelete>) -> Result<(), Problem> {
    match call.path.note.as_str() {
        "panic" => panic!("secret detail"),
        "missing" => {
            Err(Problem::new(404, "not_found", "there is no note `missing`").hint("list them"))
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            board.finished.lock().unwrap().push(call.path.note);
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn note_watch(_: Board, call: Call<NoteWatch>) -> Result<EventStream<Note>, Problem> {
    let from = call.last_event_id.map_or(1, |id| id + 1);
    let item = |id| Item { id, data: Note { text: format!("note\n{id}"), tags: Vec::new() } };
    let items = stream::iter((from..from + 3).map(move |id| Ok(item(id))));
    match call.query.tag.first().map(String::as_str) {
        Some("fail") => {
            let end = stream::once(async { Err(Problem::new(410, "gone", "it is gone")) });
            Ok(Box::pin(items.chain(end)))
        }
        _ => Ok(Box::pin(items)),
    }
}

async fn echo(_: Board, call: Call<Echo>) -> Result<ByteStream, Problem> {
    Ok(call.body)
}

async fn only_with_token(
    _: Board,
    meta: Meta,
    parts: http::request::Parts,
) -> Result<http::request::Parts, Problem> {
    let given = parts.headers.get("authorization").is_some_and(|v| v == "Bearer sesame");
    if meta.access.is_empty() || given {
        return Ok(parts);
    }
    Err(Problem::new(401, "unauthenticated", "who are you?"))
}

pub(crate) fn router(board: Board) -> axum::Router {
    Routes::new(board)
        .gate(only_with_token)
        .serve::<NoteList, _>(note_list)
        .serve::<NoteCreate, _>(note_create)
        .serve::<NoteTouch, _>(note_touch)
        .serve::<NoteDelete, _>(note_delete)
        .serve::<NoteWatch, _>(note_watch)
        .serve::<Echo, _>(echo)
        .build()
}

pub(crate) fn document() -> Document {
    Document::new("Toy", "1")
        .endpoint::<NoteList>()
        .endpoint::<NoteCreate>()
        .endpoint::<NoteTouch>()
        .endpoint::<NoteDelete>()
        .endpoint::<NoteWatch>()
        .endpoint::<Echo>()
}

/// A server that ends with the test's runtime; its base address.
pub(crate) async fn serve(board: Board) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(board)).await });
    format!("http://{address}")
}

/// A server that answers each connection with these bytes, whatever is asked.
pub(crate) async fn serve_bytes(answer: &'static [u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(answer).await;
        }
    });
    format!("http://{address}")
}

/// These tests speak plain HTTP; reqwest wants to know TLS all the same.
fn http() -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls)
}

pub(crate) fn http1() -> reqwest::Client {
    http().http1_only().build().unwrap()
}

pub(crate) fn http2() -> reqwest::Client {
    http().http2_prior_knowledge().build().unwrap()
}

pub(crate) async fn client() -> Client {
    Client::new(http2(), &serve(Board::default()).await).bearer("sesame")
}

pub(crate) fn bytes(parts: Vec<&'static str>) -> ByteStream {
    Box::pin(stream::iter(parts.into_iter().map(|part| Ok(Bytes::from(part)))))
}
