//! What went wrong, in words and as an exit code.

use std::fmt;
use std::process::ExitCode;

use crate::options::GlobalOptions;

/// Exit codes; documented in `hostler --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    /// Wrong state, name taken, or changed by someone else.
    Conflict = 4,
    Unauthorised = 5,
    CannotConnect = 6,
    Timeout = 7,
    NoCapacity = 8,
    /// Ctrl-C, as shells count it: 128 + SIGINT.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A sentence that says what happened and to what, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    exit: Exit,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
}

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None }
    }

    /// With the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With one more line of what is wrong, such as a field.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// To stderr.
    #[expect(clippy::print_stderr, reason = "errors are for stderr")]
    pub(crate) fn print(&self, globals: &GlobalOptions) {
        eprintln!("{}", self.render(globals.color.wanted(&std::io::stderr())));
    }

    fn render(&self, color: bool) -> String {
        let label = |word: &str, code: &str| {
            if color { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() }
        };
        let mut text = format!("{} {}", label("error:", "31"), self.message);
        for detail in &self.details {
            text.push_str(&format!("\n  - {detail}"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n{} {hint}", label("hint:", "36")));
        }
        text
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for CliError {}

impl From<anyhow::Error> for CliError {
    /// The whole chain, one sentence: a cause's text does not repeat its effect's.
    fn from(error: anyhow::Error) -> Self {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        Self::new(Exit::Failed, chain.join(": "))
    }
}
