//! `hostler request create`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hostler_api::request;
use hostler_endpoint::NoParams;
use hostler_types::{
    GuestCommand, GuestScript, HttpCheck, Name, OnFailure, Probe, ProbeCheck, RequestAction,
    RequestOrder, RequestState, Webhook,
};
use serde_json::{Map, Value, json};

use crate::commands::vm::Wish;
use crate::error::{CliError, Exit};
use crate::input;
use crate::session::Session;

/// Ask for a VM. What the approval rules say decides who has to agree
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler request create web01 --image debian-12 --purpose 'the shop' --owner team-web --lease 30d
  hostler request create web01 --image debian-12 --script setup.sh --probe agent --probe http:80/health
  hostler request create web01 --image debian-12 --command 'systemctl start shop' \\
      --probe 'command:systemctl is-active shop' --webhook https://ci.example/hooks/shop
  hostler request create -f web01.yaml")]
pub(crate) struct Create {
    /// Name for the VM
    #[arg(value_name = "VM", required_unless_present = "file")]
    name: Option<Name>,

    /// Take what is not given here from this YAML or JSON file (`-`: standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// What it is for, in words, for those who have to agree
    #[arg(long, value_name = "TEXT", help_heading = "Request")]
    purpose: Option<String>,

    /// Whose the VM will be, its label `owner` [default: you]
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    owner: Option<String>,

    /// Script to run in the guest once; repeat it for several
    #[arg(long = "script", value_name = "FILE", help_heading = "Request")]
    scripts: Vec<PathBuf>,

    /// Command that the guest's shell runs once it is up; repeat it for several. Commands come
    /// first, then scripts, then webhooks; a file says any order
    #[arg(long = "command", value_name = "COMMAND", help_heading = "Request")]
    commands: Vec<String>,

    /// Address that the server calls once the guest is up; repeat it for several
    #[arg(long = "webhook", value_name = "URL", help_heading = "Request")]
    webhooks: Vec<String>,

    /// What must be so before it is delivered: agent, tcp:PORT, http:PORT/PATH, or command:COMMAND,
    /// which must end with 0 in the guest's shell; repeat it
    #[arg(long = "probe", value_name = "PROBE", value_parser = probe, help_heading = "Request")]
    probes: Vec<Probe>,

    /// Address that is told of the end, good or bad; repeat it for several
    #[arg(long = "notify", value_name = "URL", help_heading = "Request")]
    notify: Vec<String>,

    /// What becomes of the VM when its making fails [default: keep]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Request")]
    on_failure: Option<OnFailureArg>,

    /// Deliver it switched off
    #[arg(long, help_heading = "Request")]
    leave_off: bool,

    #[command(flatten)]
    wish: Wish,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFailureArg {
    /// It stays, to be looked at; another try goes on with it
    Keep,
    /// It is deleted; another try begins anew
    Remove,
}

impl From<OnFailureArg> for OnFailure {
    fn from(argument: OnFailureArg) -> Self {
        match argument {
            OnFailureArg::Keep => Self::Keep,
            OnFailureArg::Remove => Self::Remove,
        }
    }
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let order = self.order()?;
        let none = NoParams {};
        // Asked for twice, the second is refused: one may not ask twice for one VM.
        let request = session.call::<request::Create>(&none, &none, order).await?;
        let name = request.metadata.name.as_str();
        match request.status.state {
            RequestState::Pending { .. } => {
                for rule in request.status.decision.rules.iter().filter(|rule| rule.missing > 0) {
                    let needs = rule.needs.as_deref().unwrap_or_default();
                    session.output.remark(&format!("it waits for {needs}"));
                }
            }
            _ => session.output.remark("nobody has to agree: it is made now"),
        }
        session.output.done("created", "request", name, &request)
    }

