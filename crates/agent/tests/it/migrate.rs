//! A guest goes from one host to another while it runs, and whatever dies on the way, it runs on one of
//! them.
//!
//! The two hosts are agents of their own, as in [`crate::shared`]; what they say to each other goes
//! through a relay, which listens, delays and cuts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{
    OperationPath, VmCommand, VmDefinition, VmEpoch, VmMigrateRequest, VmMigrationPrepareRequest,
    VmMoved, VmPath,
};
use hostler_endpoint::{ClientError, NoParams, Problem};
use hostler_pki::CredentialFile;
use hostler_types::{DiskSource, Epoch, ExecRequest, HostId, MigrationPolicy, PowerState, VmId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::full::Small;
use crate::shared::two;
use crate::world::{World, command, eventually, host_credentials, long, problem};

/// What goes through between the two agents.
#[derive(Clone)]
struct Relay(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    to: SocketAddr,
    /// Everything that the source has sent.
    heard: Mutex<Vec<u8>>,
    /// Before what is asked on the first connection, in milliseconds.
    delay: AtomicU64,
    cut: AtomicBool,
    connections: AtomicU64,
}

impl Relay {
    async fn to(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Inner {
            address: listener.local_addr().unwrap(),
            to: world.address(),
            heard: Mutex::default(),
            delay: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        };
        let relay = Self(Arc::new(inner));
        let serving = relay.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let relay = serving.clone();
                tokio::spawn(async move { relay.carry(near).await });
            }
        });
        relay
    }

    async fn carry(&self, near: TcpStream) {
        let first = self.0.connections.fetch_add(1, Ordering::SeqCst) == 0;
        if self.0.cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(far) = TcpStream::connect(self.0.to).await else { return };
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        tokio::select! {
            () = self.copy(near_in, far_out, true, first) => {}
            () = self.copy(far_in, near_out, false, false) => {}
        }
    }

    async fn copy(
        &self,
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        heard: bool,
        delayed: bool,
    ) {
        let mut bytes = vec![0; 128 << 10];
        loop {
            let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
            let delay = self.0.delay.load(Ordering::SeqCst);
            if delayed && delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            if self.0.cut.load(Ordering::SeqCst) {
                return;
            }
            if heard {
                self.0.heard.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }

    fn cut(&self, cut: bool) {
        self.0.cut.store(cut, Ordering::SeqCst);
    }

    fn delay(&self, milliseconds: u64) {
        self.0.delay.store(milliseconds, Ordering::SeqCst);
    }
}

/// Two hosts, and a VM that runs on the first.
struct Pair {
    one: World,
    two: World,
    definition: VmDefinition,
    vm: VmId,
    relay: Relay,
    _store: Small,
}

const SLOW: Option<u64> = Some(30_000_000);

impl Pair {
    async fn running() -> Self {
        let (one, two, store) = two().await;
        let image = one.tiny_image().await;
        let definition = one.vm(DiskSource::Image(image));
        let vm = definition.vm.id();
        one.create(&definition).await.unwrap();
        one.vm_start(vm).await.unwrap();
        one.wait_for("the guest agent", vm, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;
        let relay = Relay::to(&two).await;
        Self { one, two, definition, vm, relay, _store: store }
    }

    async fn prepare(&self) -> Result<(), Problem> {
        prepare(&self.one, &self.two, &self.definition, 2).await
    }

    async fn migrate(&self, max_bandwidth: Option<u64>) -> Result<VmMoved, Problem> {
        self.migrate_as(command(1), max_bandwidth).await.map_err(problem)
    }

    async fn migrate_as(
        &self,
        command: VmCommand,
        max_bandwidth: Option<u64>,
    ) -> Result<VmMoved, ClientError> {
        let address = self.relay.0.address;
        migrate(&self.one, &self.two, self.vm, (command, 2), address, max_bandwidth).await
    }

    /// What runs where; exactly one may.
    fn running_on(&self) -> [usize; 2] {
        [self.one.qemu_pids().len(), self.two.qemu_pids().len()]
    }

    /// As the source has written it down.
    fn is_given(&self) -> bool {
        let path = self.one.path(&format!("agent/vms/{}.json", self.vm));
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(r#""is":"given""#))
    }

    async fn abandon(&self) {
        let path = VmPath { vm: self.vm };
        let call = self.two.client.call::<api::VmMigrationAbandon>(&path, &NoParams {}, command(2));
        call.await.unwrap();
        assert_eq!(self.two.qemu_pids(), Vec::<u32>::new());
        assert_eq!(records(&self.two), 0);
    }

    /// The guest runs on the first host as if nothing had been.
    async fn assert_stayed(&self, boot: &str) {
        self.one.wait_for("it runs", self.vm, |r| r.power == PowerState::Running).await;
        assert_eq!(boot_id(&self.one, self.vm).await, boot, "it is the same guest");
        assert!(self.two.report(self.vm).await.is_none());
        let told = exec(&self.one, self.vm, WRITE).await;
        assert_eq!(told.trim(), "written", "its disk can be written to");
        assert!(!self.is_given());
    }

    /// The guest runs on the second host, and is gone from the first.
    async fn assert_moved(&self, boot: &str) {
        self.two.wait_for("it runs", self.vm, |r| r.power == PowerState::Running).await;
        assert_eq!(boot_id(&self.two, self.vm).await, boot, "it is the same guest");
        assert!(self.one.report(self.vm).await.is_none());
        let told = exec(&self.two, self.vm, WRITE).await;
        assert_eq!(told.trim(), "written", "its disk can be written to");
        eventually("the old QEMU is gone", Duration::from_secs(10), async || {
            (self.running_on() == [0, 1]).then_some(())
        })
        .await;
    }
}

fn records(world: &World) -> usize {
    std::fs::read_dir(world.path("agent/vms")).unwrap().count()
}

async fn prepare(
    from: &World,
    to: &World,
    definition: &VmDefinition,
    epoch: u64,
) -> Result<(), Problem> {
    let path = VmPath { vm: definition.vm.id() };
    let now = command(epoch - 1);
    let offer = from.client.call::<api::VmMigrationOffer>(&path, &NoParams {}, now).await;
    let request = VmMigrationPrepareRequest {
        command: command(epoch),
        definition: definition.clone(),
        from: from.host,
        luggage: offer.map_err(problem)?.luggage,
    };
    let call = to.client.call_with::<api::VmMigrationPrepare>(&path, &NoParams {}, request, long());
    call.await.map_err(problem)
}

async fn migrate(
    from: &World,
    to: &World,
    vm: VmId,
    (command, epoch): (VmCommand, u64),
    address: SocketAddr,
    max_bandwidth: Option<u64>,
) -> Result<VmMoved, ClientError> {
    let request = VmMigrateRequest {
        command,
        to: to.host,
        address: address.to_string(),
        epoch: Epoch(epoch),
        max_bandwidth,
        downtime_ms: 300,
        policy: MigrationPolicy::Throttle,
    };
    let path = VmPath { vm };
    from.client.call_with::<api::VmMigrate>(&path, &NoParams {}, request, long()).await
}

async fn take(world: &World, vm: VmId, epoch: u64) -> Result<api::VmReport, Problem> {
    let (path, body) = (VmPath { vm }, VmEpoch { epoch: Epoch(epoch) });
    world.client.call::<api::VmMigrationTake>(&path, &NoParams {}, body).await.map_err(problem)
}

async fn forget(world: &World, vm: VmId, epoch: u64) -> Result<(), Problem> {
    let path = VmPath { vm };
    let call =
        world.client.call::<api::VmMigrationForget>(&path, &NoParams {}, command(epoch)).await;
    call.map_err(problem)
}

async fn exec(world: &World, vm: VmId, script: &str) -> String {
    let asked = async || {
        let request = ExecRequest {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: String::new(),
            timeout_seconds: 20,
        };
        let path = VmPath { vm };
        world.client.call_with::<api::VmExec>(&path, &NoParams {}, request, long()).await.ok()
    };
    eventually("the guest agent answers", Duration::from_secs(60), asked).await.stdout
}

async fn boot_id(world: &World, vm: VmId) -> String {
    exec(world, vm, "cat /proc/sys/kernel/random/boot_id").await.trim().to_owned()
}

/// Not where it boots from, and not on its seed.
const WRITE: &str = "for disk in /sys/block/vd*; do [ $(cat $disk/ro) = 0 ] && break; done; \
                     echo here | dd of=/dev/$(basename $disk) bs=512 seek=2000000 conv=fsync,notrunc \
                     && echo written";

const COUNT: &str = "(i=0; while :; do i=$((i+1)); echo $i >/tmp/count; usleep 20000; done) \
                     >/dev/null 2>&1 </dev/null & echo begun";

async fn count(world: &World, vm: VmId) -> u64 {
    exec(world, vm, "cat /tmp/count").await.trim().parse().unwrap()
}

#[tokio::test]
async fn qemu_a_guest_goes_on_on_another_host_and_back() {
    let pair = Pair::running().await;
    let (one, two, vm) = (&pair.one, &pair.two, pair.vm);
    let boot = boot_id(one, vm).await;
    exec(one, vm, COUNT).await;
    pair.prepare().await.unwrap();
    assert!(two.report(vm).await.is_none(), "nobody is told of it yet");
    assert_eq!(pair.running_on(), [1, 1]);
    let before = count(one, vm).await;
    let moved = pair.migrate(None).await.unwrap();
    assert!(moved.taken && moved.paused_microseconds > 0, "{moved:?}");
    assert!(moved.paused_microseconds < 2_000_000, "{moved:?}");
    pair.assert_moved(&boot).await;
    assert!(count(two, vm).await > before, "it goes on counting");
    let report = two.report(vm).await.unwrap();
    assert_eq!(report.epoch, Epoch(2));

    // The first host has no say any more, and knows it.
    let refused = one.vm_start(vm).await.unwrap_err();
    assert!(refused.detail.contains("was given to the host"), "{refused:?}");
    let again = take(two, vm, 2).await.unwrap();
    assert_eq!(again.power, PowerState::Running, "asked twice, done once");
    forget(one, vm, 2).await.unwrap();
    forget(one, vm, 2).await.unwrap();
    assert_eq!(records(one), 0);

    // And back.
    prepare(two, one, &pair.definition, 3).await.unwrap();
    let back = migrate(two, one, vm, (command(2), 3), one.address(), None).await.unwrap();
    assert_eq!(back.epoch, Epoch(3));
    one.wait_for("it runs", vm, |report| report.power == PowerState::Running).await;
    assert_eq!(boot_id(one, vm).await, boot);
    forget(two, vm, 3).await.unwrap();
    // It is the host's as any other: it can be stopped and started.
    one.stop(vm, hostler_types::StopMode::PowerOff, 0).await.unwrap_err();
    let path = VmPath { vm };
    let mode = hostler_types::StopMode::PowerOff;
    let request = api::VmStopRequest { command: command(3), mode, timeout_seconds: 0 };
    one.client.call_with::<api::VmStop>(&path, &NoParams {}, request, long()).await.unwrap();
    let start =
        one.client.call_with::<api::VmStart>(&path, &NoParams {}, command(3).into(), long());
    assert_eq!(start.await.unwrap().power, PowerState::Running);
}

#[tokio::test]
async fn qemu_memory_never_goes_over_the_wire_as_it_is() {
    let pair = Pair::running().await;
    const SECRET: &str = "correct-horse-battery-staple";
    let fill = format!("i=0; while [ $i -lt 2000 ]; do echo {SECRET}; i=$((i+1)); done >/tmp/s");
    exec(&pair.one, pair.vm, &fill).await;
    pair.prepare().await.unwrap();
    pair.migrate(None).await.unwrap();
    let found = exec(&pair.two, pair.vm, "grep -c horse /tmp/s").await;
    assert_eq!(found.trim(), "2000");
    let heard = pair.relay.0.heard.lock().unwrap().clone();
    assert!(heard.len() > 20 << 20, "the memory went through here: {}", heard.len());
    assert!(!contains(&heard, SECRET.as_bytes()));
    // Of a kernel, which every guest has in its memory.
    assert!(!contains(&heard, b"Linux version"));
    // What is looked for would be found: the guest's memory has it.
    let memory = memory_of(pair.two.qemu_pids()[0]);
    assert!(contains(&memory, SECRET.as_bytes()) && contains(&memory, b"Linux version"));
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The guest's, through its file.
fn memory_of(pid: u32) -> Vec<u8> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let guest = |path: &Path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("hostler-guest"))
    };
    let file = fds.map(|entry| entry.path()).find(|path| guest(path)).unwrap();
    std::fs::read(file).unwrap()
}

#[tokio::test]
async fn qemu_only_the_announced_host_is_heard() {
    let pair = Pair::running().await;
    let (one, two, vm) = (&pair.one, &pair.two, pair.vm);
    let as_host = |host: HostId, name: &str| {
        let path = two.path(name);
        host_credentials(&two.ca, host).save(&path).unwrap();
        two.client_as(&CredentialFile::open(&path).unwrap(), two.address())
    };
    let (source, stranger) = (as_host(one.host, "one.pem"), as_host(HostId::generate(), "c.pem"));
    let body = |epoch| VmEpoch { epoch: Epoch(epoch) };
    let path = VmPath { vm };
    let refused = async |client: &hostler_endpoint::Client, epoch| {
        let taken = client.call::<api::VmMigrationTake>(&path, &NoParams {}, body(epoch)).await;
        let ready = client.call::<api::VmMigrationReady>(&path, &NoParams {}, body(epoch)).await;
        let (taken, ready) = (problem(taken.unwrap_err()), problem(ready.unwrap_err()));
        assert_eq!(taken.code, ready.code, "{taken:?} {ready:?}");
        taken
    };

    // Nothing is prepared.
    assert_eq!(refused(&source, 2).await.code, "forbidden");
    pair.prepare().await.unwrap();
    assert_eq!(refused(&stranger, 2).await.code, "forbidden");
    assert_eq!(refused(&source, 1).await.code, "stale_epoch");
    assert_eq!(refused(&source, 3).await.code, "stale_epoch");
    // And hosts may ask nothing else.
    let stop = source.call::<api::VmMigrationAbandon>(&path, &NoParams {}, command(2)).await;
    assert_eq!(problem(stop.unwrap_err()).code, "forbidden");
    let taken = two.report(vm).await;
    assert!(taken.is_none(), "{taken:?}");

    // A guest is not sent to who is not the host that is meant.
    let wrong = migrate(one, two, vm, (command(1), 2), one.address(), None).await.unwrap_err();
    let wrong = problem(wrong);
    assert_eq!(wrong.code, "peer_failed", "{wrong:?}");
    let boot = boot_id(one, vm).await;
    pair.assert_stayed(&boot).await;
    pair.abandon().await;
    // Nor is it, when nothing is prepared any more.
    let gone = pair.migrate(None).await.unwrap_err();
    assert_eq!(gone.code, "wrong_state", "it must be offered anew: {gone:?}");
    pair.assert_stayed(&boot).await;
}

#[tokio::test]
async fn qemu_a_cancelled_migration_leaves_the_guest_where_it_is() {
    let pair = Pair::running().await;
    let boot = boot_id(&pair.one, pair.vm).await;
    pair.prepare().await.unwrap();
    let command = command(1);
    let cancel = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let path = OperationPath { op: command.op };
        pair.one.client.call::<api::OperationCancel>(&path, &NoParams {}, ()).await.unwrap();
    };
    let (moved, ()) = tokio::join!(pair.migrate_as(command, SLOW), cancel);
    assert_eq!(problem(moved.unwrap_err()).code, "cancelled");
    pair.assert_stayed(&boot).await;
    pair.abandon().await;
    // And it can go after all.
    pair.prepare().await.unwrap();
    pair.migrate(None).await.unwrap();
    pair.assert_moved(&boot).await;
}

