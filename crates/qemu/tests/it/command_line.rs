//! Whole command lines as they are, and hostile values that must stay values.

use std::path::PathBuf;

use expect_test::expect_file;
use hostler_qemu::{
    CdromPlan, ChildFd, DiskAio, DiskCache, DiskPlan, FirmwarePlan, LaunchPlan, LayerPlan,
    MemoryPlan, NicPlan, PlanError, Room, Start, command_line,
};
use hostler_types::{Accelerator, BootDevice, ByteSize, Cores, DiskBus, Id, MacAddress};
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

/// A small VM: one disk on an image, one NIC, a seed.
pub(crate) fn small() -> LaunchPlan {
    LaunchPlan {
        vm: Id::from_uuid(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001)),
        name: "web01".parse().unwrap(),
        accelerator: Accelerator::Tcg,
        cpu_model: None,
        cpu_baseline: None,
        cpus: Cores::ONE,
        memory: ByteSize::mib(256),
        memory_file: MemoryPlan::Shared(ChildFd::from_number(67)),
        max_memory: LaunchPlan::free_max_memory(ByteSize::mib(256)),
        room: Room::for_cpus(Cores::ONE),
        firmware: FirmwarePlan::Bios,
        boot_order: vec![BootDevice::Disk, BootDevice::Cdrom],
        disks: vec![disk("root", DiskBus::VirtioBlk, Some("/ds/images/i.qcow2"))],
        cdroms: vec![],
        nics: vec![nic("eth0", 70)],
        seed: Some("/ds/vms/x/seed.img".into()),
        qmp: ChildFd::from_number(64),
        guest_agent: ChildFd::from_number(65),
        serial: ChildFd::from_number(66),
        vnc: "/run/hostler/agent/vms/x/vnc/sock".into(),
        start: Start::Boot,
        generation_id: Uuid::from_u128(7),
    }
}

fn disk(name: &str, bus: DiskBus, backing: Option<&str>) -> DiskPlan {
    let layer = |node: String, path: String, shared| LayerPlan { node, path: path.into(), shared };
    let active = layer(format!("l-{name}"), format!("/ds/vms/x/{name}.qcow2"), false);
    let base = backing.map(|path| layer(format!("l-{name}-base"), path.to_owned(), true));
    DiskPlan {
        name: name.parse().unwrap(),
        layers: [active].into_iter().chain(base).collect(),
        bus,
        lun: None,
        read_only: false,
        cache: DiskCache::PageCache,
    }
}

fn nic(name: &str, fd: i32) -> NicPlan {
    let mac = MacAddress::from_suffix([1, 2, u8::try_from(fd).unwrap()]);
    NicPlan { name: name.parse().unwrap(), mac, tap: ChildFd::from_number(fd) }
}

/// Everything at once.
fn large() -> LaunchPlan {
    let mut fast = disk("data", DiskBus::VirtioBlk, None);
    fast.cache = DiskCache::Direct(DiskAio::Ring);
    let mut fixed = disk("tools", DiskBus::VirtioScsi, None);
    fixed.read_only = true;
    LaunchPlan {
        accelerator: Accelerator::Kvm,
        cpus: Cores::try_from(16).unwrap(),
        memory: ByteSize::gib(8),
        max_memory: LaunchPlan::free_max_memory(ByteSize::gib(8)),
        room: Room::for_cpus(Cores::try_from(16).unwrap()),
        firmware: FirmwarePlan::Uefi {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            vars: "/ds/vms/x/nvram.fd".into(),
        },
        boot_order: vec![BootDevice::Cdrom, BootDevice::Network, BootDevice::Disk],
        disks: vec![disk("root", DiskBus::VirtioBlk, Some("/ds/images/i.qcow2")), fast, fixed],
        cdroms: vec![
            CdromPlan { name: "cd0".parse().unwrap(), image: Some("/ds/images/cd.iso".into()) },
            CdromPlan { name: "cd1".parse().unwrap(), image: None },
        ],
        nics: vec![nic("eth0", 70), nic("eth1", 71)],
        seed: None,
        start: Start::Resume,
        ..small()
    }
}

/// One argument a line, a value beside its option.
fn shown(plan: &LaunchPlan) -> String {
    let mut text = String::new();
    for arg in command_line(plan).unwrap() {
        let arg = arg.into_string().unwrap();
        let separator = if arg.starts_with('-') && !text.is_empty() { '\n' } else { ' ' };
        if !text.is_empty() {
            text.push(separator);
        }
        text.push_str(&arg);
    }
    text.push('\n');
    text
}

#[test]
fn a_small_machine() {
    expect_file!["golden/small.txt"].assert_eq(&shown(&small()));
}

