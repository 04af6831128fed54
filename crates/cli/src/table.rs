//! Aligned columns.

use unicode_width::UnicodeWidthStr as _;

use crate::sanitise;

/// A text in a table, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

/// What a colour says; without colours the text says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Dim,
}

impl Cell {
    /// Text as it is; whatever could disturb a terminal is taken out.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let text = sanitise::line(text.as_ref());
        if text.is_empty() {
            return Self { text: "-".to_owned(), tone: Tone::Dim, right: false };
        }
        Self { text, tone: Tone::Plain, right: false }
    }

    /// Text that may be empty.
    pub(crate) fn blank(text: &'static str) -> Self {
        Self { text: text.to_owned(), tone: Tone::Plain, right: false }
    }

    /// A number or size: aligned to the right.
    pub(crate) fn number(value: impl std::fmt::Display) -> Self {
        Self { text: value.to_string(), tone: Tone::Plain, right: true }
    }

    /// `-` for what is not there.
    pub(crate) fn maybe(value: Option<impl std::fmt::Display>) -> Self {
        Self::new(value.map(|value| value.to_string()).unwrap_or_default())
    }

    pub(crate) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    fn paint(&self, padded: &str, color: bool) -> String {
        let code = match self.tone {
            Tone::Plain => return padded.to_owned(),
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
        };
        if color { format!("\x1b[{code}m{padded}\x1b[0m") } else { padded.to_owned() }
    }
}

/// Rows under a header, two spaces between columns, no space at the ends of lines.
pub(crate) fn render(header: &[&str], rows: &[Vec<Cell>], color: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width());
        cells.chain([header[column].width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let right = |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|c| c.right));
    let titles = header.iter().enumerate().map(|(column, title)| Cell {
        text: (*title).to_owned(),
        tone: Tone::Dim,
        right: right(column),
    });
    let mut text = render_row(&titles.collect::<Vec<_>>(), &widths, color);
    for row in rows {
        text.push_str(&render_row(row, &widths, color));
    }
    text
}

/// `Key:  value` lines for one object.
pub(crate) fn render_fields(fields: &[(&str, Vec<Cell>)], color: bool) -> String {
    let width = fields.iter().map(|(key, _)| key.width() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (key, values) in fields {
        let mut label = format!("{key}:");
        for value in values {
            let pad = " ".repeat(width + 2 - label.width());
            text.push_str(&format!("{label}{pad}{}\n", value.paint(&value.text, color)));
            label.clear();
        }
    }
    text
}

fn render_row(row: &[Cell], widths: &[usize], color: bool) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        let pad = " ".repeat(width - cell.text.width());
        let last = column + 1 == row.len();
        let painted = cell.paint(&cell.text, color);
        match (cell.right, last) {
            (true, _) => line.push_str(&format!("{pad}{painted}")),
            (false, true) => line.push_str(&painted),
            (false, false) => line.push_str(&format!("{painted}{pad}")),
        }
        if !last {
            line.push_str("  ");
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_align() {
        let rows = vec![
            vec![Cell::new("web01"), Cell::number(2), Cell::new("running").tone(Tone::Good)],
            vec![Cell::new("größe日本"), Cell::number(128), Cell::new("")],
        ];
        expect![[r#"
            NAME       CPUS  STATE
            web01         2  running
            größe日本   128  -
        "#]]
        .assert_eq(&render(&["NAME", "CPUS", "STATE"], &rows, false));
        let coloured = render(&["NAME", "CPUS", "STATE"], &rows, true);
        assert!(coloured.contains("\x1b[32mrunning\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn fields_align_and_continue() {
        let fields = [
            ("Name", vec![Cell::new("web01")]),
            ("Addresses", vec![Cell::new("10.0.0.1"), Cell::new("10.0.0.2")]),
            ("Disks", vec![]),
        ];
        expect![[r#"
            Name:       web01
            Addresses:  10.0.0.1
                        10.0.0.2
        "#]]
        .assert_eq(&render_fields(&fields, false));
    }

    #[test]
    fn cells_cannot_disturb_the_terminal() {
        let rows = vec![vec![Cell::new("a\x1b[2Jb\nc")]];
        assert_eq!(render(&["X"], &rows, false), "X\nab c\n");
    }
}
