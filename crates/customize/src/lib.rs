//! What a guest is told of itself, as the files of its seed: pure text, made from a customization.
//!
//! `host` writes the files into a file system on the VM's datastore; `control` shows them without
//! their secrets. Nothing here does I/O, reads a clock or draws randomness: the same guest gives the
//! same bytes.
//!
//! * `nocloud`: Linux, for cloud-init (`meta-data`, `user-data`, `network-config`);
//! * `config_drive`: Windows, for Cloudbase-Init (`openstack/latest/…`);
//! * `unattend`: Windows Setup's own `unattend.xml`.
//!
//! JSON is what every YAML reader takes and nothing in a name or a key can break out of; what goes
//! into a shell, PowerShell or XML is quoted by one function each.

mod config_drive;
mod network;
mod nocloud;
mod run_once;
mod unattend;
mod user_data;

use hostler_types::{Customization, GuestOs, Name, NicSpec, VmId, WindowsDelivery};
use sha2::{Digest, Sha256};

pub use run_once::FAILED_FILE;

/// The guest that is told something.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    pub vm: VmId,
    pub name: &'a Name,
    /// With its secrets in clear.
    pub customization: &'a Customization,
    pub nics: &'a [NicSpec],
    /// By which the guest's report is recognised, see [`hash`]; empty: it is not told.
    pub hash: &'a str,
}

/// The files of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The file system's label: how the guest finds it.
    pub label: &'static str,
    pub files: Vec<SeedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Such as `openstack/latest/meta_data.json`.
    pub path: &'static str,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error(
        "user data that is a MIME message cannot be combined with anything else; put it into a part of the message"
    )]
    OwnMessage,
    /// It may be a secret, so nothing of it is said.
    #[error(
        "the user data is of no known kind; start it with `#cloud-config`, `#!`, `#include`, `#cloud-boothook` or `## template: jinja`"
    )]
    UnknownUserData,
    #[error("`{0}` has more than the 15 characters that a Windows computer name may have")]
    LongComputerName(Name),
    #[error("user data is not read by Windows Setup; deliver it by `config-drive`")]
    UserDataInUnattend,
}

/// The files that tell a guest who it is.
///
/// # Errors
/// User data that cannot be carried, or what the guest's system cannot be told.
pub fn render(guest: &Guest<'_>) -> Result<Seed, RenderError> {
    match guest.customization.os {
        GuestOs::Linux => nocloud::render(guest),
        GuestOs::Windows => {
            let windows = guest.customization.windows.as_ref();
            match windows.map(|windows| windows.delivery).unwrap_or_default() {
                WindowsDelivery::ConfigDrive => config_drive::render(guest),
                WindowsDelivery::Unattend => unattend::render(guest),
            }
        }
    }
}

/// What makes a guest apply its seed once: it does so when this differs from what it knows.
pub fn instance_id(vm: VmId, run: u32) -> String {
    match run {
        0 => vm.to_string(),
        run => format!("{vm}-{run}"),
    }
}

/// Identifies what a guest is told. `stored` has its secrets sealed, so the hash, which is shown,
/// tells nothing of them.
///
/// # Panics
/// When a customization has no JSON form, which none lacks.
pub fn hash(stored: &Customization, nics: &[NicSpec]) -> String {
    use std::fmt::Write as _;
    let addresses: Vec<_> = nics.iter().map(|nic| (&nic.name, &nic.mac, &nic.address)).collect();
    let text = serde_json::to_string(&(stored, addresses)).expect("it has a JSON form");
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(12).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Guest<'_> {
    fn hostname(&self) -> &Name {
        self.customization.hostname.as_ref().unwrap_or(self.name)
    }
    fn instance_id(&self) -> String {
        instance_id(self.vm, self.customization.run)
    }
}

impl Seed {
    fn new(label: &'static str, files: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let files = files.into_iter().map(|(path, text)| SeedFile { path, text }).collect();
        Self { label, files }
    }

    pub fn file(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }
}
