//! Customization: what a guest is made to be at its first boot, and whether it says that it is.
//!
//! A [`CustomizationSpec`] is a named, reusable set of rules. Making a VM resolves it, with what the
//! request adds, into a [`Customization`] that the VM keeps, and into the addresses of its NICs.
//! The guest's own report of the result is the VM's [`CustomizationStatus`].
//!
//! ```text
//!  pending -> applied
//!     |  \
//!     |   failed            both are final for one run; `vm customize` begins the next
//!     +-- (a reason, when the guest could not be asked)
//! ```

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::address::NicAddressing;
use crate::id::CustomizationSpecId;
use crate::name::Name;
use crate::object::{Kind, KindName, Object};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CustomizationSpecKind;
pub type CustomizationSpec = Object<CustomizationSpecKind>;

impl Kind for CustomizationSpecKind {
    const NAME: KindName = KindName::CustomizationSpec;
    const SCHEMA: &'static str = "CustomizationSpec";
    type Spec = CustomizationRules;
    type Status = CustomizationSpecStatus;
}

/// What a customization spec asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CustomizationRules {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub computer_name: ComputerName,
    /// How the VM's NICs get their addresses, in their order. NICs beyond the list: by DHCP.
    pub networks: Vec<NicAddressing>,
    /// The rest; without `hostname`, which `computer_name` decides.
    pub guest: Customization,
}

/// Nothing but the spec is known of a customization spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CustomizationSpecStatus {}

/// What a guest is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ComputerName {
    /// As the VM.
    #[default]
    VmName,
    Fixed(Name),
    /// A prefix, and the number after the highest that a VM has.
    Numbered {
        prefix: String,
        /// Filled up with zeros to this length, 1 to 9.
        digits: u8,
    },
}

/// What the guest is told of itself, through a NoCloud seed or a config drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Customization {
    #[serde(skip_serializing_if = "GuestOs::is_linux")]
    pub os: GuestOs,
    /// Absent: the VM's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    pub users: Vec<GuestUser>,
    /// Keys for the image's default user.
    pub ssh_keys: Vec<String>,
    #[serde(skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
    /// Such as `Europe/Berlin`; for Windows its own names, such as `W. Europe Standard Time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Such as `de_DE.UTF-8`; for Windows such as `de-DE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Packages to install, by the names of the guest's distribution.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Commands for the guest's shell, run once, as root, in this order. The first one that fails
    /// fails the customization, and those after it are not run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub run_once: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_join: Option<DomainJoin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<WindowsSettings>,
    /// A whole `#cloud-config` (or script) of one's own, merged after the generated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<SecretText>,
    /// A cloud-init network configuration, version 2; absent: the NICs' static addresses, and DHCP
    /// on those that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_config: Option<String>,
    /// The customization spec that this was made from. The server sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<CustomizationOrigin>,
    /// Counts how often the guest was ordered to be customized anew. The server sets it.
    #[serde(skip_serializing_if = "is_zero")]
    pub run: u32,
}

/// Which state of which customization spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomizationOrigin {
    #[schema(value_type = String, format = "uuid")]
    pub id: CustomizationSpecId,
    /// Its name at that time.
    pub name: Name,
    pub generation: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuestOs {
    /// Told through cloud-init's NoCloud.
    #[default]
    Linux,
    /// Told through a config drive for Cloudbase-Init, or an `unattend.xml`.
    Windows,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestUser {
    pub name: String,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// May become root without a password (Windows: is an administrator).
    #[serde(default)]
    pub sudo: bool,
    /// In clear, or as crypt(3) makes it (`$6$…`, `$y$…`). Absent: no login by password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretText>,
}

/// Where names are looked up; absent: what the network says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    #[schema(value_type = Vec<String>)]
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

/// An Active Directory domain (or a realm) that the guest joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainJoin {
    /// Such as `corp.example.com`.
    pub domain: String,
    /// Who may add computers to it.
    pub user: String,
    pub password: SecretText,
    /// Organizational unit, such as `OU=Servers,DC=corp,DC=example,DC=com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ou: Option<String>,
}

