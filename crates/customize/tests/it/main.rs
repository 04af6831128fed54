//! What guests are told, word for word. `UPDATE_EXPECT=1` writes the golden files anew; read them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use expect_test::expect_file;
use hostler_customize::{Guest, RenderError, Seed, hash, instance_id, render};
use hostler_types::{
    Customization, DomainJoin, GuestOs, GuestUser, MacAddress, NetworkId, NicAddress, NicSpec,
    SecretText, VmId, WindowsDelivery, WindowsSettings,
};
use serde_json::{Value, json};

fn vm() -> VmId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn nic(number: u8, address: Option<NicAddress>) -> NicSpec {
    NicSpec {
        name: format!("nic{number}").parse().unwrap(),
        network: NetworkId::from_uuid(vm().uuid()),
        mac: MacAddress([0x52, 0x54, 0, 0, 0, number]),
        address,
        link: hostler_types::LinkState::Up,
    }
}

fn address(last: u8) -> NicAddress {
    NicAddress {
        address: [10, 7, 0, last].into(),
        prefix: 24,
        gateway: Some([10, 7, 0, 1].into()),
        dns: vec!["10.7.0.1".parse().unwrap()],
        search: vec!["lab.example".to_owned()],
    }
}

fn rendered(customization: &Customization, nics: &[NicSpec]) -> Result<Seed, RenderError> {
    let name = "web01".parse().unwrap();
    render(&Guest { vm: vm(), name: &name, customization, nics, hash: "c0ffee" })
}

fn text(seed: &Seed) -> String {
    let files = seed.files.iter().map(|file| format!("=== {}\n{}", file.path, file.text));
    format!("label: {}\n{}", seed.label, files.collect::<String>())
}

fn check(golden: &str, customization: &Customization, nics: &[NicSpec]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden);
    expect_file![path].assert_eq(&text(&rendered(customization, nics).unwrap()));
}

/// Everything that both systems know.
fn full() -> Customization {
    Customization {
        hostname: Some("db".parse().unwrap()),
        users: vec![
            GuestUser {
                name: "ada".to_owned(),
                ssh_keys: vec!["ssh-ed25519 AAAA ada@home".to_owned()],
                sudo: true,
                password: Some(SecretText::new("it's <secret> & \"quoted\"")),
            },
            GuestUser { name: "bob".to_owned(), ..GuestUser::default() },
        ],
        ssh_keys: vec!["ssh-ed25519 BBBB \": }]#x".to_owned()],
        time_zone: Some("Europe/Berlin".to_owned()),
        locale: Some("de_DE.UTF-8".to_owned()),
        packages: vec!["nginx".to_owned(), "jq".to_owned()],
        run_once: vec!["echo 'it'\\''s' >/tmp/x".to_owned(), "false".to_owned()],
        domain_join: Some(DomainJoin {
            domain: "corp.example.com".to_owned(),
            user: "join'er".to_owned(),
            password: SecretText::new("pass'word"),
            ou: Some("OU=Servers & more,DC=corp".to_owned()),
        }),
        run: 2,
        ..Customization::default()
    }
}

fn windows(delivery: WindowsDelivery) -> Customization {
    Customization {
        os: GuestOs::Windows,
        time_zone: Some("W. Europe Standard Time".to_owned()),
        locale: Some("de-DE".to_owned()),
        packages: Vec::new(),
        run_once: vec!["mkdir C:\\it's".to_owned()],
        windows: Some(WindowsSettings {
            delivery,
            administrator_password: Some(SecretText::new("admin<'>pass")),
            product_key: Some(SecretText::new("AAAAA-BBBBB-CCCCC-DDDDD-EEEEE")),
            owner: Some("Ada & Co".to_owned()),
            organization: Some("Example".to_owned()),
            ..WindowsSettings::default()
        }),
        ..full()
    }
}

#[test]
fn a_linux_guest_of_which_nothing_is_asked() {
    check("linux-default.txt", &Customization::default(), &[nic(0, None), nic(1, None)]);
}

#[test]
fn a_linux_guest_of_which_everything_is_asked() {
    check("linux-full.txt", &full(), &[nic(0, Some(address(50))), nic(1, Some(address(51)))]);
}

#[test]
fn windows_by_config_drive() {
    let nics = [nic(0, Some(address(50))), nic(1, None)];
    check("windows-config-drive.txt", &windows(WindowsDelivery::ConfigDrive), &nics);
}

#[test]
fn windows_by_unattend() {
    let nics = [nic(0, Some(address(50))), nic(1, None)];
    check("windows-unattend.txt", &windows(WindowsDelivery::Unattend), &nics);
    let mut workgroup = windows(WindowsDelivery::Unattend);
    workgroup.domain_join = None;
    let seed = rendered(&workgroup, &[]).unwrap();
    let text = seed.file("unattend.xml").unwrap();
    assert!(text.contains("<JoinWorkgroup>WORKGROUP</JoinWorkgroup>"), "{text}");
}

