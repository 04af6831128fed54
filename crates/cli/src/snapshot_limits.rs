//! Limits of snapshots as flags: a value, `none` for no limit, `default` for what is next in line.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use hostler_types::{AtLimit, ByteSize, QuietWindow, SnapshotLimits};

/// What a flag says of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting<T> {
    /// Left to the policies, or to the defaults.
    Default,
    To(T),
}

impl<T> Setting<T> {
    fn apply(self, limit: &mut Option<T>) {
        *limit = match self {
            Self::Default => None,
            Self::To(value) => Some(value),
        };
    }
}

/// What flags say of limits; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LimitChanges {
    pub(crate) max_age: Option<Setting<u64>>,
    pub(crate) max_depth: Option<Setting<u32>>,
    pub(crate) max_size: Option<Setting<ByteSize>>,
    pub(crate) at_limit: Option<AtLimitArg>,
    pub(crate) window: Option<Setting<QuietWindow>>,
}

impl LimitChanges {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn applied(self, mut limits: SnapshotLimits) -> SnapshotLimits {
        if let Some(age) = self.max_age {
            age.apply(&mut limits.max_age_seconds);
        }
        if let Some(depth) = self.max_depth {
            depth.apply(&mut limits.max_depth);
        }
        if let Some(size) = self.max_size {
            size.apply(&mut limits.max_size);
        }
        if let Some(at_limit) = self.at_limit {
            at_limit.setting().apply(&mut limits.at_limit);
        }
        if let Some(window) = self.window {
            window.apply(&mut limits.window);
        }
        limits
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AtLimitArg {
    /// Tell it
    Warn,
    /// Tell it, and take no further snapshot
    Refuse,
    /// Tell it, and delete the oldest in the quiet window
    Merge,
    /// As policies and defaults say
    Default,
}

impl AtLimitArg {
    const fn setting(self) -> Setting<AtLimit> {
        match self {
            Self::Warn => Setting::To(AtLimit::Warn),
            Self::Refuse => Setting::To(AtLimit::Refuse),
            Self::Merge => Setting::To(AtLimit::Merge),
            Self::Default => Setting::Default,
        }
    }
}

/// An age, such as `12h` or `7d`, in seconds.
pub(crate) fn age(text: &str) -> Result<Setting<u64>, String> {
    setting(text, 0, |text| {
        crate::duration::parse(text).as_ref().map(Duration::as_secs).map_err(String::clone)
    })
}

pub(crate) fn depth(text: &str) -> Result<Setting<u32>, String> {
    setting(text, 0, |text| {
        let depth = text.parse().ok().filter(|depth| (1..=SnapshotLimits::DEEPEST).contains(depth));
        depth.ok_or_else(|| {
            format!("a depth is 1 to {}, `none` or `default`", SnapshotLimits::DEEPEST)
        })
    })
}

pub(crate) fn size(text: &str) -> Result<Setting<ByteSize>, String> {
    setting(text, ByteSize(0), |text| ByteSize::from_str(text).map_err(|error| error.to_string()))
}

pub(crate) fn window(text: &str) -> Result<Setting<QuietWindow>, String> {
    let whole_day: QuietWindow = "00:00-00:00".parse()?;
    setting(text, whole_day, str::parse)
}

fn setting<T>(
    text: &str,
    none: T,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Setting<T>, String> {
    match text {
        "default" => Ok(Setting::Default),
        "none" => Ok(Setting::To(none)),
        text => parse(text).map(Setting::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_change_only_what_they_name() {
        let before = SnapshotLimits {
            max_age_seconds: Some(60),
            max_depth: Some(5),
            at_limit: Some(AtLimit::Merge),
            ..SnapshotLimits::default()
        };
        assert_eq!(LimitChanges::default().applied(before), before);
        let changes = LimitChanges {
            max_age: Some(age("default").unwrap()),
            max_depth: Some(depth("none").unwrap()),
            max_size: Some(size("10GiB").unwrap()),
            at_limit: Some(AtLimitArg::Default),
            window: Some(window("01:00-05:00").unwrap()),
        };
        let after = changes.applied(before);
        assert_eq!((after.max_age_seconds, after.max_depth), (None, Some(0)));
        assert_eq!((after.max_size, after.at_limit), (Some(ByteSize::gib(10)), None));
        assert_eq!(after.window.unwrap().to_string(), "01:00-05:00");
        for wrong in ["0", "65", "-1", "x"] {
            assert!(depth(wrong).is_err(), "{wrong}");
        }
        assert!(age("0").is_err() && window("1-2").is_err() && size("x").is_err());
    }
}
