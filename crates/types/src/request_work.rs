//! What is done to a VM that was asked for, beyond making it: actions, probes, webhooks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::customization::SecretText;
use crate::vm_requests::SpecError;

/// One thing to do when the guest is up, in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum RequestAction {
    /// A command in the guest, through its agent.
    Command(GuestCommand),
    /// A script in the guest, run once.
    Script(GuestScript),
    /// A call of another system by the server.
    Webhook(Webhook),
}

/// A command in the guest; no shell is put between. It must end with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestCommand {
    /// Program and arguments.
    #[schema(min_items = 1)]
    pub run: Vec<String>,
    /// 1 to 3600.
    #[serde(default = "minute")]
    pub timeout_seconds: u32,
}

/// A script that is not run again in a guest in which it has ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestScript {
    /// At most 64 KiB; the shell reads it from its standard input.
    pub text: String,
    /// 1 to 3600.
    #[serde(default = "quarter_hour")]
    pub timeout_seconds: u32,
}

/// An HTTPS POST by the server, with a JSON body that says what has become of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub url: String,
    /// Signs the body (HMAC-SHA256); sealed in the store and never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretText>,
    /// For one try, 1 to 60.
    #[serde(default = "ten")]
    pub timeout_seconds: u32,
    /// Further tries when the other side is not there or in trouble, 0 to 10.
    #[serde(default = "four")]
    pub retries: u32,
}

