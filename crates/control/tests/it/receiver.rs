//! A receiver of webhooks that does what other people's systems do.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use futures::stream;
use tokio::net::TcpListener;

/// What it does with a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reaction {
    Answer(u16),
    /// Says nothing for a long time.
    Hang,
    /// Answers well, and with a gigabyte.
    Flood,
    Redirect(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Receiver {
    reactions: Arc<Mutex<VecDeque<Reaction>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Receiver {
    /// Reacts like this to the first calls, then with 200. Returns its address, too.
    pub(crate) async fn start(reactions: impl IntoIterator<Item = Reaction>) -> (Self, SocketAddr) {
        let receiver = Self::default();
        receiver.reactions.lock().unwrap().extend(reactions);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(hear).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, address)
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

async fn hear(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    receiver.heard.lock().unwrap().push(Heard { headers, body });
    let reaction = receiver.reactions.lock().unwrap().pop_front();
    let answer = Response::builder();
    match reaction.unwrap_or(Reaction::Answer(200)) {
        Reaction::Answer(status) => answer.status(status).body(Body::empty()).unwrap(),
        Reaction::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            answer.body(Body::empty()).unwrap()
        }
        Reaction::Flood => {
            let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
            let chunks = (0..1024).map(move |_| Ok::<_, std::io::Error>(megabyte.clone()));
            answer.body(Body::from_stream(stream::iter(chunks))).unwrap()
        }
        Reaction::Redirect(to) => answer
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header("location", to)
            .body(Body::empty())
            .unwrap(),
    }
}