/// Who is killed while the memory is being sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    SourceAgent,
    TargetAgent,
    TargetQemu,
    Link,
}

async fn dies_while_sending(dies: Dies) {
    let mut pair = Pair::running().await;
    let boot = boot_id(&pair.one, pair.vm).await;
    pair.prepare().await.unwrap();
    let target = pair.two.qemu_pids()[0];
    let moved = {
        let begun = pair.migrate_as(command(1), SLOW);
        let mut begun = std::pin::pin!(begun);
        let early = tokio::time::timeout(Duration::from_secs(2), &mut begun).await;
        assert!(early.is_err(), "it takes longer than that: {early:?}");
        match dies {
            Dies::TargetQemu => kill(target),
            Dies::Link => pair.relay.cut(true),
            Dies::SourceAgent => kill(agent_of(&pair.one)),
            Dies::TargetAgent => kill(agent_of(&pair.two)),
        }
        begun.await
    };
    match dies {
        Dies::SourceAgent => {
            moved.unwrap_err();
            pair.one.end_agent().await;
            pair.one.spawn_agent().await;
        }
        Dies::TargetAgent => {
            problem(moved.unwrap_err());
            pair.two.end_agent().await;
            pair.two.spawn_agent().await;
        }
        Dies::TargetQemu | Dies::Link => drop(problem(moved.unwrap_err())),
    }
    pair.assert_stayed(&boot).await;
    eventually("what waited has ended", Duration::from_secs(20), async || {
        (pair.running_on() == [1, 0]).then_some(())
    })
    .await;
    pair.abandon().await;
    pair.relay.cut(false);
    pair.relay = Relay::to(&pair.two).await;
    pair.prepare().await.unwrap();
    pair.migrate(None).await.unwrap();
    pair.assert_moved(&boot).await;
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn agent_of(world: &World) -> u32 {
    world.agent_pid()
}

#[tokio::test]
async fn qemu_the_target_agent_dies_while_memory_is_sent() {
    dies_while_sending(Dies::TargetAgent).await;
}

#[tokio::test]
async fn qemu_the_source_agent_dies_while_memory_is_sent() {
    dies_while_sending(Dies::SourceAgent).await;
}

#[tokio::test]
async fn qemu_the_target_qemu_dies_while_memory_is_sent() {
    dies_while_sending(Dies::TargetQemu).await;
}

#[tokio::test]
async fn qemu_the_link_is_cut_while_memory_is_sent() {
    dies_while_sending(Dies::Link).await;
}

#[tokio::test]
async fn qemu_the_source_qemu_dies_while_memory_is_sent() {
    let pair = Pair::running().await;
    let boot = boot_id(&pair.one, pair.vm).await;
    pair.prepare().await.unwrap();
    let source = pair.one.qemu_pids()[0];
    let dies = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        kill(source);
    };
    let (moved, ()) = tokio::join!(pair.migrate(SLOW), dies);
    moved.unwrap_err();
    pair.one.wait_for("it was started again", pair.vm, |r| r.power == PowerState::Running).await;
    assert_ne!(boot_id(&pair.one, pair.vm).await, boot);
    pair.abandon().await;
    assert_eq!(pair.running_on(), [1, 0]);
}

