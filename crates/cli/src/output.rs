//! How answers are printed: tables for people; JSON, YAML and names for programs.

use std::io::Write as _;

use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::options::{Format, GlobalOptions};
use crate::table::{self, Cell};

/// Where and how to print. Answers go to stdout, everything else to stderr.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) format: Format,
    quiet: bool,
    color: bool,
}

/// How a list is shown.
pub(crate) struct Listing<'a, T> {
    pub(crate) header: &'a [&'a str],
    /// Said on stderr when there is none.
    pub(crate) empty: &'a str,
    pub(crate) name: &'a dyn Fn(&T) -> String,
    pub(crate) row: &'a dyn Fn(&T) -> Vec<Cell>,
}

impl Output {
    pub(crate) fn new(globals: &GlobalOptions) -> Self {
        Self {
            format: globals.output,
            quiet: globals.quiet,
            color: globals.color.wanted(&std::io::stdout()),
        }
    }

    pub(crate) fn list<T: Serialize>(
        &self,
        items: &[T],
        listing: &Listing<'_, T>,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json | Format::Yaml => self.data(&items),
            Format::Name => {
                print(&items.iter().map(|item| (listing.name)(item) + "\n").collect::<String>())
            }
            Format::Table if items.is_empty() => {
                self.remark(listing.empty);
                Ok(())
            }
            Format::Table => {
                let rows: Vec<_> = items.iter().map(|item| (listing.row)(item)).collect();
                print(&table::render(listing.header, &rows, self.color))
            }
        }
    }

    /// One object; `fields` is only asked for when people read it.
    pub(crate) fn object<T: Serialize>(
        &self,
        object: &T,
        name: &str,
        fields: impl FnOnce() -> Vec<(&'static str, Vec<Cell>)>,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json | Format::Yaml => self.data(object),
            Format::Name => print(&format!("{name}\n")),
            Format::Table => print(&table::render_fields(&fields(), self.color)),
        }
    }

    /// What was done to an object: a line for people, the object for programs.
    pub(crate) fn done<T: Serialize>(
        &self,
        verb: &str,
        kind: &str,
        name: &str,
        object: &T,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json | Format::Yaml => self.data(object),
            Format::Name => print(&format!("{name}\n")),
            Format::Table if self.quiet => Ok(()),
            Format::Table => print(&format!("{kind} {name} {verb}\n")),
        }
    }

    /// A value as JSON or YAML; tables and names have their own ways.
    pub(crate) fn data<T: Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = match self.format {
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|error| CliError::new(Exit::Failed, format!("no YAML: {error}")))?,
            Format::Json | Format::Table | Format::Name => {
                let text = serde_json::to_string_pretty(value)
                    .map_err(|error| CliError::new(Exit::Failed, format!("no JSON: {error}")))?;
                text + "\n"
            }
        };
        print(&text)
    }

    /// Something worth knowing that was not asked for.
    #[expect(clippy::print_stderr, reason = "remarks are for stderr")]
    pub(crate) fn remark(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", crate::sanitise::line(text));
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// People read the answer.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// For programs, whole.
    pub(crate) fn is_data(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    pub(crate) fn is_colored(&self) -> bool {
        self.color
    }
}

/// What was done to several objects, one after the other: a line each for people, one document with
/// all of it for programs.
pub(crate) struct Several<'a, T> {
    output: &'a Output,
    /// One was named: its document stands alone, whatever is done.
    alone: bool,
    done: Vec<T>,
}

impl<'a, T: Serialize> Several<'a, T> {
    pub(crate) fn new(output: &'a Output, alone: bool) -> Self {
        Self { output, alone, done: Vec::new() }
    }

    /// One more is done. `told` is how people are told.
    pub(crate) fn add(
        &mut self,
        object: T,
        told: impl FnOnce(&T) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        if self.output.is_data() {
            self.done.push(object);
            return Ok(());
        }
        told(&object)
    }

    /// With what came of the work as a whole: what was done before something failed is told too.
    pub(crate) fn finish(self, outcome: Result<(), CliError>) -> Result<(), CliError> {
        if !self.output.is_data() || (outcome.is_err() && self.done.is_empty()) {
            return outcome;
        }
        match self.done.as_slice() {
            [one] if self.alone => self.output.data(one)?,
            done => self.output.data(&done)?,
        }
        outcome
    }
}

/// Writes to stdout. A reader that has gone ends the command silently.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_bytes(text.as_bytes())
}

pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => CliError::new(Exit::BrokenPipe, "nobody reads any more"),
        _ => CliError::new(Exit::Failed, format!("cannot write the answer: {error}")),
    })
}
