//! Server-sent events: the writer that the router uses and the bounded reader of the client.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Problem;
use crate::answer::{EventStream, Item};
use crate::client::{ClientError, Received};

pub(crate) const MEDIA_TYPE: &str = "text/event-stream";

/// How often a comment is sent when there is nothing to tell.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream that is silent for this long (four comments lost) is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest line, and the longest event, that the client takes.
const LINE_LIMIT: usize = 16 << 20;
/// The event that ends a failed stream; its data is a [`Problem`].
const PROBLEM: &str = "problem";

/// The events as bytes, with comments in between that keep the connection alive.
pub(crate) fn encode<T: Serialize + Send + 'static>(
    events: EventStream<T>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    // The first comment makes the headers and the connection's life visible at once.
    let first = stream::once(async { Ok(Bytes::from_static(b":\n\n")) });
    let rest = stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        match tokio::time::timeout(KEEP_ALIVE, events.next()).await {
            Err(_) => Some((Ok(Bytes::from_static(b":\n\n")), Some(events))),
            Ok(None) => None,
            Ok(Some(Ok(item))) => match serde_json::to_string(&item.data) {
                Ok(data) => {
                    let text = format!("id: {}\ndata: {data}\n\n", item.id);
                    Some((Ok(Bytes::from(text)), Some(events)))
                }
                Err(error) => Some((Err(std::io::Error::other(error)), None)),
            },
            Ok(Some(Err(problem))) => {
                let data = serde_json::to_string(&problem).unwrap_or_default();
                Some((Ok(Bytes::from(format!("event: {PROBLEM}\ndata: {data}\n\n"))), None))
            }
        }
    });
    first.chain(rest)
}

/// The events of an answer. The stream ends after its first error.
pub(crate) fn decode<T: DeserializeOwned + Send + 'static>(received: Received) -> EventStream<T> {
    struct State {
        received: Received,
        parser: Parser,
        ready: VecDeque<Frame>,
        broken: Option<Problem>,
    }
    let state =
        State { received, parser: Parser::new(LINE_LIMIT), ready: VecDeque::new(), broken: None };
    // `None` follows an error: nothing comes after it. Fused, because readers that take what is
    // ready in one go look again after the end, and an unfolded stream would panic.
    let items = stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        loop {
            if let Some(frame) = state.ready.pop_front() {
                let item = frame.read();
                let next = item.is_ok().then_some(state);
                return Some((item, next));
            }
            if let Some(problem) = state.broken.take() {
                return Some((Err(problem), None));
            }
            match tokio::time::timeout(SILENCE, state.received.chunk()).await {
                Err(_) => state.broken = Some(lost("the server has fallen silent")),
                Ok(Err(error)) => state.broken = Some(lost(&error.to_string())),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(bytes))) => {
                    if let Err(reason) = state.parser.feed(&bytes, &mut state.ready) {
                        state.broken = Some(lost(reason));
                    }
                }
            }
        }
    });
    Box::pin(items.fuse())
}

fn lost(reason: &str) -> Problem {
    Problem::new(503, "stream_lost", format!("the event stream broke: {reason}"))
        .hint("connect again, and go on after the last event received")
}

/// One event as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Frame {
    id: Option<u64>,
    event: String,
    data: String,
}

impl Frame {
    fn read<T: DeserializeOwned>(&self) -> Result<Item<T>, Problem> {
        if self.event == PROBLEM {
            let unreadable = |_| lost("the server ended it for a reason that cannot be read");
            return Err(serde_json::from_str(&self.data).unwrap_or_else(unreadable));
        }
        let id = self.id.ok_or_else(|| lost("an event has no id"))?;
        let data = serde_json::from_str(&self.data)
            .map_err(|error| lost(&format!("event {id} cannot be understood: {error}")))?;
        Ok(Item { id, data })
    }
}

/// An incremental parser of event streams whose memory is bounded.
#[derive(Debug)]
struct Parser {
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    frame: Frame,
}

impl Parser {
    const fn new(limit: usize) -> Self {
        let frame = Frame { id: None, event: String::new(), data: String::new() };
        Self { limit, line: Vec::new(), frame }
    }

    /// Takes bytes as they come and adds the events that they complete.
    fn feed(&mut self, bytes: &[u8], ready: &mut VecDeque<Frame>) -> Result<(), &'static str> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.append(&rest[..end])?;
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.take_line(line.strip_suffix(b"\r").unwrap_or(&line), ready)?;
        }
        self.append(rest)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.line.len() + bytes.len() > self.limit {
            return Err("a line is too long");
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], ready: &mut VecDeque<Frame>) -> Result<(), &'static str> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            if !frame.data.is_empty() {
                ready.push_back(frame);
            }
            return Ok(());
        }
        let line = std::str::from_utf8(line).map_err(|_| "a line is not UTF-8")?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.frame.id = Some(value.parse().map_err(|_| "an id is not a number")?),
            "event" => value.clone_into(&mut self.frame.event),
            "data" => {
                if self.frame.data.len() + value.len() > self.limit {
                    return Err("an event is too long");
                }
                if !self.frame.data.is_empty() {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            // Comments have an empty field name; others are for newer clients.
            _ => {}
        }
        Ok(())
    }
}

impl From<&ClientError> for Problem {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => (**problem).clone(),
            other => lost(&other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8], chunk: usize) -> Result<Vec<Frame>, &'static str> {
        let mut parser = Parser::new(64);
        let mut ready = VecDeque::new();
        for part in text.chunks(chunk) {
            parser.feed(part, &mut ready)?;
        }
        Ok(ready.into())
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text =
            b":\n\nid: 7\r\ndata: {\"a\":1}\r\n\r\nevent: problem\ndata: x\ndata: y\n\nid: 9\n";
        let expected = vec![
            Frame { id: Some(7), event: String::new(), data: "{\"a\":1}".to_owned() },
            Frame { id: None, event: "problem".to_owned(), data: "x\ny".to_owned() },
        ];
        for chunk in 1..text.len() {
            assert_eq!(parse(text, chunk).unwrap(), expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn what_a_hostile_server_sends_is_bounded() {
        assert!(parse(&[b'x'; 65], 7).is_err());
        assert!(parse("data: 0123456789\n".repeat(9).as_bytes(), 7).is_err());
        assert!(parse(b"data: \xff\n\n", 3).is_err());
        assert!(parse(b"id: soon\n", 3).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_strange(text: Vec<u8>, chunk in 1..20_usize) {
            let whole = parse(&text, text.len().max(1));
            assert_eq!(parse(&text, chunk).is_ok(), whole.is_ok());
        }
    }
}
