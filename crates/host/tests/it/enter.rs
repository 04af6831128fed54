//! A network namespace for the test itself, so that what a test makes of networks neither meets
//! another's, nor outlives it. The agent's tests use this file too.

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Puts the calling thread, and what it starts, into a network of its own, with a `/sys` that shows
/// it, and the cgroups of the machine.
#[expect(unsafe_code, reason = "unsharing is unsafe where threads share the file table")]
pub(crate) fn enter() {
    // SAFETY: these flags leave the file table alone.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS).unwrap() };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let keep = tempfile::tempdir().unwrap();
    mount_bind_recursive(CGROUPS, keep.path()).unwrap();
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).unwrap();
    mount_bind_recursive(keep.path(), CGROUPS).unwrap();
    unmount(keep.path(), UnmountFlags::DETACH).unwrap();
    let up = ["link", "set", "lo", "up"];
    assert!(std::process::Command::new("ip").args(up).status().unwrap().success());
}