/// The source's agent dies when the guest stands still, and nothing is given away yet.
#[tokio::test]
async fn qemu_the_source_agent_dies_before_it_has_given_the_guest_away() {
    let mut pair = Pair::running().await;
    let boot = boot_id(&pair.one, pair.vm).await;
    pair.prepare().await.unwrap();
    {
        let begun = pair.migrate_as(command(1), Some(100_000_000));
        let mut begun = std::pin::pin!(begun);
        let early = tokio::time::timeout(Duration::from_millis(600), &mut begun).await;
        assert!(early.is_err(), "{early:?}");
        // From now on it asks in vain whether the other is ready, when the guest stands still already.
        pair.relay.delay(4_000);
        let early = tokio::time::timeout(Duration::from_millis(3_500), &mut begun).await;
        assert!(early.is_err(), "{early:?}");
        kill(agent_of(&pair.one));
        begun.await.unwrap_err();
    }
    assert!(!pair.is_given());
    pair.one.end_agent().await;
    pair.one.spawn_agent().await;
    pair.assert_stayed(&boot).await;
    pair.abandon().await;
}

/// Who dies once the guest is given away, and before the other has heard of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    SourceAgent,
    TargetAgent,
    Both,
    TargetQemu,
    /// The two never reach each other again, but the server reaches both.
    Link,
}

