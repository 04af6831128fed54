//! cloud-init's NoCloud: a file system labelled `CIDATA`.
//!
//! - `meta-data`: instance id, host name, the keys of the image's default user, our hash;
//! - `user-data`: what the customization asks for, and whatever user data the VM was given;
//! - `network-config`: version 2, unless given.
//!
//! The instance id is the VM's id and the run, so that a guest is told once.

use hostler_types::{Customization, GuestUser};
use serde_json::{Value, json};

use crate::network::{nameservers, version_2};
use crate::run_once::{JOIN_PASSWORD_FILE, script_lines, shell_quote};
use crate::user_data::{content_type, message};
use crate::{Guest, RenderError, Seed};

pub(crate) fn render(guest: &Guest<'_>) -> Result<Seed, RenderError> {
    let files = [
        ("meta-data", meta_data(guest)),
        ("user-data", user_data(guest)?),
        ("network-config", version_2(guest)),
    ];
    Ok(Seed::new("CIDATA", files))
}

fn meta_data(guest: &Guest<'_>) -> String {
    let mut data = json!({
        "instance-id": guest.instance_id(),
        "local-hostname": guest.hostname(),
    });
    if !guest.hash.is_empty() {
        data["hostler-hash"] = json!(guest.hash);
    }
    if !guest.customization.ssh_keys.is_empty() {
        data["public-keys"] = json!(guest.customization.ssh_keys);
    }
    format!("{data:#}\n")
}

fn user_data(guest: &Guest<'_>) -> Result<String, RenderError> {
    let config = cloud_config(guest);
    let ours = format!("#cloud-config\n{config:#}\n");
    match guest.customization.user_data.as_ref().map(|text| text.reveal()) {
        None => Ok(ours),
        // Nothing to add, so nothing is touched.
        Some(own) if config == json!({}) => {
            content_type(own)?;
            Ok(own.to_owned())
        }
        Some(own) => message("text/cloud-config", &ours, own),
    }
}

/// Our part.
fn cloud_config(guest: &Guest<'_>) -> Value {
    let customization = guest.customization;
    let mut config = json!({});
    if !customization.users.is_empty() {
        // The list starts with the image's default user, which would be missing otherwise.
        let list = std::iter::once(json!("default")).chain(customization.users.iter().map(user));
        config["users"] = list.collect();
    }
    if let Some(zone) = &customization.time_zone {
        config["timezone"] = json!(zone);
    }
    if let Some(locale) = &customization.locale {
        config["locale"] = json!(locale);
    }
    if !customization.packages.is_empty() {
        config["package_update"] = json!(true);
        config["packages"] = json!(customization.packages);
    }
    if let Some(line) = resolver(guest) {
        config["bootcmd"] = json!([line]);
    }
    if let Some(join) = &customization.domain_join {
        let file = json!({
            "path": JOIN_PASSWORD_FILE,
            "permissions": "0600",
            "content": join.password.reveal(),
        });
        config["write_files"] = json!([file]);
    }
    let commands = run_commands(customization);
    if !commands.is_empty() {
        config["runcmd"] = json!(commands);
    }
    config
}

fn user(user: &GuestUser) -> Value {
    let mut entry = json!({
        "name": user.name,
        "shell": "/bin/bash",
        "lock_passwd": user.password.is_none(),
        "ssh_authorized_keys": user.ssh_keys,
    });
    if user.sudo {
        entry["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL");
    }
    if let Some(password) = &user.password {
        let text = password.reveal();
        let key = if is_crypted(text) { "passwd" } else { "plain_text_passwd" };
        entry[key] = json!(text);
    }
    entry
}

/// Whether a password is in the form of crypt(3): `$id$salt$hash`.
fn is_crypted(text: &str) -> bool {
    let mut parts = text.split('$');
    parts.next() == Some("")
        && matches!(parts.next(), Some("1" | "2a" | "2b" | "2y" | "5" | "6" | "7" | "y" | "gy"))
        && parts.count() >= 2
}

/// A guest whose addresses are all static may have nobody who writes `resolv.conf` (Debian with
/// ifupdown); where somebody does, it is there already or a link.
fn resolver(guest: &Guest<'_>) -> Option<String> {
    use std::fmt::Write as _;
    guest.nics.iter().find(|nic| nic.address.is_some())?;
    let (servers, search) = nameservers(guest);
    if servers.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !search.is_empty() {
        let _ = write!(text, "search {}\\n", search.join(" "));
    }
    for server in servers {
        let _ = write!(text, "nameserver {server}\\n");
    }
    Some(format!(
        "[ -L /etc/resolv.conf ] || [ -s /etc/resolv.conf ] || printf '{text}' >/etc/resolv.conf"
    ))
}

/// The lines of one script, which ends at the first command that fails.
fn run_commands(customization: &Customization) -> Vec<String> {
    let join = customization.domain_join.iter().map(|join| {
        let ou = join.ou.iter().map(|ou| format!(" --computer-ou={}", shell_quote(ou)));
        let command = format!(
            "realm join --verbose --user={}{} {} <{JOIN_PASSWORD_FILE}; code=$?; rm -f {JOIN_PASSWORD_FILE}; exit $code",
            shell_quote(&join.user),
            ou.collect::<String>(),
            shell_quote(&join.domain),
        );
        (format!("joining {}", join.domain), command)
    });
    let own = customization.run_once.iter().enumerate();
    let own =
        own.map(|(index, command)| (format!("run-once command {}", index + 1), command.clone()));
    script_lines(join.chain(own))
}
