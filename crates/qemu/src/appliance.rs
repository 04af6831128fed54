//! Runs the appliance: a machine of our own, without network, that works on a guest's disks so that
//! no kernel but its own ever looks at what is on them.
//!
//! It gets one script, as a firmware file, and says what came of it on one port. Both its disks and
//! what it says are as hostile as the guest whose disks they are: it runs as that guest's user, in
//! QEMU's sandbox, and for a bounded time; what it says is bounded here and parsed by the caller.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use hostler_types::Accelerator;
use serde_json::json;
use thiserror::Error;
use tokio::{io::AsyncReadExt, time::timeout};

use crate::{
    accel::{end, listening_socket, memory_file, read_log},
    argument::Arguments,
    devices,
    machine::MACHINE_TYPE,
    plan::{DiskPlan, PlanError},
    process::{Exit, Process},
    spawn::{ChildFd, Credentials, InheritedFds, Lifetime, Spawn, SpawnError},
};

/// As the tiny guest has it: half a second under emulation, and nothing that a machine which lives for
/// seconds would miss. A panic ends it.
const KERNEL_ARGUMENTS: &str = "quiet panic=-1 random.trust_cpu=on cryptomgr.notests rodata=off \
    mitigations=off nokaslr tsc=reliable no_timer_check";

/// What the appliance is run with.
#[derive(Debug)]
pub struct Appliance {
    /// The emulator.
    pub program: PathBuf,
    /// As the probe found it.
    pub accelerator: Accelerator,
    /// Its kernel and its initramfs; everybody may read them.
    pub kernel: File,
    /// See `kernel`.
    pub initrd: File,
    /// What it runs.
    pub script: String,
    /// In the order in which it sees them. Always on virtio-blk.
    pub disks: Vec<DiskPlan>,
    /// As whom QEMU runs; must be able to open the disks.
    pub credentials: Credentials,
    /// The files of the groups that QEMU joins.
    pub cgroup_files: Vec<OwnedFd>,
    /// How long all of it may take.
    pub limit: Duration,
    /// The most that it may say, in bytes.
    pub max_report: usize,
}

