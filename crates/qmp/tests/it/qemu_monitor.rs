//! The client against QEMU itself, without a guest.

use std::{
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hostler_qmp::{
    CloseReason, Events, Options, QemuVersion, Qmp, QmpError,
    command::*,
    event::{Event, ShutdownCause},
};
use serde_json::json;
use tokio::net::UnixStream;

struct Machine {
    child: Child,
    qmp: Qmp,
    events: Events,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Connects before QEMU is up: the listening socket is made here and given to it as its
    /// standard input, the only descriptor a child gets without unsafe code.
    async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let stream = UnixStream::connect(&path).await.unwrap();
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-S"])
            .args(["-chardev", "socket,id=qmp,fd=0,server=on,wait=off"])
            .args(["-mon", "chardev=qmp,mode=control"])
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        let (qmp, events) = Qmp::connect(stream, Options::default()).await.unwrap();
        Self { child, qmp, events }
    }
}

#[tokio::test]
async fn qemu_without_a_machine_answers() {
    let mut machine = Machine::start(&["-machine", "none"]).await;
    let qmp = &machine.qmp;
    assert!(qmp.version() >= QemuVersion { major: 10, minor: 0, micro: 0 });
    assert_eq!(qmp.execute(QueryVersion).await.unwrap().qemu, qmp.version());
    let status = qmp.execute(QueryStatus).await.unwrap();
    assert_eq!((status.running, status.status), (false, RunState::Prelaunch));
    let commands = qmp.execute(QueryCommands).await.unwrap();
    assert!(commands.len() > 150, "{}", commands.len());
    let error = qmp.execute(DeviceDel { id: "nobody".to_owned() }).await.unwrap_err();
    assert!(error.is_device_not_found(), "{error:?}");

    qmp.execute(Quit).await.unwrap();
    let shutdown = machine
        .events
        .wait_for(Duration::from_secs(5), |event| match event {
            Event::Shutdown(shutdown) => Some(shutdown.clone()),
            _ => None,
        })
        .await
        .unwrap();
    assert!(!shutdown.guest);
    assert_eq!(shutdown.reason, ShutdownCause::HostQmpQuit);
    assert!(matches!(qmp.closed().await, CloseReason::Ended));
    assert!(machine.child.wait().unwrap().success());
}

/// Every query's answer has the form that the type says, on a machine with something of each.
#[tokio::test]
async fn qemu_answers_fit_their_types() {
    let mut machine = Machine::start(&[
        "-machine",
        "pc-q35-10.0",
        "-m",
        "64M",
        "-smp",
        "1,maxcpus=2",
        "-vga",
        "std",
        "-device",
        "virtio-balloon-pci,id=balloon0",
        "-blockdev",
        r#"{"driver":"null-co","node-name":"disk0","size":1048576,"read-zeroes":true}"#,
        "-device",
        "virtio-blk-pci,drive=disk0,id=vda",
        "-device",
        "ide-cd,id=cd0",
        "-device",
        "pcie-root-port,id=spare0,slot=9",
    ])
    .await;
    let qmp = &machine.qmp;
    let cpus = qmp.execute(QueryCpusFast).await.unwrap();
    assert!(cpus.len() == 1 && cpus[0].thread_id > 0);
    let slots = qmp.execute(QueryHotpluggableCpus).await.unwrap();
    assert_eq!(slots.iter().filter(|slot| slot.qom_path.is_some()).count(), 1);
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await.unwrap();
    assert_eq!(nodes[0].image.virtual_size, 1 << 20);
    let drives = qmp.execute(QueryBlock).await.unwrap();
    assert!(drives.iter().any(|drive| drive.inserted.is_some()));
    assert_eq!(qmp.execute(QueryBlockstats).await.unwrap()[0].stats.rd_bytes, 0);
    assert_eq!(qmp.execute(QueryChardev).await.unwrap()[0].label, "qmp");
    assert_eq!(qmp.execute(QueryMemorySizeSummary).await.unwrap().base_memory, 64 << 20);
    assert_eq!(qmp.execute(QueryBalloon).await.unwrap().actual, 64 << 20);
    assert!(qmp.execute(QueryJobs).await.unwrap().is_empty());
    assert!(qmp.execute(QueryMigrate).await.unwrap().status.is_none());
    assert!(!qmp.execute(QueryKvm).await.unwrap().enabled);

    let polling = |value| QomSet {
        path: "/machine/peripheral/balloon0".to_owned(),
        property: "guest-stats-polling-interval".to_owned(),
        value,
    };
    qmp.execute(polling(json!(2))).await.unwrap();
    let set = polling(json!(0));
    let get = QomGet { path: set.path, property: set.property };
    assert_eq!(qmp.execute(get).await.unwrap(), json!(2));

    qmp.execute(Cont).await.unwrap();
    qmp.execute(Stop).await.unwrap();
    qmp.execute(SystemReset).await.unwrap();
    qmp.execute(SystemPowerdown).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let within = Duration::from_secs(5);
        let event = machine.events.wait_for(within, |event| match event {
            Event::Resume | Event::Stop | Event::Reset(_) | Event::Powerdown => Some(event.clone()),
            _ => None,
        });
        seen.push(event.await.unwrap());
    }
    assert_eq!(seen[..2], [Event::Resume, Event::Stop]);
}