    /// The file's request with the flags laid over it.
    fn order(&self) -> Result<RequestOrder, CliError> {
        let (mut document, place) = match &self.file {
            Some(file) => (input::one_document(file)?, file.display().to_string()),
            None => (Map::new(), "the command line".to_owned()),
        };
        document.remove("kind");
        let vm = document.entry("vm").or_insert_with(|| json!({}));
        if let (Some(name), Some(vm)) = (&self.name, vm.as_object_mut()) {
            vm.insert("name".to_owned(), name.as_str().into());
        }
        let mut order: RequestOrder = serde_json::from_value(Value::Object(document))
            .map_err(|error| CliError::new(Exit::Failed, format!("{place}: {error}")))?;
        self.wish.lay_over(&mut order.vm)?;
        order.owner = self.owner.clone().or(order.owner);
        order.purpose = self.purpose.clone().unwrap_or(order.purpose);
        order.on_failure = self.on_failure.map_or(order.on_failure, OnFailure::from);
        order.leave_off |= self.leave_off;
        order.probes.extend(self.probes.iter().cloned());
        for command in &self.commands {
            let command = GuestCommand { run: shell(command), timeout_seconds: 60 };
            order.post.push(RequestAction::Command(command));
        }
        for script in &self.scripts {
            let text = input::text(script)?;
            order.post.push(RequestAction::Script(GuestScript { text, timeout_seconds: 900 }));
        }
        let calls = self.webhooks.iter().map(|url| RequestAction::Webhook(webhook(url)));
        order.post.extend(calls);
        order.notify.extend(self.notify.iter().map(|url| webhook(url)));
        Ok(order)
    }
}

fn webhook(url: &str) -> Webhook {
    Webhook { url: url.to_owned(), secret: None, timeout_seconds: 10, retries: 4 }
}

/// As a person types it: words, pipes and quotes are for the guest's shell.
fn shell(command: &str) -> Vec<String> {
    ["sh", "-c", command].map(str::to_owned).to_vec()
}

/// `agent`, `tcp:22`, `http:80/health`, `command:systemctl is-active shop`.
fn probe(text: &str) -> Result<Probe, String> {
    let wrong = || {
        let shown = text.escape_debug();
        format!("`{shown}` is no probe; write agent, tcp:PORT, http:PORT/PATH or command:COMMAND")
    };
    let check = match text.split_once(':') {
        None if text == "agent" => ProbeCheck::Agent,
        Some(("tcp", port)) => ProbeCheck::Tcp(port.parse().map_err(|_| wrong())?),
        Some(("http", rest)) => {
            let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
            let port = port.parse().map_err(|_| wrong())?;
            ProbeCheck::Http(HttpCheck { port, path: format!("/{path}"), status: 200 })
        }
        Some(("command", command)) if !command.trim().is_empty() => {
            ProbeCheck::Command(shell(command))
        }
        _ => return Err(wrong()),
    };
    Ok(Probe { check, timeout_seconds: 10, retries: 30, pause_seconds: 2 })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    #[test]
    fn what_is_to_be_done_is_ordered() {
        let line = ["x", "shop01", "--image", "tiny", "--webhook", "https://ci.example/x"];
        let rest = [
            "--command",
            "systemctl start shop",
            "--probe",
            "command:true",
            "--notify",
            "https://y",
        ];
        let order = Line::parse_from(line.into_iter().chain(rest)).create.order().unwrap();
        let command = GuestCommand { run: shell("systemctl start shop"), timeout_seconds: 60 };
        let call = webhook("https://ci.example/x");
        assert_eq!(order.post, [RequestAction::Command(command), RequestAction::Webhook(call)]);
        assert_eq!(order.probes.len(), 1);
        assert_eq!(order.notify, [webhook("https://y")]);
    }

    #[test]
    fn probes_are_read_as_documented() {
        let check = |text: &str, title: Option<&str>| {
            assert_eq!(probe(text).ok().map(|probe| probe.title()).as_deref(), title, "{text}");
        };
        check("agent", Some("agent"));
        check("tcp:22", Some("tcp 22"));
        check("http:80/health", Some("http 80/health"));
        check("http:80", Some("http 80/"));
        let run = probe("command:test -e /a:b | cat").unwrap().check;
        assert_eq!(run, ProbeCheck::Command(shell("test -e /a:b | cat")));
        for wrong in
            ["", "tcp", "tcp:", "tcp:99999", "http:x/", "udp:53", "agent:1", "command", "command: "]
        {
            check(wrong, None);
        }
    }
}
