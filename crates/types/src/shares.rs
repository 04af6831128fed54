//! How much one counts beside its siblings, and megahertz: the units of resource pools.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};

/// Processor speed, or the sum of it over processors, in 10⁶ cycles a second. JSON answers carry the
/// number; requests may also use text such as `"2GHz"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Megahertz(pub u64);

impl fmt::Display for Megahertz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}MHz", self.0))
    }
}

/// Reads `2000`, `2000MHz`, `2GHz` or `2.5GHz`.
impl FromStr for Megahertz {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = text.escape_debug();
            format!("`{shown}` is no speed; write a number of MHz, such as 2000MHz or 2.5GHz")
        };
        let lower = text.trim().to_ascii_lowercase();
        let (number, thousandfold) = match (lower.strip_suffix("ghz"), lower.strip_suffix("mhz")) {
            (Some(number), _) => (number, true),
            (None, Some(number)) => (number, false),
            (None, None) => (lower.as_str(), false),
        };
        let (whole, rest) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let places = if thousandfold { 3 } else { 0 };
        if whole.is_empty() || rest.len() > places || !digits(whole) || !digits(rest) {
            return Err(wrong());
        }
        format!("{whole}{rest:0<places$}").parse().map(Self).map_err(|_| wrong())
    }
}

impl<'de> Deserialize<'de> for Megahertz {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(number) => Ok(Self(number)),
            NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl utoipa::__dev::ComposeSchema for Megahertz {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("Megahertz; requests may also use text such as `2GHz`"))
            .minimum(Some(0))
            .into()
    }
}
impl ToSchema for Megahertz {
    fn name() -> std::borrow::Cow<'static, str> {
        "Megahertz".into()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

/// How much one counts beside its siblings when there is not enough for all: `low`, `normal`,
/// `high` (1 : 2 : 4), or a number from 1 on.
///
/// The levels are per virtual CPU, or per MiB of configured memory, so that a VM twice as large
/// counts twice as much; a number is the whole VM's or pool's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shares {
    Low,
    #[default]
    Normal,
    High,
    Custom(NonZeroU32),
}

impl Shares {
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.pad("low"),
            Self::Normal => f.pad("normal"),
            Self::High => f.pad("high"),
            Self::Custom(number) => f.pad(&number.to_string()),
        }
    }
}

impl FromStr for Shares {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Self::Low),
            "normal" => Ok(Self::Normal),
            "high" => Ok(Self::High),
            number => number.parse().map(Self::Custom).map_err(|_| {
                let (shown, most) = (text.escape_debug(), u32::MAX);
                format!("`{shown}` are no shares; use low, normal, high or 1 to {most}")
            }),
        }
    }
}

impl Serialize for Shares {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shares {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(number) => number.to_string(),
            NumberOrText::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

// As for `Megahertz`.
impl utoipa::__dev::ComposeSchema for Shares {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "How much one counts beside its siblings: `low`, `normal`, `high` (1 : 2 : 4), or a \
                 number from 1 on as text",
            ))
            .pattern(Some("^(low|normal|high|[1-9][0-9]*)$"))
            .into()
    }
}
impl ToSchema for Shares {
    fn name() -> std::borrow::Cow<'static, str> {
        "Shares".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_as_people_write_them() {
        for (text, mhz) in [("2000", 2000), ("2000MHz", 2000), ("2GHz", 2000), ("2.45 ghz", 2450)] {
            assert_eq!(text.parse(), Ok(Megahertz(mhz)), "{text}");
        }
        for bad in ["", "GHz", "-1", "2.5MHz", "2.5", "1.2345GHz", "2GB", "99999999999999999999"] {
            assert!(bad.parse::<Megahertz>().is_err(), "{bad}");
        }
        let read: Megahertz = serde_json::from_str("\"1.5GHz\"").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "1500");
    }

    #[test]
    fn shares_are_a_level_or_a_number() {
        for text in ["low", "normal", "high", "1", "4294967295"] {
            assert_eq!(text.parse::<Shares>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "-1", "medium", "4294967296", "1.5"] {
            assert!(bad.parse::<Shares>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<Shares>("300").unwrap().to_string(), "300");
    }
}