/// What only Windows knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WindowsSettings {
    pub delivery: WindowsDelivery,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub administrator_password: Option<SecretText>,
    /// The licence key, `XXXXX-XXXXX-XXXXX-XXXXX-XXXXX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_key: Option<SecretText>,
    /// Absent, and no domain to join: `WORKGROUP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// A whole `unattend.xml` of one's own, instead of the generated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattend: Option<SecretText>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WindowsDelivery {
    /// OpenStack's config drive, read by Cloudbase-Init in the image.
    #[default]
    ConfigDrive,
    /// `unattend.xml`, read by Windows Setup in a sysprepped image.
    Unattend,
}

/// Whether the guest is what it was told to be, by its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CustomizationStatus {
    pub state: CustomizationState,
    /// Why it failed, or is still pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of what the guest was told; the guest reports the same when it is applied.
    pub hash: String,
    /// Which run, from 0.
    #[serde(default)]
    pub run: u32,
    /// The customization spec that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<CustomizationOrigin>,
    /// When this became so.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CustomizationState {
    /// The guest has not said yet.
    Pending,
    /// The guest reports what it was told.
    Applied,
    /// The guest says that something failed, or is not what it was told.
    Failed,
}

impl CustomizationState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Failed => "failed",
        }
    }
}
impl fmt::Display for CustomizationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that may hold a secret: `Debug` does not show it, and views replace it by `REDACTED`. What
/// is stored is sealed: encrypted, and marked by a prefix.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct SecretText(String);

impl SecretText {
    pub const REDACTED: &'static str = "[redacted]";
    /// How a sealed secret begins.
    pub const SEALED: &'static str = "hostler-sealed:";

    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    pub fn reveal(&self) -> &str {
        &self.0
    }
    pub fn redacted() -> Self {
        Self(Self::REDACTED.to_owned())
    }
    /// Whether it is the placeholder that views show, sent back.
    pub fn is_redacted(&self) -> bool {
        self.0 == Self::REDACTED
    }
    pub fn is_sealed(&self) -> bool {
        self.0.starts_with(Self::SEALED)
    }
}
impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::REDACTED)
    }
}