/// Why there is no report. The appliance has ended.
#[derive(Debug, Error)]
pub enum ApplianceError {
    /// A disk that no machine can have.
    #[error("its disks cannot be attached")]
    Plan(#[from] PlanError),
    /// What it is made of could not be opened.
    #[error("the appliance cannot be prepared")]
    Prepare(#[source] io::Error),
    /// QEMU does not start.
    #[error("the appliance does not start")]
    Spawn(#[from] SpawnError),
    /// It took too long.
    #[error("the appliance has not ended within {} s", limit.as_secs())]
    Hang {
        /// The limit.
        limit: Duration,
    },
    /// It said too much.
    #[error("the appliance says more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// QEMU ended otherwise than by the machine's power-off.
    #[error("QEMU ended with {exit:?}{}", said(log))]
    Ended {
        /// How it ended.
        exit: Exit,
        /// What QEMU wrote.
        log: String,
    },
}

fn said(log: &str) -> String {
    match log.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!(", saying: {}", hostler_qmp::guest::sanitize(line, 300)),
        None => String::new(),
    }
}

/// Kills QEMU when whoever waits for it goes away.
struct Killed(Process);

impl Drop for Killed {
    fn drop(&mut self) {
        if self.0.try_exited().is_none() {
            let _best_effort = self.0.kill();
        }
    }
}

impl Appliance {
    /// Runs it to its end; what it said.
    ///
    /// # Errors
    /// See [`ApplianceError`]. What it did to the disks until then is undefined.
    ///
    /// # Cancel safety
    /// Dropping the future kills QEMU.
    pub async fn run(self) -> Result<Vec<u8>, ApplianceError> {
        let (limit, most) = (self.limit, self.max_report);
        let mut log = memory_file("appliance-log").map_err(ApplianceError::Prepare)?;
        let (spawn, mut stream) = self.prepare(&log)?;
        // Not in a thread that may end: the kernel would kill QEMU with it.
        let killed = Killed(spawn.start()?);
        let process = &killed.0;
        let mut report = Vec::new();
        let talk = async {
            let mut limited = (&mut stream).take(most as u64 + 1);
            // Its end closes the connection.
            limited.read_to_end(&mut report).await.map_err(ApplianceError::Prepare)?;
            if report.len() > most {
                return Err(ApplianceError::TooLong { limit: most });
            }
            Ok(process.exited().await)
        };
        let outcome = timeout(limit, talk).await;
        if process.try_exited().is_none() {
            end(process).await;
        }
        match outcome {
            Err(_) => Err(ApplianceError::Hang { limit }),
            Ok(Ok(Exit::Code(0))) => Ok(report),
            Ok(Ok(exit)) => Err(ApplianceError::Ended { exit, log: read_log(&mut log) }),
            Ok(Err(error)) => Err(error),
        }
    }

    fn prepare(self, log: &File) -> Result<(Spawn, tokio::net::UnixStream), ApplianceError> {
        let failed = ApplianceError::Prepare;
        let (listener, stream) = listening_socket("appliance").map_err(failed)?;
        let mut script = memory_file("appliance-script").map_err(failed)?;
        script.write_all(self.script.as_bytes()).map_err(failed)?;
        let mut fds = InheritedFds::default();
        let report = fds.add(listener).map_err(failed)?;
        let kernel = fds.add(self.kernel).map_err(failed)?;
        let initrd = fds.add(self.initrd).map_err(failed)?;
        let script = fds.add(script).map_err(failed)?;
        let args = arguments(self.accelerator, &self.disks, report, [kernel, initrd, script])?;
        let spawn = Spawn {
            program: self.program,
            args,
            credentials: self.credentials,
            lifetime: Lifetime::WithParent,
            huge_pages: true,
            fds,
            cgroup_files: self.cgroup_files,
            log: log.try_clone().map_err(failed)?,
        };
        Ok((spawn, stream))
    }
}

fn arguments(
    accelerator: Accelerator,
    disks: &[DiskPlan],
    report: ChildFd,
    [kernel, initrd, script]: [ChildFd; 3],
) -> Result<Vec<OsString>, PlanError> {
    // A file's name under /proc opens it again, whatever directory it lies in.
    let path = |fd: ChildFd| format!("/proc/self/fd/{}", fd.number());
    let mut args = Arguments::default();
    args.plain("-name", "appliance,process=hostler-appliance");
    args.flag("-no-user-config");
    args.flag("-nodefaults");
    args.flag("-no-reboot");
    args.plain("-sandbox", crate::machine::SANDBOX);
    args.plain("-display", "none");
    args.plain("-machine", format!("{MACHINE_TYPE},vmport=off,dump-guest-core=off"));
    let (accelerator, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,tb-size=64", "max"),
    };
    args.plain("-accel", accelerator);
    args.plain("-cpu", cpu);
    args.plain("-m", "256M");
    args.plain("-kernel", path(kernel));
    args.plain("-initrd", path(initrd));
    args.plain("-append", KERNEL_ARGUMENTS);
    args.plain("-fw_cfg", format!("name=opt/hostler/script,file={}", path(script)));
    args.plain("-chardev", format!("socket,id=report,fd={},server=on,wait=off", report.number()));
    // The port comes last, so that all disks are there when it is.
    devices::disks::plain(&mut args, disks)?;
    args.device(&json!({ "driver": "virtio-serial-pci", "id": "ports" }));
    args.device(&json!({
        "driver": "virtserialport", "bus": "ports.0", "nr": 1, "chardev": "report",
        "name": "hostler.report",
    }));
    Ok(args.into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_no_network_and_no_monitor() {
        let fds = [65, 66, 67].map(ChildFd::from_number);
        let args = arguments(Accelerator::Tcg, &[], ChildFd::from_number(64), fds).unwrap();
        let text: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
        let text = text.join(" ");
        for absent in ["-netdev", "-nic", "-mon", "-qmp", "virtio-net"] {
            assert!(!text.contains(absent), "{text}");
        }
        assert!(text.contains("elevateprivileges=deny,spawn=deny"), "{text}");
        assert!(text.contains("file=/proc/self/fd/67"), "{text}");
    }
}
