//! How old, how many and how large a VM's snapshots may become, and what happens then.
//!
//! What counts for a VM is put together field by field: what the VM itself says, then the policies
//! that its labels select, the one with the most labels first, then the defaults
//! ([`SnapshotRules::of`]).

use std::fmt;
use std::str::FromStr;

use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::name::Name;
use crate::object::{Kind, KindName, Labels, Object};
use crate::size::ByteSize;
use crate::vm_requests::SpecError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicyKind;
pub type SnapshotPolicy = Object<SnapshotPolicyKind>;

impl Kind for SnapshotPolicyKind {
    const NAME: KindName = KindName::SnapshotPolicy;
    const SCHEMA: &'static str = "SnapshotPolicy";
    type Spec = SnapshotPolicySpec;
    type Status = SnapshotPolicyStatus;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotPolicySpec {
    /// VMs that have all these labels; empty: all VMs.
    #[serde(default)]
    #[schema(inline)]
    pub selector: Labels,
    #[serde(default)]
    pub limits: SnapshotLimits,
}

/// Nothing: what became of a policy is told by the VMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotPolicyStatus {}

/// Limits of a VM's snapshots, as a policy or a VM gives them. An absent field is left to the next in
/// line; a limit of 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotLimits {
    /// How old a snapshot may become, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    /// How many snapshots may lie beneath a VM's disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// How much may have been written since the oldest snapshot, saved memory included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_limit: Option<AtLimit>,
    /// When merging is allowed, in the server's local time, such as `01:00-05:00`; `00:00-00:00`: at
    /// any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<QuietWindow>,
}

/// What happens at a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AtLimit {
    /// It is told: at the VM and among the events.
    #[default]
    Warn,
    /// It is told, and no further snapshot is taken.
    Refuse,
    /// It is told, and in the quiet window the oldest snapshots are deleted, as many as it takes.
    Merge,
}

impl AtLimit {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Refuse => "refuse",
            Self::Merge => "merge",
        }
    }
}

/// A part of each day, past midnight if it ends before it begins; the whole day if it ends when it
/// begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QuietWindow {
    from: Time,
    to: Time,
}

impl QuietWindow {
    pub fn contains(self, time: Time) -> bool {
        match self.from < self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }
}

impl FromStr for QuietWindow {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let time = |part: &str| {
            let (hour, minute) = part.split_once(':')?;
            let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            let whole = digits(hour) && digits(minute);
            whole.then(|| Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()).flatten()
        };
        let parts = text.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
        let (from, to) = parts.ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            format!("`{}` is no part of a day; write it like 01:00-05:00", shown.escape_debug())
        })?;
        Ok(Self { from, to })
    }
}
impl TryFrom<String> for QuietWindow {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<QuietWindow> for String {
    fn from(window: QuietWindow) -> Self {
        window.to_string()
    }
}
impl fmt::Display for QuietWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        f.pad(&format!(
            "{:02}:{:02}-{:02}:{:02}",
            from.hour(),
            from.minute(),
            to.hour(),
            to.minute()
        ))
    }
}

// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl utoipa::__dev::ComposeSchema for QuietWindow {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        String::schema()
    }
}
impl ToSchema for QuietWindow {}

impl SnapshotLimits {
    const LONGEST: u64 = 10 * 366 * 24 * 3600;
    /// Far less than the longest chain of files that a host follows.
    pub const DEEPEST: u32 = 64;

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// The field that is out of range, with its range.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.max_age_seconds.is_some_and(|seconds| seconds > Self::LONGEST) {
            return Err(SpecError::new("limits.max_age_seconds", "an age is at most 10 years"));
        }
        if self.max_depth.is_some_and(|depth| depth > Self::DEEPEST) {
            let reason = format!("a depth is 1 to {}, or 0 for no limit", Self::DEEPEST);
            return Err(SpecError::new("limits.max_depth", reason));
        }
        Ok(())
    }
}

