//! The probe against the real QEMU and against programs that are none.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use hostler_qemu::{Credentials, DiskAio, ProbeError, ProbeOptions, probe};
use hostler_types::Accelerator;

#[tokio::test]
async fn qemu_runs_a_guest_here_one_way_or_the_other() {
    let credentials = if rustix::process::geteuid().is_root() {
        Credentials::User { uid: 1_900_000_009, gid: 1_900_000_009, groups: Vec::new() }
    } else {
        Credentials::Inherit
    };
    let options = ProbeOptions { credentials, ..ProbeOptions::default() };
    let found = probe(&options).await.unwrap();
    assert!(found.version.major >= 10, "{found:?}");
    assert_eq!(found.disk_aio, DiskAio::Ring, "Debian's QEMU is built with it");
    match found.accelerator {
        Accelerator::Kvm => assert_eq!(found.warning, None),
        Accelerator::Tcg => {
            let warning = found.warning.unwrap();
            assert!(warning.contains("/dev/kvm") && warning.contains("emulated"), "{warning}");
        }
    }
}

#[tokio::test]
async fn qemu_that_hangs_or_lies_is_an_error_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let check = async |script: &str, limit: u64| {
        let program = dir.path().join("qemu");
        let fresh = dir.path().join("qemu.new");
        fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&fresh, &program).unwrap();
        let limit = Duration::from_millis(limit);
        let options = ProbeOptions { program, credentials: Credentials::Inherit, limit };
        let begun = Instant::now();
        let error = probe(&options).await.unwrap_err();
        // KVM and emulation, each with its limit and the kill.
        assert!(begun.elapsed() < limit * 2 + Duration::from_secs(3), "{:?}", begun.elapsed());
        error
    };
    assert!(matches!(check("trap '' TERM; exec sleep 100", 200).await, ProbeError::Hang { .. }));
    let error = check("echo 'no such machine' >&2; exit 1", 3000).await;
    let text = error.to_string();
    assert!(text.contains("no such machine"), "{text}");

    let options = ProbeOptions { program: "/nonexistent".into(), ..ProbeOptions::default() };
    assert!(matches!(probe(&options).await, Err(ProbeError::Spawn(_))));
    assert!(!Path::new("/nonexistent").exists());
}
