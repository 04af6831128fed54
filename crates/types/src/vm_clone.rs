//! What clients send to clone VMs, and the names of many.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::customization::Customization;
use crate::name::{Name, Ref};
use crate::object::Labels;
use crate::size::ByteSize;
use crate::vm::Cores;
use crate::vm_requests::{SpecError, VmNic};

/// One or more VMs to be made from another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmClone {
    #[serde(default)]
    pub mode: CloneMode,
    /// What the clones are called: `web02`, or `web-{01..}` with `count`, or `web-{01..20}`.
    #[schema(value_type = String, example = "web-{01..20}")]
    pub name: NamePattern,
    /// How many; absent: as many as the pattern says, else one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 500)]
    pub count: Option<u32>,
    /// As the disks were at this snapshot; absent: as they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Ref>,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    /// Absent: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Absent: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cores>,
    /// Absent: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Absent: on the parent's networks, with an address of the pool where the parent has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nics: Option<Vec<VmNic>>,
    /// A customization spec; what `customization` says is laid over it. With neither, the guests are
    /// told what the parent's was told, but for its name and network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization_spec: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization: Option<Customization>,
    /// For full clones: another datastore of the parent's host; absent: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Ref>,
    #[serde(default)]
    pub protected: bool,
    /// Start them when all are made.
    #[serde(default)]
    pub start: bool,
    /// How long they may stay; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}

/// What the clones' disks have to do with the parent's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloneMode {
    /// Independent copies.
    #[default]
    Full,
    /// They lie on the parent's, which stays as long as they do. Nothing is copied.
    Linked,
    /// They go on from where the running parent is, memory and all, and run at once, each under its
    /// own name and addresses. Nothing is copied; the parent's guest stands still for an instant. The
    /// parent stays as long as they do.
    Instant,
}

impl CloneMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Linked => "linked",
            Self::Instant => "instant",
        }
    }
}

/// A name, or a pattern of many: one counter in braces, `{01..}` or `{01..20}`, with as many digits as
/// the first number has, at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    before: String,
    counter: Option<Counter>,
    after: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counter {
    digits: usize,
    first: u32,
    last: Option<u32>,
}

/// The most clones of one request.
const MOST: u32 = 500;

impl NamePattern {
    /// Whether it makes more than one name.
    pub fn is_pattern(&self) -> bool {
        self.counter.is_some()
    }

    /// The names of `count` VMs; absent: of as many as the pattern says, else of one.
    ///
    /// # Errors
    /// The pattern makes another number of names, or one of them is none.
    pub fn names(&self, count: Option<u32>) -> Result<Vec<Name>, SpecError> {
        let count = self.count(count)?;
        let first = self.counter.map_or(0, |counter| counter.first);
        (0..count).map(|nth| self.name(first.saturating_add(nth))).collect()
    }

    fn count(&self, asked: Option<u32>) -> Result<u32, SpecError> {
        let told = self.counter.and_then(|counter| {
            counter.last.map(|last| last.saturating_sub(counter.first).saturating_add(1))
        });
        let count = match (asked, told) {
            (Some(asked), Some(told)) if asked != told => {
                let reason = format!("`{self}` is {told} names, not {asked}");
                return Err(SpecError::new("count", reason));
            }
            (None, None) if self.is_pattern() => {
                let reason = format!("`{self}` does not say how many; write {{01..20}}");
                return Err(SpecError::new("count", reason));
            }
            (asked, told) => asked.or(told).unwrap_or(1),
        };
        if !(1..=MOST).contains(&count) {
            return Err(SpecError::new("count", format!("{count} is not possible; 1 to {MOST}")));
        }
        if count > 1 && !self.is_pattern() {
            let reason =
                format!("{count} VMs cannot all be called `{self}`; write {self}-{{01..}}");
            return Err(SpecError::new("name", reason));
        }
        Ok(count)
    }

    fn name(&self, number: u32) -> Result<Name, SpecError> {
        let number = match self.counter {
            Some(Counter { digits, .. }) => format!("{number:0digits$}"),
            None => String::new(),
        };
        let text = format!("{}{number}{}", self.before, self.after);
        text.parse().map_err(|error| SpecError::new("name", format!("{error}")))
    }
}

impl FromStr for NamePattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((before, rest)) = text.split_once('{') else {
            let name: Name = text.parse().map_err(|error| format!("{error}"))?;
            let after = String::new();
            return Ok(Self { before: name.to_string(), counter: None, after });
        };
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            format!(
                "`{}` is no pattern of names; it holds one counter, such as web-{{01..}} or web-{{01..20}}",
                shown.escape_debug()
            )
        };
        let (counter, after) = rest.split_once('}').ok_or_else(wrong)?;
        let (first, last) = counter.split_once("..").ok_or_else(wrong)?;
        let number = |digits: &str| {
            let plain =
                (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u32>().ok()).flatten().ok_or_else(wrong)
        };
        let digits = first.len();
        let first = number(first)?;
        let last = (!last.is_empty()).then(|| number(last)).transpose()?;
        if last.is_some_and(|last| last < first) || after.contains(['{', '}']) {
            return Err(wrong());
        }
        let counter = Some(Counter { digits, first, last });
        let pattern = Self { before: before.to_owned(), counter, after: after.to_owned() };
        pattern.name(first).map_err(|error| error.reason)?;
        Ok(pattern)
    }
}
impl TryFrom<String> for NamePattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}
impl From<Name> for NamePattern {
    fn from(name: Name) -> Self {
        Self { before: name.to_string(), counter: None, after: String::new() }
    }
}
impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.before)?;
        if let Some(Counter { digits, first, last }) = self.counter {
            write!(f, "{{{first:0digits$}..")?;
            if let Some(last) = last {
                write!(f, "{last}")?;
            }
            f.write_str("}")?;
        }
        f.write_str(&self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, count: Option<u32>, expected: Result<&[&str], &str>) {
        let pattern: NamePattern = pattern.parse().unwrap();
        let names = pattern.names(count);
        let names = names.as_ref().map(|names| names.iter().map(Name::as_str).collect::<Vec<_>>());
        match expected {
            Ok(expected) => assert_eq!(names.unwrap(), expected),
            Err(expected) => {
                let error = names.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    }

    #[test]
    fn patterns_make_names() {
        check("web", None, Ok(&["web"]));
        check("web", Some(1), Ok(&["web"]));
        check("web-{01..}", Some(2), Ok(&["web-01", "web-02"]));
        check("web-{09..11}-a", None, Ok(&["web-09-a", "web-10-a", "web-11-a"]));
        check("web{8..10}", Some(3), Ok(&["web8", "web9", "web10"]));
        check("web", Some(2), Err("cannot all be called"));
        check("web-{01..}", None, Err("how many"));
        check("web-{01..03}", Some(4), Err("is 3 names"));
        check("web-{01..}", Some(501), Err("1 to 500"));
        check("web-{01..}", Some(0), Err("1 to 500"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let bad = [
            "",
            "Web",
            "web-{",
            "web-{}",
            "web-{n..}",
            "web-{01}",
            "web-{3..2}",
            "web-{1..2}{1..2}",
            "web-{-1..2}",
            "web-{1234567..}",
            "-{01..}",
            "{01..}-",
            "web-{+1..}",
        ];
        for text in bad {
            assert!(text.parse::<NamePattern>().is_err(), "{text}");
        }
        for text in ["web", "web-{01..}", "web-{01..20}", "{01..}a"] {
            assert_eq!(text.parse::<NamePattern>().unwrap().to_string(), text);
        }
    }
}