#[tokio::test]
async fn qemu_takes_descriptors_and_plugs() {
    let machine = Machine::start(&[
        "-machine",
        "pc-q35-10.0",
        "-m",
        "64M",
        "-vga",
        "std",
        "-device",
        "pcie-root-port,id=spare0,slot=9",
    ])
    .await;
    let qmp = &machine.qmp;
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let added = qmp
        .execute_with_fds(AddFd::default(), vec![file.try_clone().unwrap().into()])
        .await
        .unwrap();
    let set = added.fdset_id;
    qmp.execute(BlockdevAdd(json!({
        "driver": "file", "node-name": "plugged", "filename": format!("/dev/fdset/{set}"),
    })))
    .await
    .unwrap();
    qmp.execute(BlockResize { node_name: "plugged".to_owned(), size: 2 << 20 }).await.unwrap();
    for active in [false, true] {
        let node_name = "plugged".to_owned();
        qmp.execute(BlockdevSetActive { node_name, active }).await.unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    let device =
        json!({ "driver": "virtio-blk-pci", "id": "vdb", "drive": "plugged", "bus": "spare0" });
    qmp.execute(DeviceAdd(device)).await.unwrap();
    let busy = qmp.execute(BlockdevDel { node_name: "plugged".to_owned() }).await.unwrap_err();
    assert!(matches!(busy, QmpError::Refused { .. }), "{busy:?}");

    qmp.execute(ObjectAdd(json!({ "qom-type": "rng-random", "id": "rng9" }))).await.unwrap();
    qmp.execute(ObjectDel { id: "rng9".to_owned() }).await.unwrap();

    // A picture goes into a file that QEMU could not open by itself.
    let picture = tempfile::NamedTempFile::new().unwrap();
    let dump = |filename: String| Screendump { filename, format: ImageFormat::Png, device: None };
    qmp.execute(dump(picture.path().to_str().unwrap().to_owned())).await.unwrap();
    assert_eq!(std::fs::read(picture.path()).unwrap()[1..4], *b"PNG");

    // The machine's state into a file, through a set.
    // QEMU wants one that can be written and not read.
    let state = tempfile::NamedTempFile::new().unwrap();
    let state = std::fs::OpenOptions::new().write(true).open(state.path()).unwrap();
    let added = qmp
        .execute_with_fds(AddFd::default(), vec![state.try_clone().unwrap().into()])
        .await
        .unwrap();
    qmp.execute(MigrateSetCapabilities::on(&["events", "mapped-ram"])).await.unwrap();
    let fast = MigrateSetParameters { max_bandwidth: Some(1 << 40), ..Default::default() };
    qmp.execute(fast).await.unwrap();
    let mut events = qmp.subscribe();
    let filename = format!("/dev/fdset/{}", added.fdset_id);
    qmp.execute(Migrate::to(MigrationAddress::File { filename, offset: 0 })).await.unwrap();
    let end = events.wait_for(Duration::from_secs(20), |event| match event {
        Event::Migration(migration) => match migration.status {
            MigrationStatus::Completed => Some(true),
            MigrationStatus::Failed => Some(false),
            _ => None,
        },
        _ => None,
    });
    assert!(end.await.unwrap(), "{:?}", qmp.execute(QueryMigrate).await);
    assert!(state.metadata().unwrap().len() > 100_000);
    // The event comes an instant before the state's last change.
    let state = qmp.execute(QueryStatus).await.unwrap().status;
    assert!(matches!(state, RunState::FinishMigrate | RunState::Postmigrate), "{state:?}");
}
