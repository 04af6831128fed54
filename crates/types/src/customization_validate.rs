//! What of a customization can be carried to a guest safely.

use crate::address::NicAddressing;
use crate::customization::{
    ComputerName, Customization, CustomizationRules, Dns, DomainJoin, GuestOs, GuestUser,
    SecretText, WindowsSettings,
};
use crate::name::Name;
use crate::network::{is_domain, validate_search};
use crate::vm_requests::SpecError;

/// Of user data, network configuration and an `unattend.xml`, in bytes.
const LONGEST_TEXT: usize = 512 << 10;
const LONGEST_PASSWORD: usize = 1024;
/// Sealing makes four bytes of three, and adds a key's id, a nonce and a tag.
const SEALING: usize = 256;

impl CustomizationRules {
    /// # Errors
    /// The first field that no guest could be told.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.description.chars().count() > 1024 {
            return Err(SpecError::new("description", "at most 1024 characters"));
        }
        if self.networks.len() > 16 {
            return Err(SpecError::new("networks", "a VM has at most 16 NICs"));
        }
        let fixed = self.networks.iter().position(|way| matches!(way, NicAddressing::Static(_)));
        if let Some(index) = fixed {
            return Err(SpecError::new(
                format!("networks[{index}]"),
                "only one VM could have a static address of a spec; use `pool`, and give the address with the VM",
            ));
        }
        if self.guest.hostname.is_some() {
            return Err(SpecError::new("guest.hostname", "use `computer_name`"));
        }
        self.computer_name.validate()?;
        self.guest.validate_request("guest")
    }
}

impl ComputerName {
    fn validate(&self) -> Result<(), SpecError> {
        let Self::Numbered { prefix, digits } = self else { return Ok(()) };
        if !(1..=9).contains(digits) {
            return Err(SpecError::new("computer_name.numbered.digits", "1 to 9"));
        }
        if prefix.len() > 50 || prefix.ends_with(|c: char| c.is_ascii_digit()) {
            return Err(SpecError::new(
                "computer_name.numbered.prefix",
                "at most 50 characters, the last of which is not a digit",
            ));
        }
        self.numbered(1)
            .map(drop)
            .map_err(|reason| SpecError::new("computer_name.numbered.prefix", reason))
    }

    /// The `number`-th name; for names that are not numbered, always the same error.
    ///
    /// # Errors
    /// The name would not be one.
    pub fn numbered(&self, number: u64) -> Result<Name, String> {
        let Self::Numbered { prefix, digits } = self else {
            return Err("it is not numbered".to_owned());
        };
        let width = usize::from(*digits);
        format!("{prefix}{number:0width$}").parse().map_err(|error| format!("{error}"))
    }
}

impl Customization {
    /// Checks what a client sends: also that it leaves to the server what is the server's.
    ///
    /// # Errors
    /// The first field that is wrong, below `field`.
    pub fn validate_request(&self, field: &str) -> Result<(), SpecError> {
        if self.origin.is_some() || self.run != 0 {
            let which = if self.origin.is_some() { "origin" } else { "run" };
            return Err(SpecError::new(format!("{field}.{which}"), "the server sets it"));
        }
        self.validate_below(field)
    }

