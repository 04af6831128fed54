//! `hostler vm exec`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hostler_api::vm;
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{ExecAnswer, ExecRequest};

use super::VmName;
use crate::error::CliError;
use crate::input;
use crate::options::Format;
use crate::sanitise::Filter;
use crate::session::Session;

/// How much longer than the command itself the answer may take.
const MARGIN: Duration = Duration::from_secs(15);

/// Run a command in a guest through its agent; its exit code is ours
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm exec web01 -- uptime
  hostler vm exec web01 -- sh -c 'echo $HOSTNAME; exit 3'
  hostler vm exec web01 --stdin -- tee /etc/motd < motd

No shell is put between: give `sh -c` for pipes and variables.")]
pub(crate) struct Exec {
    #[command(flatten)]
    vm: VmName,

    /// Pass our standard input on, as a whole
    #[arg(long)]
    stdin: bool,

    /// How long the command may take, at most 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::duration::parse)]
    timeout: Duration,

    /// Program and arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let path = self.vm.path();
        let stdin = if self.stdin { input::text(Path::new("-"))? } else { String::new() };
        let timeout_seconds = u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX);
        let request = ExecRequest { command: self.command, stdin, timeout_seconds };
        let options =
            CallOptions { timeout: Some(self.timeout + MARGIN), ..CallOptions::default() };
        let call = session.call_with::<vm::Exec>(&path, &NoParams {}, request, options);
        let answer = call.await?;
        match session.output.format {
            Format::Json | Format::Yaml => session.output.data(&answer)?,
            Format::Table | Format::Name => {
                pass_on(&answer.stdout, &mut std::io::stdout());
                pass_on(&answer.stderr, &mut std::io::stderr());
            }
        }
        if answer.truncated {
            session.output.remark("the output was longer than what is shown");
        }
        Ok(ExitCode::from(code(&answer)))
    }
}

/// As a shell counts: the command's own code, or 128 and the signal that ended it.
fn code(answer: &ExecAnswer) -> u8 {
    let number = match (answer.exit_code, answer.signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(number & 0xff).unwrap_or(1)
}

/// Raw into files and pipes; only what is harmless onto a terminal. A reader that has gone does not
/// change the command's exit code.
fn pass_on(text: &str, to: &mut (impl Write + IsTerminal)) {
    let mut clean = Vec::with_capacity(text.len());
    if to.is_terminal() {
        Filter::default().feed(text.as_bytes(), &mut clean);
    } else {
        clean.extend_from_slice(text.as_bytes());
    }
    let _ = to.write_all(&clean).and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_guests() {
        let check = |exit_code, signal, expected| {
            let (stdout, stderr) = (String::new(), String::new());
            let answer = ExecAnswer { exit_code, signal, stdout, stderr, truncated: false };
            assert_eq!(code(&answer), expected);
        };
        check(Some(0), None, 0);
        check(Some(3), None, 3);
        check(Some(256 + 7), None, 7);
        check(None, Some(9), 137);
        check(None, None, 1);
    }
}
