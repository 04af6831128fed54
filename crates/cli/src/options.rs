//! The flags that every command has: which server to talk to, and how answers look.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GlobalOptions {
    /// How answers look
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Output"
    )]
    pub output: Format,

    /// Print only what was asked for: no progress, no remarks
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,

    /// When to colour; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Output",
        hide_short_help = true
    )]
    pub color: Color,

    /// Address of the server, such as https://vm.example.org:8443 [env: HOSTLER_SERVER]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Connection",
        hide_short_help = true
    )]
    pub server: Option<String>,

    /// Unix socket of a server on this machine, for root [env: HOSTLER_SOCKET]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help_heading = "Connection",
        hide_short_help = true
    )]
    pub socket: Option<PathBuf>,

    /// Context to use instead of the current one [env: HOSTLER_CONTEXT]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Connection",
        hide_short_help = true
    )]
    pub context: Option<String>,

    /// What the server is recognised by: a CA file (PEM) or a CA's SHA-256 [env: HOSTLER_CA]
    #[arg(
        long,
        global = true,
        value_name = "FILE|SHA256",
        help_heading = "Connection",
        hide_short_help = true
    )]
    pub ca: Option<String>,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// The API's answer as JSON
    Json,
    /// The same as YAML
    Yaml,
    /// Names only, one a line
    Name,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Whether to colour what goes to `stream`.
    pub(crate) fn wanted(self, stream: &impl std::io::IsTerminal) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                stream.is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

impl GlobalOptions {
    /// Whether progress may be drawn: a person watches.
    pub(crate) fn draws_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}