/// Something that must be so before the VM is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub check: ProbeCheck,
    /// For one try, 1 to 300.
    #[serde(default = "ten")]
    pub timeout_seconds: u32,
    /// Further tries, 0 to 1000.
    #[serde(default = "thirty")]
    pub retries: u32,
    /// Between two tries, 1 to 300.
    #[serde(default = "two")]
    pub pause_seconds: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ProbeCheck {
    /// The guest agent answers.
    Agent,
    /// The server can connect to this port of the guest.
    Tcp(u16),
    /// The server gets this status from the guest, over plain HTTP.
    Http(HttpCheck),
    /// This command ends with 0 in the guest.
    Command(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    #[serde(default = "http_port")]
    #[schema(minimum = 1)]
    pub port: u16,
    #[serde(default = "root_path")]
    pub path: String,
    #[serde(default = "fine")]
    pub status: u16,
}

const fn minute() -> u32 {
    60
}
const fn quarter_hour() -> u32 {
    900
}
const fn ten() -> u32 {
    10
}
const fn four() -> u32 {
    4
}
const fn thirty() -> u32 {
    30
}
const fn two() -> u32 {
    2
}
const fn http_port() -> u16 {
    80
}
fn root_path() -> String {
    "/".to_owned()
}
const fn fine() -> u16 {
    200
}

const LONGEST_SCRIPT: usize = 64 << 10;
const LONGEST_COMMAND: usize = 32 << 10;
const LONGEST_URL: usize = 2048;

impl RequestAction {
    /// For people: `command`, `webhook https://…`.
    pub fn title(&self) -> String {
        match self {
            Self::Command(command) => {
                format!("command {}", command.run.first().map_or("", String::as_str))
            }
            Self::Script(_) => "script".to_owned(),
            Self::Webhook(webhook) => format!("webhook {}", webhook.shown_url()),
        }
    }

    pub fn webhook_mut(&mut self) -> Option<&mut Webhook> {
        match self {
            Self::Webhook(webhook) => Some(webhook),
            Self::Command(_) | Self::Script(_) => None,
        }
    }

    pub fn is_in_guest(&self) -> bool {
        match self {
            Self::Command(_) | Self::Script(_) => true,
            Self::Webhook(_) => false,
        }
    }

    pub(crate) fn validate(&self, field: &str) -> Result<(), SpecError> {
        match self {
            Self::Command(command) => {
                words(&command.run, &format!("{field}.command.run"))?;
                let field = format!("{field}.command.timeout_seconds");
                within(command.timeout_seconds, 1, 3600, &field)
            }
            Self::Script(script) => {
                let bad = script.text.trim().is_empty() || script.text.len() > LONGEST_SCRIPT;
                if bad || script.text.contains('\0') {
                    let reason = "a script is 1 byte to 64KiB of text";
                    return Err(SpecError::new(format!("{field}.script.text"), reason));
                }
                let field = format!("{field}.script.timeout_seconds");
                within(script.timeout_seconds, 1, 3600, &field)
            }
            Self::Webhook(webhook) => webhook.validate(&format!("{field}.webhook")),
        }
    }
}

impl Webhook {
    /// Name of the field that holds a secret.
    pub const SECRET_FIELD: &'static str = "secret";

    /// What of the address may be shown.
    pub fn shown_url(&self) -> String {
        Self::shown_address(&self.url)
    }

    /// Scheme and host only: many services have the secret in the path.
    pub fn shown_address(url: &str) -> String {
        let hidden = SecretText::REDACTED;
        let Some((scheme, rest)) = url.split_once("://") else { return hidden.to_owned() };
        // A backslash is a slash to those who call it.
        let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match path {
            "" | "/" => format!("{scheme}://{host}"),
            _ => format!("{scheme}://{host}/{hidden}"),
        }
    }

    pub(crate) fn validate(&self, field: &str) -> Result<(), SpecError> {
        if self.url.is_empty() || self.url.len() > LONGEST_URL {
            let reason = format!("an address has 1 to {LONGEST_URL} characters");
            return Err(SpecError::new(format!("{field}.url"), reason));
        }
        within(self.timeout_seconds, 1, 60, &format!("{field}.timeout_seconds"))?;
        within(self.retries, 0, 10, &format!("{field}.retries"))
    }
}

impl Probe {
    /// For people: `tcp 22`.
    pub fn title(&self) -> String {
        match &self.check {
            ProbeCheck::Agent => "agent".to_owned(),
            ProbeCheck::Tcp(port) => format!("tcp {port}"),
            ProbeCheck::Http(http) => format!("http {}{}", http.port, http.path),
            ProbeCheck::Command(run) => {
                format!("command {}", run.first().map_or("", String::as_str))
            }
        }
    }

    pub(crate) fn validate(&self, field: &str) -> Result<(), SpecError> {
        within(self.timeout_seconds, 1, 300, &format!("{field}.timeout_seconds"))?;
        within(self.retries, 0, 1000, &format!("{field}.retries"))?;
        within(self.pause_seconds, 1, 300, &format!("{field}.pause_seconds"))?;
        match &self.check {
            ProbeCheck::Agent => Ok(()),
            ProbeCheck::Tcp(port) => {
                within((*port).into(), 1, 65535, &format!("{field}.check.tcp"))
            }
            ProbeCheck::Http(http) => {
                within(http.port.into(), 1, 65535, &format!("{field}.check.http.port"))?;
                within(http.status.into(), 100, 599, &format!("{field}.check.http.status"))?;
                let fine = http.path.starts_with('/') && http.path.len() <= LONGEST_URL;
                if !fine || http.path.chars().any(|c| c.is_control() || c == ' ') {
                    let reason = "a path begins with `/` and has no spaces";
                    return Err(SpecError::new(format!("{field}.check.http.path"), reason));
                }
                Ok(())
            }
            ProbeCheck::Command(run) => words(run, &format!("{field}.check.command")),
        }
    }
}

fn within(number: u32, least: u32, most: u32, field: &str) -> Result<(), SpecError> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(SpecError::new(field, format!("{number} is not possible; {least} to {most}")))
}

fn words(words: &[String], field: &str) -> Result<(), SpecError> {
    let size: usize = words.iter().map(String::len).sum();
    let wrong = |reason: &str| Err(SpecError::new(field, reason));
    if words.first().is_none_or(String::is_empty) || words.len() > 256 {
        return wrong("1 to 256 words, the first being the program");
    }
    if size > LONGEST_COMMAND || words.iter().any(|word| word.contains('\0')) {
        return wrong("at most 32KiB in all, and no NUL bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_scheme_and_host_are_shown() {
        let check = |url: &str, shown: &str| assert_eq!(Webhook::shown_address(url), shown);
        check("https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/[redacted]");
        check("https://cmdb.example.org:8443?token=1", "https://cmdb.example.org:8443/[redacted]");
        check("https://cmdb.example.org#x", "https://cmdb.example.org/[redacted]");
        check(r"https://cmdb.example.org\x", "https://cmdb.example.org/[redacted]");
        check("https://me:x@cmdb.example.org/", "https://cmdb.example.org");
        check("https://[2001:db8::1]/", "https://[2001:db8::1]");
        check("https:///x", "https:///[redacted]");
        check("https:x", "[redacted]");
    }
}
