//! Event streams.

use futures::StreamExt as _;
use hostler_endpoint::{CallOptions, Client, NoParams};

use crate::toy::{self, ListQuery, NoteWatch};

#[tokio::test]
async fn events_come_with_their_ids_and_end() {
    let client = toy::client().await;
    let watch = client.call::<NoteWatch>(&NoParams {}, &ListQuery::default(), ()).await.unwrap();
    let events: Vec<_> = watch.map(Result::unwrap).collect().await;
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(events[2].data.text, "note\n3");

    let options = CallOptions { last_event_id: Some(3), ..CallOptions::default() };
    let query = ListQuery::default();
    let watch = client.call_with::<NoteWatch>(&NoParams {}, &query, (), options).await.unwrap();
    let ids: Vec<_> = watch.map(|event| event.unwrap().id).collect().await;
    assert_eq!(ids, [4, 5, 6]);
}

#[tokio::test]
async fn a_failing_stream_ends_with_its_problem() {
    let client = toy::client().await;
    let query = ListQuery { limit: None, tag: vec!["fail".to_owned()] };
    let watch = client.call::<NoteWatch>(&NoParams {}, &query, ()).await.unwrap();
    let events: Vec<_> = watch.collect().await;
    assert_eq!(events.len(), 4);
    assert_eq!(events[3].as_ref().unwrap_err().code, "gone");
}

#[tokio::test]
async fn a_stream_that_breaks_or_lies_ends_with_an_error() {
    let check = async |answer: &'static [u8], word: &str| {
        let base = toy::serve_bytes(answer).await;
        let client = Client::new(toy::http1(), &base);
        let query = ListQuery::default();
        let watch = client.call::<NoteWatch>(&NoParams {}, &query, ()).await.unwrap();
        let events: Vec<_> = watch.collect().await;
        let problem = events.last().unwrap().as_ref().unwrap_err();
        assert_eq!(problem.code, "stream_lost");
        assert!(problem.detail.contains(word), "{problem:?}");
        events.len()
    };
    let one_then_cut =
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nid: 1\ndata: {\"text\":\"x\"}\n\n";
    assert_eq!(check(one_then_cut, "broke").await, 2);
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\ndata: {}\n\n", "no id").await;
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\nid: 1\ndata: {}\n\n", "event 1").await;
}
