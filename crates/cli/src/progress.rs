//! Progress on stderr: drawn for a person at a terminal, plain lines for a log.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;
use crate::sanitise;

/// The progress of one piece of work. Vanishes when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    output: Output,
    title: String,
    last: String,
}

impl Progress {
    pub(crate) fn new(output: &Output, draws: bool, title: &str) -> Self {
        let title = sanitise::line(title);
        let bar = draws.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{spinner} {msg}"));
            bar.set_message(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, output: output.clone(), title, last: String::new() }
    }

    /// What is being done now, and how much of it.
    pub(crate) fn activity(&mut self, activity: &str, percent: Option<u8>) {
        let activity = sanitise::line(activity);
        let text = if activity.is_empty() {
            self.title.clone()
        } else {
            format!("{}: {activity}", self.title)
        };
        match (&self.bar, percent) {
            (Some(bar), Some(percent)) => {
                bar.set_style(style("{spinner} {msg} [{bar:24}] {pos}%"));
                bar.set_length(100);
                bar.set_position(percent.into());
                bar.set_message(text);
            }
            (Some(bar), None) => {
                bar.set_style(style("{spinner} {msg}"));
                bar.set_message(text);
            }
            (None, _) if activity.is_empty() || text == self.last => {}
            (None, _) => {
                self.output.remark(&text);
                self.last = text;
            }
        }
    }

    /// A transfer of bytes: how many of how many. In a log: each tenth.
    pub(crate) fn bytes(&mut self, done: u64, of: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(of) {
                bar.set_style(style(
                    "{spinner} {msg} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
                ));
                bar.set_length(of);
            }
            bar.set_position(done);
            return;
        }
        let tenth = done.saturating_mul(10).checked_div(of).unwrap_or(10);
        let text = format!("{}: {}%", self.title, tenth * 10);
        if tenth > 0 && text != self.last {
            self.output.remark(&text);
            self.last = text;
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.remark(text)),
            None => self.output.remark(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