impl SnapshotPolicySpec {
    /// Whether it is about a VM with these labels.
    pub fn is_about(&self, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// What counts for one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotRules {
    /// In seconds; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    /// Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteSize>,
    pub at_limit: AtLimit,
    /// Absent: at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<QuietWindow>,
    /// Who has had a say: `vm`, names of policies, `default`.
    pub from: Vec<String>,
}

/// How old a snapshot may become if nobody says otherwise.
const DEFAULT_AGE: u64 = 72 * 3600;
const DEFAULT_DEPTH: u32 = 3;

impl SnapshotRules {
    /// What counts for a VM with these labels, that says `own` of itself.
    pub fn of<'a>(
        labels: &Labels,
        own: &SnapshotLimits,
        policies: impl Iterator<Item = (&'a Name, &'a SnapshotPolicySpec)>,
    ) -> Self {
        let mut about: Vec<_> = policies.filter(|(_, policy)| policy.is_about(labels)).collect();
        about.sort_by_key(|(name, policy)| (std::cmp::Reverse(policy.selector.len()), *name));
        let default = SnapshotLimits {
            max_age_seconds: Some(DEFAULT_AGE),
            max_depth: Some(DEFAULT_DEPTH),
            max_size: Some(ByteSize(0)),
            at_limit: Some(AtLimit::Warn),
            window: None,
        };
        let named = about.iter().map(|(name, policy)| (name.to_string(), policy.limits));
        let line = std::iter::once(("vm".to_owned(), *own))
            .chain(named)
            .chain([("default".to_owned(), default)]);
        let (mut all, mut from) = (SnapshotLimits::default(), Vec::new());
        for (name, limits) in line {
            let before = all;
            all.max_age_seconds = all.max_age_seconds.or(limits.max_age_seconds);
            all.max_depth = all.max_depth.or(limits.max_depth);
            all.max_size = all.max_size.or(limits.max_size);
            all.at_limit = all.at_limit.or(limits.at_limit);
            all.window = all.window.or(limits.window);
            if all != before {
                from.push(name);
            }
        }
        Self {
            max_age_seconds: all.max_age_seconds.filter(|seconds| *seconds > 0),
            max_depth: all.max_depth.filter(|depth| *depth > 0),
            max_size: all.max_size.filter(|size| size.bytes() > 0),
            at_limit: all.at_limit.unwrap_or_default(),
            window: all.window.filter(|window| window.from != window.to),
            from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_past_midnight() {
        let check = |window: &str, time: &str, inside: bool| {
            let window: QuietWindow = window.parse().unwrap();
            assert_eq!(window.contains(time.parse().unwrap()), inside, "{window} {time}");
        };
        check("01:00-05:00", "01:00:00", true);
        check("01:00-05:00", "04:59:59", true);
        check("01:00-05:00", "05:00:00", false);
        check("22:00-05:00", "23:30:00", true);
        check("22:00-05:00", "03:00:00", true);
        check("22:00-05:00", "12:00:00", false);
        check("00:00-00:00", "12:00:00", true);
        for bad in ["", "1-5", "01:00", "1:00-05:00", "24:00-05:00", "01:60-05:00", "+1:00-05:00"] {
            assert!(bad.parse::<QuietWindow>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_vm_comes_before_the_policies_and_they_before_the_defaults() {
        let labels: Labels = [("tier", "web"), ("env", "prod")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let policy =
            |labels: &Labels, limits| SnapshotPolicySpec { selector: labels.clone(), limits };
        let age = |seconds| SnapshotLimits {
            max_age_seconds: Some(seconds),
            ..SnapshotLimits::default()
        };
        let mut wide = age(100);
        wide.at_limit = Some(AtLimit::Merge);
        let policies: Vec<(Name, SnapshotPolicySpec)> = vec![
            ("all".parse().unwrap(), policy(&Labels::new(), wide)),
            ("narrow".parse().unwrap(), policy(&labels, age(200))),
            (
                "other".parse().unwrap(),
                policy(&[("tier".to_owned(), "db".to_owned())].into(), age(300)),
            ),
        ];
        let rules = |own: &SnapshotLimits| {
            let policies = policies.iter().map(|(name, policy)| (name, policy));
            SnapshotRules::of(&labels, own, policies)
        };
        let found = rules(&SnapshotLimits::default());
        assert_eq!((found.max_age_seconds, found.max_depth), (Some(200), Some(3)));
        assert_eq!(found.at_limit, AtLimit::Merge);
        assert_eq!(found.from, ["narrow", "all", "default"]);
        let own = SnapshotLimits { max_depth: Some(0), ..age(7) };
        let found = rules(&own);
        assert_eq!((found.max_age_seconds, found.max_depth), (Some(7), None));
        let bare =
            SnapshotRules::of(&Labels::new(), &SnapshotLimits::default(), std::iter::empty());
        assert_eq!((bare.max_age_seconds, bare.at_limit), (Some(72 * 3600), AtLimit::Warn));
        assert_eq!((bare.max_depth, bare.max_size, bare.window), (Some(3), None, None));
    }
}