async fn dies_after_giving(then: Then) {
    let mut pair = Pair::running().await;
    let boot = boot_id(&pair.one, pair.vm).await;
    pair.prepare().await.unwrap();
    let target = pair.two.qemu_pids()[0];
    pair.relay.delay(1_200);
    let order = command(1);
    let answered = {
        let begun = pair.migrate_as(order, None);
        let mut begun = std::pin::pin!(begun);
        let given = eventually("it is given away", Duration::from_secs(60), async || {
            pair.is_given().then_some(())
        });
        tokio::select! {
            () = given => {}
            moved = &mut begun => panic!("too early: {moved:?}"),
        }
        pair.relay.cut(true);
        match then {
            Then::SourceAgent => kill(agent_of(&pair.one)),
            Then::TargetAgent => kill(agent_of(&pair.two)),
            Then::Both => {
                kill(agent_of(&pair.one));
                kill(agent_of(&pair.two));
            }
            Then::TargetQemu => kill(target),
            Then::Link => {}
        }
        begun.await
    };
    if let Ok(moved) = &answered {
        assert!(!moved.taken, "{moved:?}");
    }
    if matches!(then, Then::SourceAgent | Then::Both) {
        answered.unwrap_err();
        pair.one.end_agent().await;
        pair.one.spawn_agent().await;
        // The server asks again, and hears the same.
        let again = pair.migrate_as(order, None).await.unwrap();
        assert_eq!((again.epoch, again.to), (Epoch(2), pair.two.host));
    }
    if matches!(then, Then::TargetAgent | Then::Both) {
        pair.two.end_agent().await;
        pair.two.spawn_agent().await;
        assert!(pair.two.report(pair.vm).await.is_none(), "it has not heard of it yet");
    }
    assert!(pair.one.report(pair.vm).await.is_none());
    match then {
        Then::Link => drop(take(&pair.two, pair.vm, 2).await.unwrap()),
        // At its old address, if it is a new agent.
        Then::TargetAgent | Then::Both => drop(take(&pair.two, pair.vm, 2).await.unwrap()),
        Then::SourceAgent | Then::TargetQemu => pair.relay.cut(false),
    }
    if then == Then::TargetQemu {
        // Its memory is lost; its owner starts it again, as after any end of a QEMU.
        let running = |report: &api::VmReport| report.power == PowerState::Running;
        let report = pair.two.wait_for("started again", pair.vm, running).await;
        assert_eq!(report.epoch, Epoch(2));
        assert_ne!(boot_id(&pair.two, pair.vm).await, boot);
        assert_eq!(pair.running_on(), [0, 1]);
        return;
    }
    pair.assert_moved(&boot).await;
    forget(&pair.one, pair.vm, 2).await.unwrap();
    assert_eq!(records(&pair.one), 0);
}