#[test]
fn an_unattend_of_ones_own_is_passed_on() {
    let mut customization = windows(WindowsDelivery::Unattend);
    let own = "<unattend>mine</unattend>";
    customization.windows.as_mut().unwrap().unattend = Some(SecretText::new(own));
    let seed = rendered(&customization, &[]).unwrap();
    assert_eq!(seed.file("Autounattend.xml"), Some(own));
    customization.user_data = Some(SecretText::new("#ps1\n"));
    assert_eq!(rendered(&customization, &[]), Err(RenderError::UserDataInUnattend));
    let mut long = windows(WindowsDelivery::Unattend);
    long.hostname = Some("a-name-of-17-char".parse().unwrap());
    assert!(matches!(rendered(&long, &[]), Err(RenderError::LongComputerName(_))));
}

/// What a guest's parser would see, by a YAML reader of another make than our writer.
#[test]
fn no_name_or_key_breaks_out_of_the_yaml() {
    let seed = rendered(&full(), &[nic(0, Some(address(50)))]).unwrap();
    let yaml = |path: &str| -> Value { serde_saphyr::from_str(seed.file(path).unwrap()).unwrap() };
    assert_eq!(yaml("meta-data")["public-keys"][0], full().ssh_keys[0].as_str());
    let config = yaml("user-data");
    assert_eq!(config["users"][0], "default");
    assert_eq!(config["users"][1]["plain_text_passwd"], "it's <secret> & \"quoted\"");
    let network = yaml("network-config");
    assert_eq!(network["ethernets"]["nic0"]["addresses"], json!(["10.7.0.50/24"]));
}

#[test]
fn a_crypted_password_is_passed_on_as_one() {
    let entry = |password: &str| {
        let user = GuestUser {
            name: "ada".to_owned(),
            password: Some(SecretText::new(password)),
            ..GuestUser::default()
        };
        let customization = Customization { users: vec![user], ..Customization::default() };
        let seed = rendered(&customization, &[]).unwrap();
        let config: Value = serde_saphyr::from_str(seed.file("user-data").unwrap()).unwrap();
        config["users"][1].clone()
    };
    assert_eq!(entry("$6$salt$hash")["passwd"], "$6$salt$hash");
    for clear in ["$6$", "$$$", "dollar$6$salt$hash", "$x$a$b"] {
        assert_eq!(entry(clear)["plain_text_passwd"], clear);
    }
}

/// The script says which command failed, with what exit code and why, and ends there.
#[test]
fn the_script_stops_at_the_first_command_that_fails() {
    let said = "run-once command 2 failed with exit code 3: no such thing\n";
    check_failing("echo 'no such thing' >&2; exit 3", said);
    check_failing("exit 3", "run-once command 2 failed with exit code 3\n");
}

fn check_failing(command: &str, told: &str) {
    let customization = Customization {
        run_once: vec![
            "echo one >>$OUT".to_owned(),
            command.to_owned(),
            "echo three >>$OUT".to_owned(),
        ],
        ..Customization::default()
    };
    let seed = rendered(&customization, &[]).unwrap();
    let config: Value = serde_saphyr::from_str(seed.file("user-data").unwrap()).unwrap();
    let lines = config["runcmd"].as_array().unwrap();
    let script: String = lines.iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect();
    let directory = std::env::temp_dir().join(format!("hostler-run-once-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let place = directory.display().to_string();
    let script = script.replace("/var/lib/hostler", &place).replace("/run/", &format!("{place}/"));
    let out = directory.join("out");
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(&script).env("OUT", &out).stdout(std::process::Stdio::null());
    let status = shell.status().unwrap();
    let failed = std::fs::read_to_string(directory.join("customization-failed")).unwrap();
    let ran = std::fs::read_to_string(&out).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!((status.code(), ran.as_str()), (Some(3), "one\n"));
    assert_eq!(failed, told);
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
    let alone = rendered(&customization, &[nic(0, None)]).unwrap();
    assert_eq!(alone.file("user-data"), Some(own));
    assert_eq!(alone.file("network-config"), Some(network));

    customization.users = vec![GuestUser { name: "ada".to_owned(), ..GuestUser::default() }];
    let seed = rendered(&customization, &[]).unwrap();
    let both = seed.file("user-data").unwrap();
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
        let user = GuestUser { name: "ada".to_owned(), ..GuestUser::default() };
        let customization = Customization {
            user_data: Some(SecretText::new(text)),
            users: if users { vec![user] } else { vec![] },
            ..Customization::default()
        };
        rendered(&customization, &[])
    };
    assert!(check("#!/bin/sh\ntrue\n", true).is_ok());
    assert!(check("MIME-Version: 1.0\n\n", false).is_ok());
    assert_eq!(check("MIME-Version: 1.0\n\n", true), Err(RenderError::OwnMessage));
    let error = check("hostname: x\n", false).unwrap_err().to_string();
    assert!(error.contains("#cloud-config"), "{error}");
}

#[test]
fn the_hash_follows_what_is_told() {
    let of = |customization: &Customization, nics: &[NicSpec]| hash(customization, nics);
    let same = of(&full(), &[nic(0, None)]);
    assert_eq!(same, of(&full(), &[nic(0, None)]));
    assert_eq!(same.len(), 24);
    assert_ne!(same, of(&full(), &[nic(0, Some(address(50)))]));
    assert_ne!(same, of(&Customization { run: 3, ..full() }, &[nic(0, None)]));
    assert_eq!(instance_id(vm(), 0), vm().to_string());
    assert_eq!(instance_id(vm(), 2), format!("{}-2", vm()));
}
