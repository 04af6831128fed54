//! What is installed elsewhere: a tarball and a .deb with binary, units, completions, man pages, and
//! the appliance that seals disks where the agent looks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, root, run, target};

/// Where server and agent look for the appliance unless they are told another place.
const APPLIANCE: &str = "/usr/lib/hostler/appliance";

pub(crate) fn dist(binary: Option<PathBuf>) -> Result<()> {
    let binary = match binary {
        Some(binary) => binary,
        None => {
            run(cargo().args(["build", "--release", "--package", "hostler"]))?;
            target().join("release/hostler")
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    let architecture = debian_architecture()?;
    let dist = target().join("dist");
    let tree = dist.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    stage(&tree, &binary)?;

    let tarball = dist.join(format!("hostler-{version}-linux-{architecture}.tar.gz"));
    run(Command::new("tar")
        .args(["--create", "--gzip", "--owner=0", "--group=0", "--sort=name", "--file"])
        .arg(&tarball)
        .arg("--directory")
        .arg(&tree)
        .arg("."))?;

    let control = fs::read_to_string(root().join("packaging/control.in"))?
        .replace("@VERSION@", version)
        .replace("@ARCH@", &architecture);
    fs::create_dir_all(tree.join("DEBIAN"))?;
    fs::write(tree.join("DEBIAN/control"), control)?;
    let package = dist.join(format!("hostler_{version}_{architecture}.deb"));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&package))?;
    println!("{}\n{}", tarball.display(), package.display());
    Ok(())
}

/// Puts the appliance in place. It is GPL software from Debian: the list of the packages that it is
/// made of goes with it, by which their sources are found.
fn stage_appliance(tree: &Path, binary: &Path) -> Result<()> {
    let help = Command::new(binary).args(["agent", "run", "--help"]).output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    anyhow::ensure!(
        help.contains(&format!("[default: {APPLIANCE}]")),
        "`hostler agent run` does not look for the appliance in {APPLIANCE}"
    );
    let place = tree.join(APPLIANCE.trim_start_matches('/'));
    run(Command::new(root().join("scripts/build-image")).args(["appliance", "-o"]).arg(&place))?;
    for file in ["vmlinuz", "initrd", "packages"] {
        let size = fs::metadata(place.join(file)).map_or(0, |metadata| metadata.len());
        anyhow::ensure!(size > 0, "the appliance has no {file}");
    }
    Ok(())
}

/// Lays the files out as they are installed.
fn stage(tree: &Path, binary: &Path) -> Result<()> {
    install(binary, &tree.join("usr/bin/hostler"))?;
    for unit in ["hostler-server.service", "hostler-agent.service"] {
        let from = root().join("packaging").join(unit);
        install(&from, &tree.join("usr/lib/systemd/system").join(unit))?;
    }
    stage_appliance(tree, binary)?;
    for file in ["README.md", "CHANGELOG.md", "LICENSE"] {
        install(&root().join(file), &tree.join("usr/share/doc/hostler").join(file))?;
    }
    let completions = [
        ("bash", "usr/share/bash-completion/completions/hostler"),
        ("zsh", "usr/share/zsh/vendor-completions/_hostler"),
        ("fish", "usr/share/fish/vendor_completions.d/hostler.fish"),
    ];
    for (shell, path) in completions {
        let output = Command::new(binary).args(["completion", shell]).output()?;
        anyhow::ensure!(output.status.success(), "`hostler completion {shell}` failed");
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("a path below the tree")?)?;
        fs::write(path, output.stdout)?;
    }
    let pages = tree.join("usr/share/man/man1");
    fs::create_dir_all(&pages)?;
    run(Command::new(binary).arg("man").arg(&pages))
}

fn install(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a path below the tree")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn debian_architecture() -> Result<String> {
    let output = Command::new("dpkg").arg("--print-architecture").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