#[tokio::test]
async fn qemu_the_source_agent_dies_when_the_guest_is_given_away() {
    dies_after_giving(Then::SourceAgent).await;
}

#[tokio::test]
async fn qemu_the_target_agent_dies_when_the_guest_is_given_away() {
    dies_after_giving(Then::TargetAgent).await;
}

#[tokio::test]
async fn qemu_both_agents_die_when_the_guest_is_given_away() {
    dies_after_giving(Then::Both).await;
}

#[tokio::test]
async fn qemu_the_target_qemu_dies_when_the_guest_is_given_away() {
    dies_after_giving(Then::TargetQemu).await;
}

#[tokio::test]
async fn qemu_the_server_tells_the_target_when_the_source_cannot() {
    dies_after_giving(Then::Link).await;
}

#[tokio::test]
async fn qemu_a_stale_guest_is_killed_and_forgotten() {
    let pair = Pair::running().await;
    let (one, vm) = (&pair.one, pair.vm);
    let refused = forget(one, vm, 1).await.unwrap_err();
    assert_eq!(refused.code, "wrong_state");
    assert_eq!(one.report(vm).await.unwrap().power, PowerState::Running);
    let there = one.path(&format!("store/vms/{vm}"));
    forget(one, vm, 2).await.unwrap();
    assert_eq!((one.qemu_pids().len(), records(one)), (0, 0));
    assert!(there.is_dir(), "the files are the new owner's");
    assert!(one.report(vm).await.is_none());
}