#[test]
fn a_large_machine() {
    expect_file!["golden/large.txt"].assert_eq(&shown(&large()));
}

/// As a clone of the small one.
#[test]
fn a_clone() {
    let memory_file = MemoryPlan::Frozen(ChildFd::from_number(67));
    let plan = LaunchPlan { memory_file, start: Start::Fork, ..small() };
    let (small, clone) = (shown(&small()), shown(&plan));
    let new: Vec<&str> = clone.lines().filter(|line| !small.lines().any(|s| s == *line)).collect();
    let memory = r#"-object {"align":2097152,"id":"ram0","mem-path":"/proc/self/fd/67","qom-type":"memory-backend-file","readonly":true,"reserve":false,"rom":"off","share":false,"size":268435456}"#;
    assert_eq!(new, [memory, "-incoming defer", "-S"]);
}

#[test]
fn what_no_machine_can_have_is_refused() {
    let check = |change: fn(&mut LaunchPlan), expected: &str| {
        let mut plan = small();
        change(&mut plan);
        assert_eq!(command_line(&plan).unwrap_err().to_string(), expected);
    };
    check(
        |plan| plan.cpus = Cores::try_from(256).unwrap(),
        "a VM of this machine type has at most 255 CPUs, not 256",
    );
    check(
        |plan| plan.nics = (0..17).map(|n| nic(&format!("n{n}"), 70)).collect(),
        "a VM has at most 16 network cards, not 17",
    );
    check(
        |plan| {
            plan.cdroms = (0..7)
                .map(|n| CdromPlan { name: format!("c{n}").parse().unwrap(), image: None })
                .collect();
        },
        "a VM has at most 6 CD drives, not 7",
    );
    check(
        |plan| plan.vnc = format!("/{}", "x".repeat(107)).into(),
        &format!("the socket path /{} has more than 107 bytes", "x".repeat(107)),
    );
    let baseline = LaunchPlan { cpu_baseline: "Westmere,+avx".parse().ok(), ..small() };
    let cpu = |plan: &LaunchPlan| {
        let all = command_line(plan).unwrap();
        let at = all.iter().position(|one| one == "-cpu").unwrap();
        all[at + 1].to_str().unwrap().to_owned()
    };
    assert_eq!(cpu(&baseline), "Westmere,+avx,enforce=on");
    let own = LaunchPlan { cpu_model: Some("Nehalem".to_owned()), ..baseline };
    assert_eq!(cpu(&own), "Nehalem", "what the VM asks for itself comes first");
    for model in ["", "host,hv-passthrough", "max -S", "x\n", &"x".repeat(65)] {
        let plan = LaunchPlan { cpu_model: Some(model.to_owned()), ..small() };
        assert_eq!(command_line(&plan), Err(PlanError::CpuModel(model.to_owned())));
    }
    let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/\xff");
    let plan = LaunchPlan { seed: Some(path.into()), ..small() };
    assert_eq!(command_line(&plan), Err(PlanError::Path(path.into())));
}

/// Splits QEMU's `key=value,…` syntax as QEMU does: a doubled comma is part of the value.
fn split(option: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = option.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    parts
}

proptest! {
    /// Whatever is in a path, it stays one value of one option.
    #[test]
    fn paths_stay_values(text in "[^\0]{1,40}") {
        let mut plan = large();
        let path = PathBuf::from(format!("/{text}"));
        plan.seed = Some(path.clone());
        plan.vnc = path.clone();
        for layer in &mut plan.disks[0].layers {
            layer.path.clone_from(&path);
        }
        plan.cdroms[0].image = Some(path.clone());
        plan.firmware = FirmwarePlan::Uefi { code: path.clone(), vars: path.clone() };
        if path.as_os_str().len() > 107 {
            return Ok(());
        }
        let plain: Vec<String> = command_line(&large()).unwrap().into_iter()
            .map(|arg| arg.into_string().unwrap()).collect();
        let hostile: Vec<String> = command_line(&plan).unwrap().into_iter()
            .map(|arg| arg.into_string().unwrap()).collect();
        // The seed is the one thing that `large` has not: three options more.
        prop_assert_eq!(hostile.len(), plain.len() + 6);

        let path = path.to_str().unwrap();
        let filenames = hostile.iter()
            .filter_map(|arg| serde_json::from_str::<Value>(arg).ok())
            .filter(|object| object["filename"] == path)
            .count();
        prop_assert_eq!(filenames, 6);
        let vnc = hostile.iter().position(|arg| arg == "-vnc").unwrap();
        prop_assert_eq!(split(&hostile[vnc + 1]), [format!("unix:{path}"), "share=ignore".to_owned()]);
    }
}
