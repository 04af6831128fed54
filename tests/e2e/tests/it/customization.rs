//! Guests that prove what they were made to be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hostler_e2e::Instance;
use serde_json::Value;

const PASSWORD: &str = "canary-4e1d7b";

/// A file with a spec that says all that both kinds of guests know.
fn spec(hostler: &Instance, more: &str) -> String {
    let path = hostler.path().join("spec.yaml");
    let text = format!(
        "computer_name: {{numbered: {{prefix: web-, digits: 2}}}}\n\
         networks: [pool]\n\
         guest:\n\
         \x20 users: [{{name: ada, sudo: true, password: {PASSWORD}}}]\n{more}"
    );
    fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

fn status(hostler: &Instance) -> Value {
    hostler.json(&["vm", "show", "web01"])["status"]["customization"].clone()
}

/// The files below a folder that hold the password.
fn holds(folder: &Path) -> Vec<PathBuf> {
    let output = std::process::Command::new("grep").args(["-rlaF", PASSWORD]).arg(folder).output();
    String::from_utf8_lossy(&output.unwrap().stdout).lines().map(PathBuf::from).collect()
}

#[test]
fn qemu_a_guest_proves_its_customization_or_says_why_not() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["network", "set", "default", "--pool", "10.77.0.50-10.77.0.59"]);
    let file = spec(&hostler, "\x20 run_once: ['hostname >/root/proof']\n");
    hostler.ok(&["customization", "create", "web", "-f", &file]);
    fs::remove_file(&file).unwrap();
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"];
    let start = ["--spec", "web", "--start", "--wait=customized", "--timeout", "3m"];
    hostler.ok(&[&create[..], &start].concat());

    let applied = status(&hostler);
    assert_eq!((&applied["state"], &applied["run"]), (&"applied".into(), &0.into()), "{applied}");
    assert_eq!(applied["spec"]["generation"], 1);
    assert_eq!(applied["hash"].as_str().unwrap().len(), 24);
    let exec = |command: &str| hostler.ok(&["vm", "exec", "web01", "--", "sh", "-c", command]);
    assert_eq!(exec("cat /root/proof").trim(), "web-01");
    assert!(exec("ip addr").contains("10.77.0.50/24"));
    // Once it is proved, nothing on this machine knows the password in clear, and the seed is the
    // VM's alone.
    assert_eq!(holds(hostler.path()), Vec::<PathBuf>::new());
    let seeds = fs::read_dir(hostler.datastore().join("vms")).unwrap();
    for vm in seeds {
        let mode = fs::metadata(vm.unwrap().path().join("seed.img")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // A command that fails: the guest's own reason comes out at the command's end.
    let broken = ["--set", "run=echo no such thing >&2; exit 7", "--reboot"];
    let wait = ["--wait=customized", "--timeout", "3m"];
    let customize = ["vm", "customize", "web01"];
    let failed = hostler.fails(1, &[&customize[..], &broken, &wait].concat());
    assert!(failed.contains("command 2 failed with exit code 7: no such thing"), "{failed}");
    let failed = status(&hostler);
    assert_eq!((&failed["state"], &failed["run"]), (&"failed".into(), &1.into()), "{failed}");
    // Its cause gone, it is customized again, under the next number and the same address.
    hostler.ok(&[&customize[..], &["--spec", "web", "--reboot"], &wait].concat());
    let again = status(&hostler);
    assert_eq!((&again["state"], &again["run"]), (&"applied".into(), &2.into()), "{again}");
    assert!(exec("ip addr").contains("10.77.0.50/24"));
}

/// cloud-init itself, in the image that is for people.
#[test]
#[ignore = "two boots of Debian under emulation: four minutes"]
fn qemu_a_debian_guest_proves_its_customization() {
    let hostler = Instance::start();
    let image = hostler_e2e::debian_image().to_string_lossy().into_owned();
    hostler.ok(&["image", "import", "debian-12", &image]);
    hostler.ok(&["network", "set", "default", "--pool", "10.77.0.50-10.77.0.59"]);
    let more = "\x20 time_zone: Europe/Berlin\n\x20 run_once: ['touch /root/one', 'echo broken >&2; exit 3']\n";
    let file = spec(&hostler, more);
    hostler.ok(&["customization", "create", "web", "-f", &file]);
    let create = ["vm", "create", "web01", "--image", "debian-12", "--memory", "1GiB"];
    let start = ["--spec", "web", "--start", "--wait=customized", "--timeout", "8m"];
    let failed = hostler.fails(1, &[&create[..], &start].concat());
    assert!(failed.contains("run-once command 2 failed with exit code 3: broken"), "{failed}");

    let good = spec(&hostler, &more.replace("exit 3", "true"));
    hostler.ok(&["customization", "set", "web", "-f", &good]);
    let customize = ["vm", "customize", "web01", "--spec", "web", "--reboot"];
    hostler.ok(&[&customize[..], &["--wait=customized", "--timeout", "8m"]].concat());
    let applied = status(&hostler);
    assert_eq!((&applied["state"], &applied["spec"]["generation"]), (&"applied".into(), &2.into()));
    let exec = |command: &str| hostler.ok(&["vm", "exec", "web01", "--", "sh", "-c", command]);
    let told = exec(
        "hostname; readlink -f /etc/localtime; id -un ada; ip -4 -o addr; cat /etc/resolv.conf",
    );
    for word in ["web-0", "Europe/Berlin", "ada", "10.77.0.50/24", "nameserver 10.77.0.1"] {
        assert!(told.contains(word), "no `{word}` in {told}");
    }
}