/// The VM has gone on to a third host while this one was away; its files are that host's user's.
#[tokio::test]
async fn qemu_a_host_that_comes_back_leaves_the_disks_of_a_vm_that_moved_on_alone() {
    use std::os::unix::fs::{MetadataExt as _, chown};

    let mut pair = Pair::running().await;
    pair.prepare().await.unwrap();
    let disks = || {
        let folder = pair.one.path(&format!("store/vms/{}", pair.vm));
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|it| it == "qcow2")).collect::<Vec<_>>()
    };
    let (disks, third) = (disks(), 1_912_345);
    assert!(!disks.is_empty());
    kill(agent_of(&pair.two));
    // It may have died with its agent, which was still at work on it.
    if let Some(pid) = pair.two.qemu_pids().first() {
        kill(*pid);
    }
    disks.iter().for_each(|disk| chown(disk, Some(third), None).unwrap());
    pair.two.end_agent().await;
    pair.two.spawn_agent().await;
    let owners = || disks.iter().map(|disk| disk.metadata().unwrap().uid()).collect::<Vec<_>>();
    eventually("it is looked after", Duration::from_secs(20), async || {
        pair.two.qemu_pids().is_empty().then_some(())
    })
    .await;
    pair.abandon().await;
    assert_eq!(owners(), vec![third; disks.len()]);
}
