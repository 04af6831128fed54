//! The guests' images, each built once by `scripts/build-image` and kept outside the source tree.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where built images are kept.
pub fn cache_dir() -> PathBuf {
    let from = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    from("HOSTLER_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("hostler")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/hostler")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/hostler"))
}

/// The path of the tiny guest's qcow2; builds it if need be.
///
/// # Panics
/// When it cannot be built.
pub fn tiny_image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| build("tiny"))
}

/// The path of the Debian guest's qcow2, with cloud-init; builds it if need be.
///
/// # Panics
/// When it cannot be built.
pub fn debian_image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| build("debian"))
}

/// Where the machine lies that seals disks; built by [`build_appliance`].
pub fn appliance_dir() -> PathBuf {
    cache_dir().join("images/appliance")
}

/// Builds the machine that seals disks, if need be.
///
/// # Panics
/// When it cannot be built.
pub fn build_appliance() {
    assert_eq!(build("appliance"), appliance_dir());
}

fn build(kind: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/build-image");
    let output =
        Command::new(script).arg(kind).stderr(Stdio::inherit()).output().expect("it can be run");
    assert!(output.status.success(), "scripts/build-image {kind} failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
