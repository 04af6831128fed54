//! The NoCloud seed: a small FAT file system labelled `CIDATA` that tells a guest who it is.
//!
//! - `meta-data`: instance id, host name, and the keys of the image's default user;
//! - `user-data`: the users to make, and whatever user data the VM was given;
//! - `network-config`: version 2; DHCP on each NIC, found by its MAC, unless given.
//!
//! All are generated as JSON, which every YAML reader takes and which nothing in a name or a key
//! can break out of. User data of one's own is passed on byte for byte: alone, or as the second
//! part of a MIME message whose first part is ours. (Reading and writing it again would change it:
//! cloud-init reads YAML 1.1, where `no` is false and `0644` octal.) The instance id is the VM's
//! id, so that a guest is told once, at its first boot.

use std::fs;
use std::io::{self, Cursor, Write};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use hostler_types::{Customization, GuestUser, Name, NicSpec, VmId};
use serde_json::{Value, json};

use crate::datastore::{DatastoreError, VmDir};
use crate::file::{Access, write_atomic};
use crate::uid::VmUid;

/// What goes into a seed.
#[derive(Debug, Clone, Copy)]
pub struct SeedInput<'a> {
    pub vm: VmId,
    pub name: &'a Name,
    pub customization: &'a Customization,
    pub nics: &'a [NicSpec],
}

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error(
        "user data that is a MIME message cannot be combined with users; put them into a part of the message"
    )]
    OwnMessage,
    #[error(
        "user data that starts with `{}` is not known; start it with `#cloud-config`, `#!`, `#include`, `#cloud-boothook` or `## template: jinja`",
        .0.escape_debug()
    )]
    UnknownUserData(String),
    #[error("cannot make the seed's file system")]
    Format(#[source] io::Error),
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes the seed of a VM, replacing an older one. Only the VM's user may read it: it may hold
/// secrets.
///
/// # Errors
/// User data that cannot be carried, or a datastore that cannot be written.
pub fn write(vm: &VmDir, input: &SeedInput<'_>, owner: VmUid) -> Result<(), SeedError> {
    let bytes = build(input)?;
    vm.datastore().check()?;
    let path = vm.seed();
    let access = Access { mode: 0o600, uid: owner.uid(), gid: owner.gid() };
    write_atomic(&path, &bytes, access).map_err(|source| SeedError::Write { path, source })
}

/// Removes the seed, if there is one.
///
/// # Errors
/// The datastore is not mounted or read-only.
pub fn remove(vm: &VmDir) -> Result<(), SeedError> {
    vm.datastore().check()?;
    let path = vm.seed();
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| SeedError::Write { path, source }),
    }
}

/// The bytes of the seed's file system. The same input gives the same bytes.
///
/// # Errors
/// User data that cannot be carried.
pub fn build(input: &SeedInput<'_>) -> Result<Vec<u8>, SeedError> {
    let files = [
        ("meta-data", meta_data(input)),
        ("user-data", user_data(input)?),
        ("network-config", network_config(input)),
    ];
    file_system(&files, volume_id(input.vm)).map_err(SeedError::Format)
}

fn meta_data(input: &SeedInput<'_>) -> String {
    let hostname = input.customization.hostname.as_ref().unwrap_or(input.name);
    let mut data = json!({ "instance-id": input.vm, "local-hostname": hostname });
    if !input.customization.ssh_keys.is_empty() {
        data["public-keys"] = json!(input.customization.ssh_keys);
    }
    format!("{data:#}\n")
}

fn network_config(input: &SeedInput<'_>) -> String {
    if let Some(config) = &input.customization.network_config {
        return config.clone();
    }
    let ethernets: serde_json::Map<String, Value> = (input.nics.iter())
        .map(|nic| {
            let settings = json!({ "match": { "macaddress": nic.mac }, "dhcp4": true });
            (nic.name.to_string(), settings)
        })
        .collect();
    format!("{:#}\n", json!({ "version": 2, "ethernets": ethernets }))
}

fn user_data(input: &SeedInput<'_>) -> Result<String, SeedError> {
    let users = &input.customization.users;
    let own = input.customization.user_data.as_ref().map(|text| text.reveal());
    match own {
        None => Ok(cloud_config(users)),
        // Nothing to add, so nothing is touched.
        Some(own) if users.is_empty() => {
            content_type(own)?;
            Ok(own.to_owned())
        }
        Some(own) => message(&cloud_config(users), own),
    }
}

