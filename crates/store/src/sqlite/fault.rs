//! Faults on purpose, for crash tests; in builds with debug assertions only.
//!
//! - `HOSTLER_ABORT_AT=<n>:before|after` aborts the process right before or after the n-th commit
//!   to disk since the store was opened.
//! - `HOSTLER_COMMIT_LOG=<file>` appends one line per commit, so that a test can tell which commits
//!   there are: number, tab, first and last revision, tab, the reasons of its batches.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use hostler_types::Revision;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    commits: u64,
    abort_at: Option<(u64, Moment)>,
    log: Option<PathBuf>,
}

impl Faults {
    pub(super) fn from_environment() -> Self {
        if !cfg!(debug_assertions) {
            return Self::default();
        }
        let abort_at = env::var("HOSTLER_ABORT_AT").ok().and_then(|text| parse(&text));
        let log = env::var_os("HOSTLER_COMMIT_LOG").map(PathBuf::from);
        Self { commits: 0, abort_at, log }
    }

    pub(super) fn before_commit(&mut self) {
        self.commits += 1;
        self.abort_if(Moment::Before);
    }

    pub(super) fn after_commit(&self, first: Revision, last: Revision, reasons: &[&str]) {
        if let Some(path) = &self.log {
            let line = format!("{}\t{first}-{last}\t{}\n", self.commits, reasons.join(" + "));
            let file = OpenOptions::new().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
            if let Err(error) = written {
                tracing::warn!(path = %path.display(), %error, "the commit log was not written");
            }
        }
        self.abort_if(Moment::After);
    }

    fn abort_if(&self, moment: Moment) {
        if self.abort_at == Some((self.commits, moment)) {
            std::process::abort();
        }
    }
}

fn parse(text: &str) -> Option<(u64, Moment)> {
    let parsed = match text.split_once(':') {
        Some((number, "before")) => number.parse().ok().map(|n| (n, Moment::Before)),
        Some((number, "after")) => number.parse().ok().map(|n| (n, Moment::After)),
        _ => None,
    };
    if parsed.is_none() {
        tracing::warn!(text, "HOSTLER_ABORT_AT is not `<n>:before` or `<n>:after`; ignored");
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_of_the_abort_is_read() {
        assert_eq!(parse("3:before"), Some((3, Moment::Before)));
        assert_eq!(parse("12:after"), Some((12, Moment::After)));
        for bad in ["", "3", "x:after", "3:during", ":before"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
