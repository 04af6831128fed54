//! The only crate that knows QEMU: from a plan to a command line, from a command line to a
//! process, and what is asked of a running one.
//!
//! The agent calls it; it decides nothing about VMs, files or networks and touches no file but
//! `/proc` and what it is handed.
//!
//! The way of a start, in the agent's words:
//!
//! ```no_run
//! # use std::{fs::File, path::PathBuf, time::Duration};
//! # use hostler_qemu::*;
//! # async fn example(plan: impl Fn(ChildFd) -> LaunchPlan, listener: std::os::fd::OwnedFd,
//! #     stream: tokio::net::UnixStream, credentials: Credentials, log: File)
//! #     -> Result<(), Box<dyn std::error::Error>> {
//! // 1. Everything QEMU shall hold is opened by the agent; a descriptor keeps its number.
//! let mut fds = InheritedFds::default();
//! let qmp_socket = fds.add(listener)?;
//! // 2. The plan becomes a command line.
//! let args = command_line(&plan(qmp_socket))?;
//! // 3. The process; it outlives the agent.
//! let spawn = Spawn { program: PathBuf::from(QEMU), args, credentials, lifetime: Lifetime::Detached,
//!     huge_pages: true, fds, cgroup_files: Vec::new(), log };
//! let process = spawn.start()?;
//! // 4. Its monitor. The stream was connected to the listener before.
//! let (qmp, mut events) = hostler_qmp::Qmp::connect(stream, Default::default()).await?;
//! // 5. After the guest has shut down, QEMU stands still until it is told to end.
//! let cause = events.wait_for(Duration::MAX, |event| match event {
//!     hostler_qmp::event::Event::Shutdown(shutdown) => Some(shutdown.reason.clone()),
//!     _ => None,
//! }).await?;
//! power_off(&qmp, &process).await?;
//! # Ok(()) }
//! ```
//!
//! * [`LaunchPlan`], [`command_line`]: the machine, device by device.
//! * [`Spawn`], [`Process`]: a detached process, found again by pid and start time.
//! * [`probe`]: which accelerator really runs guests here.
//! * [`Appliance`]: a machine of our own that works on a guest's disks.
//! * [`hotplug`]: what is changed in a running machine.
//! * [`add_layers`], [`add_layers_and_save`], [`BlockJob`]: its disks' layers, put on and merged.
//! * [`fork`]: other machines go on from where one is.
//! * [`migrate`]: a guest goes on in a machine on another host.
//! * [`power_off`], [`suspend_to`], [`resume_from`], [`screenshot`]: what a running machine can do.

mod accel;
mod appliance;
mod argument;
mod block_job;
mod command_line;
mod devices;
mod fixed;
pub mod fork;
pub mod hotplug;
mod machine;
pub mod migrate;
mod names;
mod pace;
mod plan;
mod process;
mod snapshot;
mod spawn;
mod vm;

pub use accel::{Probe, ProbeError, ProbeOptions, probe};
pub use appliance::{Appliance, ApplianceError};
pub use block_job::{BlockJob, Commit, Copied, Mirror, Stream, jobs, set_rate};
pub use command_line::command_line;
pub use fixed::{FixedFile, point_to};
pub use machine::MACHINE_TYPE;
pub use names::{cdrom_id, disk_id, layer_file_node, layer_node, netdev_id, nic_id};
pub use plan::{
    CdromPlan, DiskAio, DiskCache, DiskPlan, FirmwarePlan, LaunchPlan, LayerPlan, MemoryPlan,
    NicPlan, PlanError, PortKind, PortPlan, Room, Start,
};
pub use process::{Exit, Process, ProcessError, start_time};
pub use snapshot::{
    MemorySaved, NewLayer, active_nodes, add_layers, add_layers_and_save, close_nodes, flush_layer,
    open_for_writing, rehearse_saving,
};
pub use spawn::{ChildFd, Credentials, InheritedFds, Lifetime, Spawn, SpawnError};
pub use vm::{
    GUEST_AGENT_PORT, MonitorError, SavedState, go_on, power_off, resume_from, screenshot,
    suspend_to,
};

/// Where Debian's package puts the emulator.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