    /// # Errors
    /// The first field that a seed could not carry safely.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.validate_below("customization")
    }

    fn validate_below(&self, field: &str) -> Result<(), SpecError> {
        let at = |name: &str| format!("{field}.{name}");
        for (index, user) in self.users.iter().enumerate() {
            user.validate(&at(&format!("users[{index}]")), self.os)?;
        }
        let keys = self.users.iter().flat_map(|user| &user.ssh_keys).chain(&self.ssh_keys);
        for key in keys {
            if key.len() > 16 * 1024
                || key.chars().any(char::is_control)
                || key.split(' ').count() < 2
            {
                return Err(SpecError::new(
                    at("ssh_keys"),
                    "an SSH public key is one line: type, key and an optional comment",
                ));
            }
        }
        self.dns.validate(&at("dns"))?;
        self.validate_words(field)?;
        self.validate_commands(field)?;
        if let Some(join) = &self.domain_join {
            join.validate(&at("domain_join"))?;
        }
        match &self.windows {
            Some(_) if self.os == GuestOs::Linux => {
                return Err(SpecError::new(at("windows"), "only with `os: windows`"));
            }
            Some(windows) => windows.validate(&at("windows"))?,
            None => {}
        }
        let config = self.network_config.as_ref().is_some_and(|text| text.len() > LONGEST_TEXT);
        if config || self.user_data.as_ref().is_some_and(|text| longer(text, LONGEST_TEXT)) {
            return Err(SpecError::new(
                field,
                "user data and network configuration are at most 512KiB each",
            ));
        }
        Ok(())
    }

    fn validate_words(&self, field: &str) -> Result<(), SpecError> {
        // Windows has names with spaces and dots, such as `W. Europe Standard Time`.
        let ok = |c: char| c.is_ascii_alphanumeric() || "_+-/. ()".contains(c);
        let odd = |text: &str| {
            text.is_empty()
                || text.len() > 64
                || !text.chars().all(ok)
                || text.contains("..")
                || text.starts_with(['/', '-'])
        };
        if self.time_zone.as_deref().is_some_and(odd) {
            return Err(SpecError::new(
                format!("{field}.time_zone"),
                "a time zone is such as `Europe/Berlin`",
            ));
        }
        let ok = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
        let odd = |text: &str| {
            text.is_empty() || text.len() > 64 || !text.chars().all(ok) || text.starts_with('-')
        };
        if self.locale.as_deref().is_some_and(odd) {
            return Err(SpecError::new(
                format!("{field}.locale"),
                "a locale is such as `de_DE.UTF-8`",
            ));
        }
        let ok = |c: char| c.is_ascii_alphanumeric() || "+-._:=~/".contains(c);
        let odd = |text: &&String| {
            text.is_empty() || text.len() > 128 || !text.chars().all(ok) || text.starts_with('-')
        };
        if let Some(bad) = self.packages.iter().find(odd) {
            let shown = bad.chars().take(64).collect::<String>();
            return Err(SpecError::new(
                format!("{field}.packages"),
                format!("`{}` is not the name of a package", shown.escape_debug()),
            ));
        }
        if self.packages.len() > 256 {
            return Err(SpecError::new(format!("{field}.packages"), "at most 256"));
        }
        Ok(())
    }

    fn validate_commands(&self, field: &str) -> Result<(), SpecError> {
        let field = format!("{field}.run_once");
        if self.run_once.len() > 64 {
            return Err(SpecError::new(field, "at most 64 commands"));
        }
        let bad = |command: &String| {
            command.trim().is_empty() || command.len() > 8 << 10 || command.contains('\0')
        };
        match self.run_once.iter().position(bad) {
            Some(index) => Err(SpecError::new(
                format!("{field}[{index}]"),
                "a command is not empty, has at most 8KiB and no NUL bytes",
            )),
            None => Ok(()),
        }
    }
}

impl GuestUser {
    fn validate(&self, field: &str, os: GuestOs) -> Result<(), SpecError> {
        let name = self.name.as_str();
        let field_of = |name: &str| format!("{field}.{name}");
        match os {
            GuestOs::Linux => {
                let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
                let first = name.chars().next();
                if name.len() > 32
                    || !name.chars().all(ok)
                    || !first.is_some_and(|c| c.is_ascii_lowercase() || c == '_')
                {
                    return Err(SpecError::new(
                        field_of("name"),
                        "a user name is 1 to 32 of a-z, 0-9, `-` and `_`, and starts with a letter",
                    ));
                }
            }
            GuestOs::Windows => {
                let bad = |c: char| c.is_control() || "\"/\\[]:;|=,+*?<>@".contains(c);
                if name.trim().is_empty() || name.chars().count() > 20 || name.contains(bad) {
                    return Err(SpecError::new(
                        field_of("name"),
                        "a user name has 1 to 20 characters, none of \"/\\[]:;|=,+*?<>@",
                    ));
                }
            }
        }
        password(self.password.as_ref(), &field_of("password"))
    }
}

impl Dns {
    fn validate(&self, field: &str) -> Result<(), SpecError> {
        if self.servers.len() > 8 {
            return Err(SpecError::new(format!("{field}.servers"), "at most 8"));
        }
        validate_search("search", &self.search)
            .map_err(|reason| SpecError::new(format!("{field}.search"), reason))
    }
}

impl DomainJoin {
    fn validate(&self, field: &str) -> Result<(), SpecError> {
        if !is_domain(&self.domain) {
            return Err(SpecError::new(format!("{field}.domain"), "it is not a domain"));
        }
        let odd = |text: &str| {
            text.is_empty() || text.chars().count() > 256 || text.chars().any(char::is_control)
        };
        if odd(&self.user) || self.user.starts_with('-') {
            return Err(SpecError::new(format!("{field}.user"), "1 to 256 printable characters"));
        }
        if self.ou.as_deref().is_some_and(odd) {
            return Err(SpecError::new(format!("{field}.ou"), "1 to 256 printable characters"));
        }
        password(Some(&self.password), &format!("{field}.password"))
    }
}

