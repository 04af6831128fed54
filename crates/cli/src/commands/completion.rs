//! `hostler completion`: scripts that teach a shell commands and flags.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::error::{CliError, Exit};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler completion bash > /etc/bash_completion.d/hostler
  hostler completion zsh > /usr/local/share/zsh/site-functions/_hostler
  hostler completion fish > ~/.config/fish/completions/hostler.fish")]
pub(crate) struct Completion {
    /// The shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn run(self) -> Result<ExitCode, CliError> {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::command(), "hostler", &mut script);
        std::io::stdout()
            .write_all(&script)
            .map_err(|error| CliError::new(Exit::Failed, format!("cannot write: {error}")))?;
        Ok(ExitCode::SUCCESS)
    }
}
