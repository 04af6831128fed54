//! QMP messages as they are on the wire: one JSON object a line.
//!
//! Only the envelope is parsed here; what it carries stays raw text until the waiter, who knows
//! the type, parses it. A large answer is therefore never held as a tree of values.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{error::ErrorClass, event::Timestamp};

/// One message from QEMU.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// The first line of every connection.
    Greeting(Greeting),
    /// A command's result.
    Return { id: Option<u64>, value: &'a RawValue },
    /// A command's failure.
    Error { id: Option<u64>, error: WireError },
    /// Something happened.
    Event { name: Cow<'a, str>, data: Option<&'a RawValue>, timestamp: Timestamp },
}

/// Who is speaking.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Greeting {
    pub(crate) version: VersionInfo,
}

/// The answer of `query-version`, which the greeting holds too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct VersionInfo {
    pub(crate) qemu: QemuVersion,
}

/// QEMU's version. Ordered, so that it can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QemuVersion {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// QEMU's error object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct WireError {
    pub(crate) class: ErrorClass,
    pub(crate) desc: String,
}

/// Every field any message can have. Unknown ones are ignored: newer versions may add some.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(borrow, default, rename = "return", deserialize_with = "present")]
    value: Option<&'a RawValue>,
    error: Option<WireError>,
    id: Option<u64>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    timestamp: Option<Timestamp>,
}

/// A `null` that is there counts as there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Message<'a> {
    /// Parses one line. Exactly one of the four kinds must be in it.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        let envelope: Envelope<'a> = serde_json::from_slice(line)?;
        let Envelope { greeting, value, error, id, event, data, timestamp } = envelope;
        match (greeting, value, error, event) {
            (Some(greeting), None, None, None) => Ok(Self::Greeting(greeting)),
            (None, Some(value), None, None) => Ok(Self::Return { id, value }),
            (None, None, Some(error), None) => Ok(Self::Error { id, error }),
            (None, None, None, Some(name)) => {
                Ok(Self::Event { name, data, timestamp: timestamp.unwrap_or_default() })
            }
            _ => Err(serde::de::Error::custom(
                "not exactly one of the fields QMP, return, error and event",
            )),
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a RawValue>,
    id: u64,
}

/// A command as one line, newline included.
///
/// A command without arguments is a unit struct, which is `null` in JSON; QMP wants the field left
/// out instead.
pub(crate) fn encode(
    name: &str,
    arguments: &impl Serialize,
    id: u64,
) -> Result<Vec<u8>, serde_json::Error> {
    let arguments = serde_json::value::to_raw_value(arguments)?;
    let arguments = (arguments.get() != "null").then_some(&*arguments);
    let mut line = serde_json::to_vec(&Request { execute: name, arguments, id })?;
    line.push(b'\n');
    Ok(line)
}

/// The beginning of a line, for error messages.
pub(crate) fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(80)])
        .chars()
        .map(|c| if c.is_control() { '.' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize)]
    struct Nothing;

    #[test]
    fn a_command_without_arguments_has_no_arguments_field() {
        assert_eq!(encode("stop", &Nothing, 7).unwrap(), b"{\"execute\":\"stop\",\"id\":7}\n");
    }

    #[test]
    fn messages_are_told_apart() {
        let check = |line: &str, expected: &str| {
            let message = Message::parse(line.as_bytes()).map_err(|_| ());
            let kind = match message {
                Ok(Message::Greeting(greeting)) => format!("greeting {}", greeting.version.qemu),
                Ok(Message::Return { id, value }) => format!("return {id:?} {value}"),
                Ok(Message::Error { id, error }) => format!("error {id:?} {:?}", error.class),
                Ok(Message::Event { name, data, .. }) => format!("event {name} {data:?}"),
                Err(()) => "malformed".to_owned(),
            };
            assert_eq!(kind, expected, "{line}");
        };
        check(
            r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":["oob"]}}"#,
            "greeting 10.0.2",
        );
        check("{\"return\":{},\"id\":1}\r", "return Some(1) {}");
        check(r#"{"return":null}"#, "return None null");
        check(r#"{"return":{},"later":[1]}"#, "return None {}");
        check(r#"{"error":{"class":"New","desc":""},"id":3}"#, r#"error Some(3) Other("New")"#);
        check(r#"{"event":"STOP"}"#, "event STOP None");
        for line in [
            "",
            "{}",
            "[]",
            "null",
            "{",
            r#"{"return":{},"error":{"class":"GenericError","desc":""}}"#,
            r#"{"return":{},"id":"1"}"#,
            r#"{"return":{},"id":-1}"#,
            r#"{"return":1,"return":2}"#,
            r#"{"return":{}} {}"#,
            "{\"event\":\"\u{0}\"}",
        ] {
            check(line, "malformed");
        }
        check(&format!("{{\"return\":{}", "[".repeat(100_000)), "malformed");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(line in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Message::parse(&line);
            let _ = excerpt(&line);
        }

        #[test]
        fn random_json_never_panics(line in r#"\{("(return|id|event|data|error|QMP)":(1|null|"a"|\{\}|\[\]),?){0,4}\}"#) {
            let _ = Message::parse(line.as_bytes());
        }

        #[test]
        fn what_is_encoded_is_one_line_and_reads_back(text in any::<String>(), id in any::<u64>()) {
            let line = encode("x", &json!({ "text": text }), id).unwrap();
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let back: Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(back, json!({ "execute": "x", "arguments": { "text": text }, "id": id }));
        }
    }
}