/// Our part. The list starts with the image's default user, which would be missing otherwise.
fn cloud_config(users: &[GuestUser]) -> String {
    let mut config = json!({});
    if !users.is_empty() {
        let list = std::iter::once(json!("default")).chain(users.iter().map(user));
        config["users"] = list.collect();
    }
    format!("#cloud-config\n{config:#}\n")
}

fn user(user: &GuestUser) -> Value {
    let mut entry = json!({
        "name": user.name,
        "shell": "/bin/bash",
        "lock_passwd": true,
        "ssh_authorized_keys": user.ssh_keys,
    });
    if user.sudo {
        entry["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL");
    }
    entry
}

/// The media type by which cloud-init treats a part, from its first line, as cloud-init does.
fn content_type(text: &str) -> Result<&'static str, SeedError> {
    const STARTS: [(&str, &str); 7] = [
        ("#cloud-config-archive", "text/cloud-config-archive"),
        ("#cloud-config", "text/cloud-config"),
        ("#cloud-boothook", "text/cloud-boothook"),
        ("#include", "text/x-include-url"),
        ("## template: jinja", "text/jinja2"),
        ("#!", "text/x-shellscript"),
        ("Content-Type:", "message/rfc822"),
    ];
    let start = text.trim_start();
    if start.starts_with("MIME-Version:") {
        return Ok("message/rfc822");
    }
    let found = STARTS.iter().find(|(prefix, _)| start.starts_with(prefix));
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        SeedError::UnknownUserData(
            start.lines().next().unwrap_or_default().chars().take(40).collect(),
        )
    })
}

/// A MIME message of two parts. They are in base64, so that no text can end its part early.
fn message(ours: &str, own: &str) -> Result<String, SeedError> {
    const BOUNDARY: &str = "==hostler==";
    let own_type = content_type(own)?;
    if own_type == "message/rfc822" {
        return Err(SeedError::OwnMessage);
    }
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for (kind, content) in [("text/cloud-config", ours), (own_type, own)] {
        text.push_str(&format!(
            "--{BOUNDARY}\nContent-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: base64\n"
        ));
        // Lists of both are joined; without this, the later `users` would replace ours.
        text.push_str("Merge-Type: list(append)+dict(no_replace,recurse_list)+str()\n\n");
        for line in STANDARD.encode(content).as_bytes().chunks(76) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
    }
    text.push_str(&format!("--{BOUNDARY}--\n"));
    Ok(text)
}