impl GuestOs {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_linux(&self) -> bool {
        *self == Self::Linux
    }
}
impl Dns {
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Customization {
    /// Whether it makes the guest run what whoever has written it likes: commands, user data,
    /// packages (their scripts run as root), the joining of a domain, or an answer file. Who may log
    /// in, and what the guest is called, runs nothing.
    pub fn runs_something(&self) -> bool {
        // Every field is named, so that a new one is not forgotten here.
        let Self {
            packages,
            run_once,
            domain_join,
            windows,
            user_data,
            os: _,
            hostname: _,
            users: _,
            ssh_keys: _,
            dns: _,
            time_zone: _,
            locale: _,
            network_config: _,
            origin: _,
            run: _,
        } = self;
        !packages.is_empty()
            || !run_once.is_empty()
            || domain_join.is_some()
            || user_data.is_some()
            || windows.as_ref().is_some_and(|windows| windows.unattend.is_some())
    }

    /// The names of the fields that hold secrets, at whatever depth.
    pub const SECRET_FIELDS: [&'static str; 5] =
        ["user_data", "password", "administrator_password", "product_key", "unattend"];

    /// All secrets.
    pub fn secrets_mut(&mut self) -> impl Iterator<Item = &mut SecretText> {
        let users = self.users.iter_mut().filter_map(|user| user.password.as_mut());
        let join = self.domain_join.iter_mut().map(|join| &mut join.password);
        let windows = self.windows.iter_mut().flat_map(|windows| {
            let WindowsSettings { administrator_password, product_key, unattend, .. } = windows;
            [administrator_password, product_key, unattend].into_iter().flatten()
        });
        users.chain(join).chain(windows).chain(&mut self.user_data)
    }

    /// As it may be shown: secrets replaced by a placeholder.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        self.secrets_mut().for_each(|secret| *secret = SecretText::redacted());
        self
    }

    /// Whether there is anything that must not be shown.
    pub fn has_secrets(&self) -> bool {
        self.user_data.is_some()
            || self.domain_join.is_some()
            || self.users.iter().any(|user| user.password.is_some())
            || self.windows.as_ref().is_some_and(|windows| {
                windows.administrator_password.is_some()
                    || windows.product_key.is_some()
                    || windows.unattend.is_some()
            })
    }

    /// Without anything secret: what a guest that has been customized still needs to be told.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.users.iter_mut().for_each(|user| user.password = None);
        self.domain_join = None;
        self.windows = self.windows.map(|windows| WindowsSettings {
            administrator_password: None,
            product_key: None,
            unattend: None,
            ..windows
        });
        self.user_data = None;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything_secret() -> Customization {
        let secret = |text: &str| SecretText::new(format!("hunter2-{text}"));
        Customization {
            users: vec![GuestUser {
                name: "ada".to_owned(),
                password: Some(secret("user")),
                ..GuestUser::default()
            }],
            domain_join: Some(DomainJoin {
                domain: "corp.example".to_owned(),
                user: "join".to_owned(),
                password: secret("join"),
                ou: None,
            }),
            windows: Some(WindowsSettings {
                administrator_password: Some(secret("admin")),
                product_key: Some(secret("key")),
                unattend: Some(secret("unattend")),
                ..WindowsSettings::default()
            }),
            user_data: Some(secret("data")),
            ..Customization::default()
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut customization = everything_secret();
        assert!(customization.has_secrets());
        assert_eq!(customization.secrets_mut().count(), 6);
        assert!(!format!("{customization:?}").contains("hunter2"));
        let shown = serde_json::to_string(&customization.clone().redacted()).unwrap();
        assert!(!shown.contains("hunter2") && shown.contains(SecretText::REDACTED), "{shown}");
        let without = customization.without_secrets();
        assert!(!without.has_secrets());
        assert!(!serde_json::to_string(&without).unwrap().contains("hunter2"));
    }

    /// Views of stored JSON find secrets by the names of their fields.
    #[test]
    fn every_secret_lies_in_a_field_named_as_one() {
        fn strip(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Object(map) => {
                    map.retain(|key, _| !Customization::SECRET_FIELDS.contains(&key.as_str()));
                    map.values_mut().for_each(strip);
                }
                serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
                _ => {}
            }
        }
        let mut value = serde_json::to_value(everything_secret()).unwrap();
        strip(&mut value);
        assert!(!value.to_string().contains("hunter2"), "{value}");
    }

    #[test]
    fn rules_read_as_documented() {
        let check = |text: &str, expected: ComputerName| {
            let rules: CustomizationRules = serde_json::from_str(text).unwrap();
            assert_eq!(rules.computer_name, expected, "{text}");
        };
        check("{}", ComputerName::VmName);
        check(r#"{"computer_name":"vm-name"}"#, ComputerName::VmName);
        check(r#"{"computer_name":{"fixed":"db"}}"#, ComputerName::Fixed("db".parse().unwrap()));
        check(
            r#"{"computer_name":{"numbered":{"prefix":"web-","digits":2}}}"#,
            ComputerName::Numbered { prefix: "web-".to_owned(), digits: 2 },
        );
        assert!(serde_json::from_str::<CustomizationRules>(r#"{"guset":{}}"#).is_err());
    }

    /// Definitions that an agent of the version before must read.
    #[test]
    fn what_is_not_used_is_not_written() {
        let text = serde_json::to_string(&Customization::default()).unwrap();
        assert_eq!(text, r#"{"users":[],"ssh_keys":[]}"#);
    }
}
