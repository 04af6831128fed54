//! The machine itself: process-wide options, board, CPUs, memory, firmware.

use hostler_types::{Accelerator, ByteSize, MEMORY_STEP};
use serde_json::{Value, json};

use crate::{
    argument::{Arguments, escape, path_text},
    hotplug::MEMORY_DEVICE,
    plan::{FirmwarePlan, LaunchPlan, MAX_CPUS, MemoryPlan, PlanError, Start, pluggable},
};

/// The versioned board. A guest keeps it over QEMU updates, so a saved state stays loadable.
pub const MACHINE_TYPE: &str = "pc-q35-10.0";

/// What QEMU itself forbids its process.
pub(crate) const SANDBOX: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// What concerns the process rather than the guest.
pub(crate) fn process(args: &mut Arguments, plan: &LaunchPlan) {
    let name = escape(plan.name.as_str());
    args.plain("-name", format!("guest={name},process=vm-{name},debug-threads=on"));
    args.flag("-no-user-config");
    args.flag("-nodefaults");
    args.plain("-msg", "timestamp=on");
    args.plain("-sandbox", SANDBOX);
    args.plain("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", plan.qmp.number()));
    args.plain("-mon", "chardev=qmp,mode=control");
}

/// Board, accelerator, CPUs, memory and identity.
pub(crate) fn machine(args: &mut Arguments, plan: &LaunchPlan) -> Result<(), PlanError> {
    let memory = plan.memory.bytes();
    args.object(&memory_backend(plan.memory_file, memory));
    let mut machine = format!("{MACHINE_TYPE},memory-backend=ram0,vmport=off,dump-guest-core=off");
    if let FirmwarePlan::Uefi { .. } = plan.firmware {
        machine.push_str(",pflash0=uefi-code,pflash1=uefi-vars");
    }
    args.plain("-machine", machine);
    args.plain(
        "-accel",
        match plan.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        },
    );
    args.plain("-cpu", cpu(plan)?);
    args.plain("-smp", smp(plan.cpus.count(), plan.room.max_cpus)?);
    args.plain("-m", memory_option(plan.memory, plan.max_memory));
    args.plain("-uuid", plan.vm.uuid().to_string());
    let generation = plan.generation_id;
    args.device(&json!({ "driver": "vmgenid", "id": "vmgenid0", "guid": generation.to_string() }));
    Ok(())
}

/// Of x86, in bytes.
const HUGE_PAGE: u64 = 2 << 20;

/// The memory is a file by name, though nobody but this process and root finds it by that: QEMU
/// leaves nothing but named files out of a saved state. It is a memfd, so nothing is left of it when
/// its last user ends; and shared, so that it can be frozen, and that a vhost-user back end can join.
///
/// Huge pages need it to lie at a multiple of their size, which QEMU sees to for anonymous memory only.
fn memory_backend(file: MemoryPlan, size: u64) -> Value {
    let path = format!("/proc/self/fd/{}", file.file().number());
    let mut backend = json!({
        "qom-type": "memory-backend-file", "id": "ram0", "size": size, "mem-path": path,
        "share": true, "align": HUGE_PAGE,
    });
    if let MemoryPlan::Frozen(_) = file {
        backend["share"] = false.into();
        backend["readonly"] = true.into();
        // The file is read-only, the guest's memory is not.
        backend["rom"] = "off".into();
        // A clone that writes little needs little.
        backend["reserve"] = false.into();
    }
    backend
}

fn cpu(plan: &LaunchPlan) -> Result<String, PlanError> {
    if let (None, Some(baseline)) = (&plan.cpu_model, &plan.cpu_baseline) {
        return Ok(format!("{baseline},enforce=on"));
    }
    let model = match (&plan.cpu_model, plan.accelerator) {
        (None, Accelerator::Kvm) => return Ok("host,migratable=on".to_owned()),
        (None, Accelerator::Tcg) => return Ok("max".to_owned()),
        (Some(model), _) => model,
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if model.is_empty() || model.len() > 64 || !model.bytes().all(allowed) {
        return Err(PlanError::CpuModel(model.clone()));
    }
    Ok(model.clone())
}

/// One socket with all CPUs, those to come included.
fn smp(cpus: u32, max_cpus: u32) -> Result<String, PlanError> {
    let most = max_cpus.max(cpus);
    if most > MAX_CPUS {
        return Err(PlanError::TooManyCpus(most));
    }
    Ok(format!("cpus={cpus},maxcpus={most},sockets=1,cores={most},threads=1"))
}

fn memory_option(memory: ByteSize, max: Option<ByteSize>) -> String {
    let size = memory.bytes();
    match pluggable(memory, max) {
        Some(more) => format!("size={size}b,slots=16,maxmem={}b", size + more.bytes()),
        None => format!("size={size}b"),
    }
}

/// The device through which memory is added and taken away.
pub(crate) fn memory_device(args: &mut Arguments, plan: &LaunchPlan) {
    let Some(size) = pluggable(plan.memory, plan.max_memory) else { return };
    args.object(&json!({
        "qom-type": "memory-backend-memfd", "id": "ram1", "size": size.bytes(), "share": true,
        "reserve": false,
    }));
    args.device(&json!({
        "driver": "virtio-mem-pci", "id": MEMORY_DEVICE, "bus": "pcie.0", "addr": "0xa",
        "memdev": "ram1", "block-size": MEMORY_STEP,
        "requested-size": plan.room.plugged_memory.bytes(),
    }));
}

/// The firmware's flash. `SeaBIOS` needs none.
pub(crate) fn firmware(args: &mut Arguments, plan: &LaunchPlan) -> Result<(), PlanError> {
    // Only devices with a boot index are tried.
    args.plain("-boot", "strict=on");
    let FirmwarePlan::Uefi { code, vars } = &plan.firmware else { return Ok(()) };
    for (node, path, read_only) in [("uefi-code", code, true), ("uefi-vars", vars, false)] {
        let file = format!("{node}-file");
        args.blockdev(&json!({
            "driver": "file", "node-name": file, "filename": path_text(path)?,
            "read-only": read_only,
        }));
        args.blockdev(&json!({
            "driver": "raw", "node-name": node, "file": file, "read-only": read_only,
        }));
    }
    Ok(())
}

/// How the guest begins and ends.
///
/// QEMU stands still after the guest has shut down, until it is told to quit: so the reason is
/// known even if no agent was there to hear the event. A process that is gone without an order has
/// crashed or was killed.
pub(crate) fn start(args: &mut Arguments, plan: &LaunchPlan) {
    args.plain("-action", "shutdown=pause");
    match plan.start {
        Start::Boot => {}
        Start::Resume => args.plain("-incoming", "defer"),
        Start::Fork => {
            args.plain("-incoming", "defer");
            // Whoever loads it says when it runs.
            args.flag("-S");
        }
    }
}
