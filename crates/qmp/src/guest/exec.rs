//! Runs a program in the guest and collects what it wrote.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::Error as _};
use tokio::time::{Instant, sleep};

use super::{
    GuestCommand,
    agent::{GuestAgent, GuestError},
};

/// The agent has no event for a program's end, so it is asked again and again: soon at first, as
/// most programs are short, and at last once a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What an answer needs beside the output.
const ENVELOPE: usize = 4096;

/// A program to run.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    input: Option<Vec<u8>>,
    within: Duration,
    max_output: usize,
}

impl ExecRequest {
    /// A program by its path in the guest, with 30 s of time and 1 MiB of output.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            input: None,
            within: Duration::from_secs(30),
            max_output: 1 << 20,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment, which is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Gives the program something to read.
    #[must_use]
    pub fn input(mut self, input: Vec<u8>) -> Self {
        self.input = Some(input);
        self
    }

    /// Sets how long it may run.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Sets how much it may write, both outputs together, in bytes. The agent itself cuts each
    /// off at 16 MiB.
    #[must_use]
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }
}

/// How a program ended. The output is the guest's bytes as they are: show them through
/// [`sanitize`](super::sanitize) or to a pipe only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code, unless a signal ended it.
    pub exit_code: Option<i64>,
    /// The signal that ended it.
    pub signal: Option<i64>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether the agent cut some output off.
    pub truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Exec<'a> {
    path: &'a str,
    arg: &'a [String],
    env: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    input_data: Option<String>,
    capture_output: bool,
}
impl GuestCommand for Exec<'_> {
    const NAME: &'static str = "guest-exec";
    type Return = Started;
}

#[derive(Deserialize)]
struct Started {
    pid: i64,
}

#[derive(Serialize)]
struct ExecStatus {
    pid: i64,
}
impl GuestCommand for ExecStatus {
    const NAME: &'static str = "guest-exec-status";
    type Return = ExecState;
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExecState {
    exited: bool,
    exitcode: Option<i64>,
    signal: Option<i64>,
    out_data: Option<String>,
    err_data: Option<String>,
    #[serde(default)]
    out_truncated: bool,
    #[serde(default)]
    err_truncated: bool,
}

impl GuestAgent {
    /// Runs a program in the guest, with the agent's rights, and waits for its end.
    ///
    /// # Errors
    /// [`GuestError::StillRunning`] at the request's deadline; the program goes on.
    /// [`GuestError::TooLong`] if it wrote more than allowed.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecOutput, GuestError> {
        let deadline = Instant::now() + request.within;
        let exec = Exec {
            path: &request.path,
            arg: &request.args,
            env: &request.env,
            input_data: request.input.map(|input| STANDARD.encode(input)),
            capture_output: true,
        };
        let usual = self.options().command_timeout;
        let first = usual.min(request.within);
        let Started { pid } = self.call(&exec, first, self.options().max_line).await?;

        // Base64 makes four bytes of three.
        let max_line = request.max_output.div_ceil(3).saturating_mul(4).saturating_add(ENVELOPE);
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GuestError::StillRunning { after: request.within, pid });
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let state = self.call(&ExecStatus { pid }, usual, max_line).await?;
            if state.exited {
                return output(&state);
            }
        }
    }
}

fn output(state: &ExecState) -> Result<ExecOutput, GuestError> {
    Ok(ExecOutput {
        exit_code: state.exitcode,
        signal: state.signal,
        stdout: decode(state.out_data.as_deref())?,
        stderr: decode(state.err_data.as_deref())?,
        truncated: state.out_truncated || state.err_truncated,
    })
}

fn decode(data: Option<&str>) -> Result<Vec<u8>, GuestError> {
    STANDARD.decode(data.unwrap_or_default()).map_err(|error| GuestError::Answer {
        command: ExecStatus::NAME,
        source: std::sync::Arc::new(serde_json::Error::custom(error)),
    })
}
