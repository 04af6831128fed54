//! What went wrong, in words and as an exit code.

use std::fmt;
use std::process::ExitCode;

use hostler_endpoint::{ClientError, Problem};

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
    /// Whoever read our output has gone, as shells count it: 128 + SIGPIPE.
    BrokenPipe = 141,
}

impl Exit {
    /// What a problem's HTTP status means here.
    const fn of_status(status: u16) -> Self {
        match status {
            400 | 413 | 415 | 422 => Self::Usage,
            401 | 403 => Self::Unauthorised,
            404 => Self::NotFound,
            409 | 412 => Self::Conflict,
            408 | 504 => Self::Timeout,
            507 => Self::NoCapacity,
            _ => Self::Failed,
        }
    }

    /// What the stable code of a failed task means here.
    pub(crate) fn of_code(code: Option<&str>) -> Self {
        match code.unwrap_or_default() {
            "not_found" | "host_not_found" => Self::NotFound,
            "name_taken"
            | "subnet_taken"
            | "path_taken"
            | "mac_taken"
            | "exists"
            | "stale_revision"
            | "stale_epoch"
            | "wrong_state"
            | "busy"
            | "contended"
            | "in_use"
            | "protected"
            | "guest_agent_unavailable"
            | "host_conflict" => Self::Conflict,
            "unauthenticated" | "forbidden" | "host_forbids" => Self::Unauthorised,
            "timeout" | "host_timeout" | "deadline" => Self::Timeout,
            "no_capacity" | "no_space" | "host_no_capacity" | "store_full" => Self::NoCapacity,
            _ => Self::Failed,
        }
    }
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
        if self.exit == Exit::BrokenPipe {
            return;
        }
        eprintln!("{}", self.render(globals.color.wanted(&std::io::stderr())));
    }

    fn render(&self, color: bool) -> String {
        let label = |word: &str, code: &str| {
            if color { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() }
        };
        // Words of guests, hosts and servers may be in here.
        let clean = crate::sanitise::line;
        let mut text = format!("{} {}", label("error:", "31"), clean(&self.message));
        for detail in &self.details {
            text.push_str(&format!("\n  - {}", clean(detail)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n{} {}", label("hint:", "36"), clean(hint)));
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

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        let exit = Exit::of_status(problem.status);
        let mut error = Self::new(exit, problem.detail.clone());
        for field in &problem.errors {
            // The sentence itself names the field when it is only one.
            if !problem.detail.contains(&field.detail) {
                error = error.detail(format!("{}: {}", field.field, field.detail));
            }
        }
        let hint = match (problem.hint, problem.status, problem.request_id) {
            (Some(hint), 500, Some(id)) => Some(format!("{hint} ({id})")),
            (Some(hint), ..) => Some(hint),
            (None, 401, _) => Some("log in with `hostler login`".to_owned()),
            (None, 500.., Some(id)) => Some(format!("the server's log has the request {id}")),
            (None, ..) => None,
        };
        Self { hint, ..error }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => (*problem).into(),
            ClientError::Connect { url, reason } => unreachable(&url, &reason),
            ClientError::Timeout { .. } => Self::new(Exit::Timeout, error.to_string()),
            ClientError::Broken { .. } => Self::new(Exit::CannotConnect, error.to_string())
                .hint("what was asked for may have been done: look before you repeat it"),
            ClientError::Protocol { .. } => Self::new(Exit::Failed, error.to_string())
                .hint("are the versions of client and server close? see `hostler version`"),
            ClientError::Request(_) => Self::new(Exit::Usage, error.to_string()),
        }
    }
}

/// Says how to reach the server, or why it is not trusted, without the request's path.
fn unreachable(url: &str, reason: &str) -> CliError {
    let origin = url.find("/v1/").map_or(url, |end| &url[..end]);
    let local = origin == crate::connection::LOCAL;
    let server = if local { "the server on this machine" } else { origin };
    let hint = if local {
        "does it run, and are you root? `--context NAME` uses another server"
    } else if reason.contains("certificate") {
        "the server cannot be recognised: if its CA was replaced for a reason you know, log in again"
    } else {
        "is the address right, and does the server run?"
    };
    CliError::new(Exit::CannotConnect, format!("cannot reach {server}: {reason}")).hint(hint)
}

impl From<anyhow::Error> for CliError {
    /// The whole chain, one sentence: a cause's text does not repeat its effect's.
    fn from(error: anyhow::Error) -> Self {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        Self::new(Exit::Failed, chain.join(": "))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn errors_say_what_and_the_way_out() {
        let mut problem = Problem::new(400, "invalid", "the VM cannot be made").hint("correct it");
        problem.errors.push(hostler_endpoint::FieldProblem {
            field: "disks[0].size".to_owned(),
            detail: "0B is not possible".to_owned(),
        });
        let error = CliError::from(problem);
        expect![[r"
            error: the VM cannot be made
              - disks[0].size: 0B is not possible
            hint: correct it"]]
        .assert_eq(&error.render(false));
        assert!(error.render(true).starts_with("\x1b[1;31merror:\x1b[0m the VM"));
    }

    #[test]
    fn exit_codes_follow_the_status() {
        let check = |status, exit| {
            let error = CliError::from(Problem::new(status, "x", "y"));
            assert_eq!(error.exit(), exit, "{status}");
        };
        check(400, Exit::Usage);
        check(401, Exit::Unauthorised);
        check(403, Exit::Unauthorised);
        check(404, Exit::NotFound);
        check(409, Exit::Conflict);
        check(412, Exit::Conflict);
        check(504, Exit::Timeout);
        check(507, Exit::NoCapacity);
        check(500, Exit::Failed);
        check(503, Exit::Failed);
    }

    #[test]
    fn servers_cannot_disturb_the_terminal() {
        let error = CliError::from(Problem::new(409, "x", "a\x1b]0;evil\x07b\nerror: c"));
        assert_eq!(error.render(false), "error: ab error: c");
    }

    #[test]
    fn an_unreachable_server_is_named_without_the_path() {
        let error = CliError::from(ClientError::Connect {
            url: "https://a:8443/v1/vms?label=x".to_owned(),
            reason: "Connection refused".to_owned(),
        });
        expect![[r"
            error: cannot reach https://a:8443: Connection refused
            hint: is the address right, and does the server run?"]]
        .assert_eq(&error.render(false));
    }
}
