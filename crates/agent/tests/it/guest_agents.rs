//! Guest agents that do everything wrong while their guest, a real one, is to be frozen: the guest is
//! not frozen for longer than it has to be, its VM goes on answering, and what went wrong is told.

use std::time::{Duration, Instant};

use futures::StreamExt;
use hostler_agent_api as api;
use hostler_agent_api::{VmPath, VmReport};
use hostler_endpoint::NoParams;
use hostler_types::{Consistency, ExecRequest, PowerState, SnapshotId, VmId};

use crate::snapshots::{
    How, answers, assert_filled, assert_whole, chain, delete, fill, run, running, snapshot,
    snapshot_as,
};
use crate::world::{World, command, eventually, within};

/// The agent waits five seconds for a guest to freeze and five for it to thaw; the rest is what a
/// machine needs that has other things to do.
const BOUND: Duration = Duration::from_secs(40);

/// Takes the real agent's place. `$1` says what it does when it is asked to freeze; `$2` is the guest's
/// host name, by which others see that it is there.
const IMPOSTOR: &str = r#"
port=$(readlink -f /dev/virtio-ports/org.qemu.guest_agent.0)
say() { printf "$1\n" >&3; }
back() { exec 3>&-; qemu-ga -d -m virtio-serial -p "$port" -t /run; exit; }
kill -9 $(pidof qemu-ga)
until (: 3<>"$port") 2>/dev/null; do usleep 20000; done
exec 3<>"$port"
while :; do
  IFS= read -r line <&3 || { usleep 20000; continue; }
  case $line in
  *guest-sync-delimited*) id=${line##*\"id\":}; say "\377{\"return\": ${id%%\}*}}" ;;
  *guest-ping*) say '{"return": {}}' ;;
  *guest-get-host-name*) say "{\"return\": {\"host-name\": \"$2\"}}" ;;
  *guest-fsfreeze-thaw*) say '{"return": 1}'; echo thawed >>/tmp/thawed; sleep 1; back ;;
  *guest-fsfreeze-freeze*)
    echo asked >>/tmp/asked
    case $1 in
    hangs) ;;
    lies) say '{"return": "everything"}' ;;
    babbles) head -c 3000000 /dev/urandom >&3; say '' ;;
    # For a gigabyte, an emulated guest needs minutes; nobody outside knows that it will end.
    floods) timeout 20 tr '\0' x </dev/zero >&3; say '' ;;
    dies) back ;;
    # It does what it was asked for, says so, and is never seen again; somebody starts another one.
    freezes) fsfreeze --freeze /data; : >/run/qga.state.isfrozen; say '{"return": 1}'; exec 3>&-
      (echo x >/data/x; echo written >/tmp/written) &
      while [ ! -e /tmp/go-on ]; do usleep 100000; done; back ;;
    esac ;;
  *) say '{"error": {"class": "CommandNotFound", "desc": "no"}}' ;;
  esac
done
"#;

/// Replaces the guest's agent.
async fn replace(world: &World, vm: VmId, kind: &str) {
    let name = format!("agent-{kind}");
    run(
        world,
        vm,
        &format!("cat >/tmp/impostor <<'END'\n{IMPOSTOR}\nEND\nrm -f /tmp/asked /tmp/thawed"),
    )
    .await;
    let script = format!(
        "(usleep 200000; exec setsid sh /tmp/impostor {kind} {name}) </dev/null >/dev/null 2>&1 &"
    );
    let request = ExecRequest {
        command: ["/bin/busybox", "sh", "-c", &script].map(str::to_owned).to_vec(),
        stdin: String::new(),
        timeout_seconds: 30,
    };
    // The agent may be gone before it has answered.
    drop(world.client.call::<api::VmExec>(&VmPath { vm }, &NoParams {}, request).await);
    let there = |r: &VmReport| {
        r.guest.as_ref().is_some_and(|g| g.agent && g.hostname.as_deref() == Some(&*name))
    };
    world.wait_for("the impostor answers", vm, there).await;
}

/// Waits until the real one is back.
async fn real(world: &World, vm: VmId) {
    let there = |r: &VmReport| {
        r.guest.as_ref().is_some_and(|g| g.agent && g.hostname.as_deref() == Some("tiny01"))
    };
    world.wait_for("the real agent is back", vm, there).await;
}

