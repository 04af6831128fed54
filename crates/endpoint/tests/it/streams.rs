//! Byte streams, also in both directions at once.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use hostler_endpoint::{Bytes, Client, NoParams};

use crate::toy::{self, Echo};

#[tokio::test]
async fn bytes_come_back_while_the_request_is_still_open() {
    let base = toy::serve(toy::Board::default()).await;
    for http in [toy::http1(), toy::http2()] {
        let client = Client::new(http, &base);
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let body = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|bytes| (Ok(bytes), receiver))
        });
        sender.send(Bytes::from_static(b"first")).await.unwrap();
        let call = client.call::<Echo>(&NoParams {}, &NoParams {}, Box::pin(body));
        let limit = Duration::from_secs(5);
        let mut answer = tokio::time::timeout(limit, call).await.expect("an answer").unwrap();
        for text in ["first", "second", "third"] {
            if text != "first" {
                sender.send(Bytes::from_static(text.as_bytes())).await.unwrap();
            }
            let echoed = tokio::time::timeout(limit, answer.next()).await.expect("an echo");
            assert_eq!(echoed.unwrap().unwrap(), text);
        }
        drop(sender);
        let rest: Vec<Bytes> = answer.try_collect().await.unwrap();
        assert_eq!(rest.concat(), b"");
    }
}

#[tokio::test]
async fn streams_are_not_limited() {
    let client = toy::client().await;
    let megabyte = Bytes::from(vec![7; 1 << 20]);
    let body = futures::stream::iter((0..16).map(move |_| Ok(megabyte.clone())));
    let call = client.call::<Echo>(&NoParams {}, &NoParams {}, Box::pin(body));
    let answer = call.await.unwrap();
    let length = answer.try_fold(0, async |sum, part| Ok(sum + part.len())).await.unwrap();
    assert_eq!(length, 16 << 20);
}

#[tokio::test]
async fn a_small_stream_is_whole() {
    let client = toy::client().await;
    let call = client.call::<Echo>(&NoParams {}, &NoParams {}, toy::bytes(vec!["a", "b", "c"]));
    let parts: Vec<Bytes> = call.await.unwrap().try_collect().await.unwrap();
    assert_eq!(parts.concat(), b"abc");
}
