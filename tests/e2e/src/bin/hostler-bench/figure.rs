//! A measured figure, what it must reach, and how it is shown.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

/// One figure. Times in milliseconds, memory in MiB.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub measured: f64,
    /// The raw command's, in the same run.
    pub raw: Option<f64>,
    /// What `measured` (or its ratio to `raw`) must not exceed.
    pub most: f64,
    /// Of the compared value over its runs.
    pub lowest: f64,
    pub highest: f64,
}

impl Figure {
    pub(crate) fn ratio(what: &str, measured: &[Duration], raw: &[Duration], most: f64) -> Self {
        Self { raw: Some(median(raw)), ..Self::time(what, measured, most) }
    }

    pub(crate) fn time(what: &str, measured: &[Duration], most: f64) -> Self {
        let all = || measured.iter().map(|time| milliseconds(*time));
        Self {
            what: what.to_owned(),
            unit: "ms",
            measured: median(measured),
            raw: None,
            most,
            lowest: all().fold(f64::INFINITY, f64::min),
            highest: all().fold(0.0, f64::max),
        }
    }

    /// What 99 of 100 times do not exceed.
    pub(crate) fn p99(what: &str, measured: &[Duration], most: f64) -> Self {
        let mut sorted = measured.to_vec();
        sorted.sort_unstable();
        let at = sorted.len().saturating_sub(1) * 99 / 100;
        let measured_p99 = sorted.get(at).copied().map_or(f64::NAN, milliseconds);
        Self { measured: measured_p99, ..Self::time(what, measured, most) }
    }

    fn compared(&self) -> f64 {
        self.raw.map_or(self.measured, |raw| self.measured / raw)
    }
}

pub(crate) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["what", "measured", "range", "raw", "ratio", "must reach", ""]);
    for figure in figures {
        let unit = figure.unit;
        let ratio = figure.raw.map(|raw| format!("{:.2}", figure.measured / raw));
        let limit = if figure.raw.is_some() { "×" } else { unit };
        table.add_row([
            figure.what.clone(),
            format!("{:.1} {unit}", figure.measured),
            format!("{:.1} – {:.1}", figure.lowest, figure.highest),
            figure.raw.map_or_else(String::new, |raw| format!("{raw:.1} {unit}")),
            ratio.unwrap_or_default(),
            format!("≤ {} {limit}", figure.most),
            if figure.compared() <= figure.most { "ok" } else { "MISSED" }.to_owned(),
        ]);
    }
    table
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().map_or(f64::NAN, milliseconds)
}