impl WindowsSettings {
    fn validate(&self, field: &str) -> Result<(), SpecError> {
        password(self.administrator_password.as_ref(), &format!("{field}.administrator_password"))?;
        password(self.product_key.as_ref(), &format!("{field}.product_key"))?;
        if self.unattend.as_ref().is_some_and(|text| longer(text, LONGEST_TEXT)) {
            return Err(SpecError::new(format!("{field}.unattend"), "at most 512KiB"));
        }
        let texts = [
            ("workgroup", &self.workgroup),
            ("owner", &self.owner),
            ("organization", &self.organization),
        ];
        for (name, text) in texts {
            let odd = |text: &String| {
                text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control)
            };
            if text.as_ref().is_some_and(odd) {
                return Err(SpecError::new(
                    format!("{field}.{name}"),
                    "1 to 64 printable characters",
                ));
            }
        }
        Ok(())
    }
}

/// One line that is not empty, or sealed.
fn password(secret: Option<&SecretText>, field: &str) -> Result<(), SpecError> {
    let Some(secret) = secret else { return Ok(()) };
    let text = secret.reveal();
    if text.is_empty() || longer(secret, LONGEST_PASSWORD) || text.chars().any(char::is_control) {
        return Err(SpecError::new(field, "one line of 1 to 1024 bytes"));
    }
    Ok(())
}

fn longer(text: &SecretText, limit: usize) -> bool {
    let limit = if text.is_sealed() { limit / 3 * 4 + SEALING } else { limit };
    text.reveal().len() > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, complaint: Option<&str>) {
        let rules: CustomizationRules = serde_json::from_str(text).unwrap();
        match (rules.validate(), complaint) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => {
                assert!(error.to_string().contains(words), "{text}: {error}");
            }
            (result, _) => panic!("{text}: {result:?}"),
        }
    }

    #[test]
    fn rules_that_no_guest_could_be_told_are_refused() {
        check("{}", None);
        check(r#"{"guest":{"hostname":"a"}}"#, Some("computer_name"));
        check(r#"{"guest":{"run":1}}"#, Some("guest.run"));
        check(r#"{"computer_name":{"numbered":{"prefix":"web-","digits":2}}}"#, None);
        check(r#"{"computer_name":{"numbered":{"prefix":"web1","digits":2}}}"#, Some("digit"));
        check(r#"{"computer_name":{"numbered":{"prefix":"-","digits":2}}}"#, Some("not allowed"));
        check(r#"{"computer_name":{"numbered":{"prefix":"a","digits":0}}}"#, Some("1 to 9"));
        check(r#"{"networks":["pool","dhcp"]}"#, None);
        check(r#"{"networks":[{"static":{"address":"10.0.0.1"}}]}"#, Some("networks[0]"));
        check(r#"{"guest":{"time_zone":"Europe/Berlin","locale":"de_DE.UTF-8"}}"#, None);
        check(r#"{"guest":{"time_zone":"../../etc/shadow"}}"#, Some("time_zone"));
        check(r#"{"guest":{"locale":"a b"}}"#, Some("locale"));
        check(r#"{"guest":{"packages":["nginx","python3-pip"]}}"#, None);
        check(r#"{"guest":{"packages":["--allow-downgrades"]}}"#, Some("packages"));
        check(r#"{"guest":{"run_once":["true",""]}}"#, Some("run_once[1]"));
        check(r#"{"guest":{"windows":{}}}"#, Some("os: windows"));
        check(r#"{"guest":{"os":"windows","windows":{"workgroup":"LAB"}}}"#, None);
        check(r#"{"guest":{"users":[{"name":"a","password":"x\ny"}]}}"#, Some("password"));
        check(r#"{"guest":{"users":[{"name":"Ada"}]}}"#, Some("user name"));
        check(r#"{"guest":{"os":"windows","users":[{"name":"Ada L"}]}}"#, None);
        check(r#"{"guest":{"dns":{"search":["bad domain"]}}}"#, Some("dns.search"));
        let join = |domain: &str| {
            format!(
                r#"{{"guest":{{"domain_join":{{"domain":"{domain}","user":"u","password":"p"}}}}}}"#
            )
        };
        check(&join("corp.example.com"), None);
        check(&join("corp; rm -rf /"), Some("domain"));
    }

    #[test]
    fn names_are_numbered() {
        let name = ComputerName::Numbered { prefix: "web-".to_owned(), digits: 2 };
        assert_eq!(name.numbered(7).unwrap().as_str(), "web-07");
        assert_eq!(name.numbered(123).unwrap().as_str(), "web-123");
        assert!(ComputerName::VmName.numbered(1).is_err());
    }
}
