//! Where the daemons' log goes: standard error, for the journal or a file.

use anyhow::{Context, Result};
use hostler_cli::{LogFormat, LogOptions};
use tracing_subscriber::EnvFilter;

pub(crate) fn start(options: &LogOptions) -> Result<()> {
    let filter = EnvFilter::try_new(&options.filter)
        .with_context(|| format!("`--log {}` is not a filter", options.filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match options.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