#[tokio::test]
async fn qemu_a_guest_agent_that_does_not_freeze_harms_nobody() {
    let world = World::start().await;
    let vm = running(&world).await;
    for kind in ["hangs", "lies", "babbles", "dies", "floods"] {
        replace(&world, vm, kind).await;
        let begin = Instant::now();
        let how = How { quiesce: true, memory: false };
        let asked = snapshot_as(&world, vm, command(1), SnapshotId::generate(), how);
        let refused = within(BOUND, asked).await.unwrap_err();
        assert_eq!(refused.code, "guest_agent_unavailable", "{kind}: {refused:?}");
        assert!(begin.elapsed() < BOUND, "{kind}: {:?}", begin.elapsed());

        // Nothing has come of it, and its VM does what it is told.
        let report = world.report(vm).await.unwrap();
        assert_eq!(report.power, PowerState::Running, "{kind}: {report:?}");
        assert!(report.snapshots.is_empty(), "{kind}: {report:?}");
        assert_eq!(chain(&report, "data"), ["data.qcow2"], "{kind}");
        let (plain, _) = within(BOUND, snapshot(&world, vm, How::default())).await;
        within(BOUND, delete(&world, vm, &[plain])).await;
        assert_eq!(world.qemu_pids().len(), 1);

        real(&world, vm).await;
        let told = if kind == "dies" { "true" } else { "cat /tmp/thawed" };
        assert_eq!(run(&world, vm, "cat /tmp/asked").await, "asked", "{kind}");
        run(&world, vm, told).await;
        answers(&world, vm).await;
        fill(&world, vm, kind, 0, 2).await;
        assert_filled(&world, vm, kind, 0, 2).await;
        world.wait_for("it has nothing to say", vm, |r| r.message.is_none()).await;
    }
    let (_, report) = snapshot(&world, vm, How { quiesce: true, memory: false }).await;
    assert_eq!(report.snapshots.snapshots[0].consistency, Consistency::Application);
    assert_whole(&world, vm).await;
}

#[tokio::test]
async fn qemu_a_guest_agent_that_dies_while_frozen_is_told_of_until_the_guest_is_thawed() {
    let mut world = World::start_process().await;
    let vm = running(&world).await;
    for agent_dies in [false, true] {
        run(&world, vm, "rm -f /tmp/written /tmp/go-on; [ -d /data ] && sync").await;
        replace(&world, vm, "freezes").await;
        let how = How { quiesce: true, memory: false };
        let id = SnapshotId::generate();
        let report = within(BOUND, snapshot_as(&world, vm, command(1), id, how)).await.unwrap();
        // It was frozen when the snapshot was taken, whatever came after.
        let taken = report.snapshots.get(id).unwrap();
        assert_eq!(taken.consistency, Consistency::Application);
        let message = |r: &VmReport| r.message.clone().unwrap_or_default();
        let told = |r: &VmReport| message(r).contains("may be frozen");
        let report = world.wait_for("it is told", vm, told).await;
        assert_eq!(report.power, PowerState::Running, "{report:?}");

        // Its VM does what it is told meanwhile.
        let (plain, report) = within(BOUND, snapshot(&world, vm, How::default())).await;
        assert!(told(&report), "it is said as long as it is so: {report:?}");
        within(BOUND, delete(&world, vm, &[plain, id])).await;
        if agent_dies {
            // Who comes after it does not know, but neither does it harm.
            world.end_agent().await;
            world.spawn_agent().await;
            assert_eq!(world.found(vm).await.power, PowerState::Running);
        }
        go_on(&world, vm).await;
        world.wait_for("it is thawed", vm, |r| r.message.is_none()).await;
        real(&world, vm).await;
        eventually("the guest writes", Duration::from_secs(60), async || {
            (run(&world, vm, "cat /tmp/written || true").await == "written").then_some(())
        })
        .await;
    }
}

/// The one way into a guest without an agent: its console.
async fn go_on(world: &World, vm: VmId) {
    let (input, mut output) = crate::fork::open_console(world, vm).await;
    input.send(Ok("\n: >/tmp/go-on; echo gone $((40 + 2))\n".into())).await.unwrap();
    let gone = async {
        let mut shown = String::new();
        while !shown.contains("gone 42") {
            let bytes = output.next().await.expect("it is open").unwrap();
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    within(Duration::from_secs(60), gone).await;
}
