//! Cloudbase-Init: OpenStack's config drive, a file system labelled `config-2`.
//!
//! Name, administrator password, keys and addresses stand in the documents that Cloudbase-Init
//! reads by itself; the rest is a PowerShell script as user data, which leaves its result in
//! `C:\ProgramData\hostler\customization.json`.

use hostler_types::{Customization, GuestUser, WindowsSettings};
use serde_json::{Value, json};

use crate::network::{gateway, nameservers};
use crate::user_data::message;
use crate::{Guest, RenderError, Seed};

pub(crate) fn render(guest: &Guest<'_>) -> Result<Seed, RenderError> {
    let script = script(guest);
    let user_data = match guest.customization.user_data.as_ref().map(|text| text.reveal()) {
        None => script,
        Some(own) => message("text/x-shellscript", &script, own)?,
    };
    let files = [
        ("openstack/latest/meta_data.json", meta_data(guest)),
        ("openstack/latest/network_data.json", network_data(guest)),
        ("openstack/latest/user_data", user_data),
    ];
    Ok(Seed::new("config-2", files))
}

fn meta_data(guest: &Guest<'_>) -> String {
    let windows = guest.customization.windows.as_ref();
    let mut data = json!({
        "uuid": guest.instance_id(),
        "name": guest.hostname(),
        "hostname": guest.hostname(),
        "meta": { "hostler-hash": guest.hash },
    });
    if let Some(password) = windows.and_then(|windows| windows.administrator_password.as_ref()) {
        data["admin_pass"] = json!(password.reveal());
    }
    let keys = guest.customization.ssh_keys.iter().enumerate();
    let keys: serde_json::Map<String, Value> =
        keys.map(|(index, key)| (index.to_string(), json!(key))).collect();
    if !keys.is_empty() {
        data["public_keys"] = keys.into();
    }
    format!("{data:#}\n")
}

fn network_data(guest: &Guest<'_>) -> String {
    let links: Vec<Value> = (guest.nics.iter())
        .map(|nic| json!({ "id": nic.name, "type": "phy", "ethernet_mac_address": nic.mac }))
        .collect();
    let networks: Vec<Value> = (guest.nics.iter())
        .map(|nic| {
            let (id, link) = (format!("{}-ipv4", nic.name), &nic.name);
            let Some(address) = &nic.address else {
                return json!({ "id": id, "type": "ipv4_dhcp", "link": link });
            };
            let mask = hostler_types::Ipv4Net::around(address.address, address.prefix).netmask();
            let mut network = json!({
                "id": id, "type": "ipv4", "link": link,
                "ip_address": address.address, "netmask": mask, "routes": [],
            });
            if let Some(gateway) = gateway(guest, nic) {
                network["gateway"] = json!(gateway);
                network["routes"] =
                    json!([{ "network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": gateway }]);
            }
            network
        })
        .collect();
    let (servers, _) = nameservers(guest);
    let services: Vec<Value> =
        servers.iter().map(|server| json!({ "type": "dns", "address": server })).collect();
    format!("{:#}\n", json!({ "links": links, "networks": networks, "services": services }))
}

/// Runs from top to bottom; the first error ends it. 1001 asks Cloudbase-Init for a restart.
fn script(guest: &Guest<'_>) -> String {
    let customization = guest.customization;
    let nothing = WindowsSettings::default();
    let windows = customization.windows.as_ref().unwrap_or(&nothing);
    let mut steps = Vec::new();
    if let Some(zone) = &customization.time_zone {
        steps.push(format!("tzutil.exe /s {}; Check 'setting the time zone'", quote(zone)));
    }
    if let Some(locale) = &customization.locale {
        let locale = quote(locale);
        steps.push(format!("Set-WinSystemLocale -SystemLocale {locale}; Set-Culture {locale}"));
    }
    let (_, search) = nameservers(guest);
    if !search.is_empty() {
        let list: Vec<_> = search.iter().map(|domain| quote(domain)).collect();
        let list = list.join(", ");
        steps.push(format!("Set-DnsClientGlobalSetting -SuffixSearchList @({list})"));
    }
    steps.extend(customization.users.iter().map(user));
    if let Some(key) = &windows.product_key {
        let key = quote(key.reveal());
        steps.push(format!(
            "cscript.exe //nologo $env:windir\\system32\\slmgr.vbs /ipk {key}; Check 'setting the licence key'"
        ));
    }
    for (index, command) in customization.run_once.iter().enumerate() {
        let what = quote(&format!("run-once command {}", index + 1));
        steps.push(format!("cmd.exe /c {}; Check {what}", quote(command)));
    }
    steps.extend(membership(customization, windows));
    let steps: String = steps.iter().map(|step| format!("  {step}\n")).collect();
    format!(
        "#ps1_sysnative\n\
         $ErrorActionPreference = 'Stop'\n\
         $result = @{{ hash = {hash}; instance = {instance}; error = $null }}\n\
         function Check($what) {{\n\
         \x20 if ($LASTEXITCODE -ne 0) {{ throw \"$what failed with exit code $LASTEXITCODE\" }}\n\
         }}\n\
         try {{\n{steps}\
         }} catch {{\n\
         \x20 $result.error = \"$_\"\n\
         }}\n\
         New-Item -ItemType Directory -Force \"$env:ProgramData\\hostler\" | Out-Null\n\
         $result | ConvertTo-Json | Set-Content \"$env:ProgramData\\hostler\\customization.json\"\n\
         exit {end}\n",
        hash = quote(guest.hash),
        instance = quote(&guest.instance_id()),
        // A new membership needs a restart.
        end = if customization.domain_join.is_some() || windows.workgroup.is_some() {
            1001
        } else {
            0
        },
    )
}

fn user(user: &GuestUser) -> String {
    let name = quote(&user.name);
    let make = match &user.password {
        Some(password) => format!(
            "New-LocalUser -Name {name} -Password (ConvertTo-SecureString {} -AsPlainText -Force) | Out-Null",
            quote(password.reveal())
        ),
        None => format!("New-LocalUser -Name {name} -NoPassword | Out-Null"),
    };
    // By its SID: the group's name depends on the language.
    let group = if user.sudo { "S-1-5-32-544" } else { "S-1-5-32-545" };
    format!("{make}; Add-LocalGroupMember -SID {group} -Member {name}")
}

fn membership(customization: &Customization, windows: &WindowsSettings) -> Option<String> {
    if let Some(join) = &customization.domain_join {
        let ou = join.ou.as_ref().map(|ou| format!(" -OUPath {}", quote(ou))).unwrap_or_default();
        return Some(format!(
            "Add-Computer -DomainName {}{ou} -Credential (New-Object PSCredential({}, (ConvertTo-SecureString {} -AsPlainText -Force)))",
            quote(&join.domain),
            quote(&join.user),
            quote(join.password.reveal()),
        ));
    }
    let workgroup = windows.workgroup.as_ref()?;
    Some(format!("Add-Computer -WorkgroupName {}", quote(workgroup)))
}

/// A PowerShell string in which nothing is expanded. PowerShell takes four typographic quotes for
/// the plain one.
fn quote(text: &str) -> String {
    let mut quoted = String::from("'");
    for c in text.chars() {
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quotes_of_every_kind_are_doubled() {
        assert_eq!(quote("it's"), "'it''s'");
        assert_eq!(quote("\u{2019}; rm"), "'\u{2019}\u{2019}; rm'");
        assert_eq!(quote("$(x) `n"), "'$(x) `n'");
    }
}