fn file_system(files: &[(&str, String)], volume_id: u32) -> io::Result<Vec<u8>> {
    const SECTOR: usize = 512;
    const CLUSTER: u32 = 2048;
    // Room for the tables, the directory, and each file's last cluster.
    let content: usize = files.iter().map(|(_, text)| text.len() + 4096).sum();
    let length = (content + content / 64 + (64 << 10)).next_multiple_of(64 << 10);
    let sectors = u32::try_from(length / SECTOR).map_err(io::Error::other)?;
    let mut disk = Cursor::new(vec![0; length]);
    let options = FormatVolumeOptions::new()
        .total_sectors(sectors)
        .bytes_per_cluster(CLUSTER)
        .max_root_dir_entries(64)
        .volume_id(volume_id)
        .volume_label(*b"CIDATA     ");
    format_volume(&mut disk, options)?;
    {
        let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
        for (name, text) in files {
            let mut file = file_system.root_dir().create_file(name)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
        file_system.unmount()?;
    }
    Ok(disk.into_inner())
}

fn volume_id(vm: VmId) -> u32 {
    let [.., a, b, c, d] = *vm.uuid().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    use hostler_types::{MacAddress, NetworkId, SecretText};

    fn files(customization: &Customization) -> BTreeMap<String, String> {
        let vm: VmId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let nic = |number: u8| NicSpec {
            name: format!("nic{number}").parse().unwrap(),
            network: NetworkId::generate(),
            mac: MacAddress([0x52, 0x54, 0, 0, 0, number]),
            address: None,
            link: hostler_types::LinkState::Up,
        };
        let name = "web01".parse().unwrap();
        let nics = [nic(0), nic(1)];
        let bytes = build(&SeedInput { vm, name: &name, customization, nics: &nics }).unwrap();
        let file_system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        assert_eq!(file_system.read_volume_label_from_root_dir().unwrap().unwrap(), "CIDATA");
        let read = |entry: io::Result<fatfs::DirEntry<'_, Cursor<Vec<u8>>>>| {
            let entry = entry.unwrap();
            let mut text = String::new();
            entry.to_file().read_to_string(&mut text).unwrap();
            (entry.file_name(), text)
        };
        let root = file_system.root_dir();
        root.iter().map(read).collect()
    }

    /// What a guest's parser would see, by a YAML reader of another make than our writer.
    fn yaml(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_guest_is_told_its_name_and_dhcp() {
        let files = files(&Customization::default());
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["meta-data", "network-config", "user-data"]);
        let meta = yaml(&files["meta-data"]);
        assert_eq!(meta["local-hostname"], "web01");
        assert_eq!(meta["instance-id"], "01890a5d-ac96-774b-bcce-b302099a8057");
        let network = yaml(&files["network-config"]);
        assert_eq!(network["version"], 2);
        assert_eq!(network["ethernets"]["nic1"]["match"]["macaddress"], "52:54:00:00:00:01");
        assert_eq!(network["ethernets"]["nic0"]["dhcp4"], true);
        assert_eq!(files["user-data"], "#cloud-config\n{}\n");
    }

    #[test]
    fn users_and_keys_are_told_and_cannot_break_out() {
        let key = "ssh-ed25519 AAAA \": }]\n#x";
        let customization = Customization {
            hostname: Some("db".parse().unwrap()),
            ssh_keys: vec![key.to_owned()],
            users: vec![GuestUser {
                name: "ada".into(),
                ssh_keys: vec![key.into()],
                sudo: true,
                password: None,
            }],
            ..Customization::default()
        };
        let files = files(&customization);
        let meta = yaml(&files["meta-data"]);
        assert_eq!((&meta["local-hostname"], &meta["public-keys"][0]), (&json!("db"), &json!(key)));
        assert!(files["user-data"].starts_with("#cloud-config\n"));
        let config = yaml(&files["user-data"]);
        assert_eq!(config["users"][0], "default");
        assert_eq!(config["users"][1]["name"], "ada");
        assert_eq!(config["users"][1]["ssh_authorized_keys"][0], key);
        assert_eq!(config["users"][1]["sudo"], "ALL=(ALL) NOPASSWD:ALL");
    }

    #[test]
    fn own_data_is_passed_on_byte_for_byte() {
        let own = "#cloud-config\nwrite_files:\n- {path: /x, permissions: 0644}\n--==hostler==--\n";
        let network = "version: 2\nethernets: {}\n";
        let mut customization = Customization {
            user_data: Some(SecretText::new(own)),
            network_config: Some(network.to_owned()),
            ..Customization::default()
        };
        let alone = files(&customization);
        assert_eq!((alone["user-data"].as_str(), alone["network-config"].as_str()), (own, network));

        customization.users =
            vec![GuestUser { name: "ada".into(), ssh_keys: vec![], sudo: false, password: None }];
        let both = &files(&customization)["user-data"];
        let parts: Vec<&str> = both.split("--==hostler==\n").collect();
        assert_eq!(parts.len(), 3, "{both}");
        let body = |part: &str| {
            let (_, body) = part.split_once("\n\n").unwrap();
            let encoded: String = body.lines().filter(|line| !line.starts_with("--")).collect();
            String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
        };
        assert!(body(parts[1]).contains("\"ada\""));
        assert_eq!(body(parts[2]), own);
        assert!(parts[2].starts_with("Content-Type: text/cloud-config;"));
    }

    #[test]
    fn user_data_that_no_guest_would_read_is_refused() {
        let check = |text: &str, users: bool| {
            let user =
                GuestUser { name: "ada".into(), ssh_keys: vec![], sudo: false, password: None };
            let customization = Customization {
                user_data: Some(SecretText::new(text)),
                users: if users { vec![user] } else { vec![] },
                ..Customization::default()
            };
            let name = "web01".parse().unwrap();
            let vm = VmId::generate();
            build(&SeedInput { vm, name: &name, customization: &customization, nics: &[] })
        };
        assert!(check("#!/bin/sh\ntrue\n", true).is_ok());
        assert!(check("MIME-Version: 1.0\n\n", false).is_ok());
        assert!(matches!(check("MIME-Version: 1.0\n\n", true), Err(SeedError::OwnMessage)));
        let error = check("hostname: x\n", false).unwrap_err().to_string();
        assert!(error.contains("#cloud-config"), "{error}");
    }

    #[test]
    fn large_data_fits() {
        let own = format!("#cloud-config\n# {}\n", "x".repeat(512 * 1024));
        let customization = Customization {
            user_data: Some(SecretText::new(own.clone())),
            network_config: Some(own.clone()),
            users: vec![GuestUser {
                name: "ada".into(),
                ssh_keys: vec![],
                sudo: false,
                password: None,
            }],
            ..Customization::default()
        };
        let files = files(&customization);
        assert_eq!(files["network-config"], own);
        assert!(files["user-data"].len() > own.len());
    }
}
