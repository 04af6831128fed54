//! More memory, or less; and what the balloon takes.

use std::time::Duration;

use hostler_qemu::hotplug::{set_balloon, set_memory};
use hostler_qmp::Qmp;
use hostler_qmp::guest::{ExecRequest, GetMemoryBlocks, GuestAgent, MemoryBlock, SetMemoryBlocks};
use hostler_types::ByteSize;

use super::GUEST;
use crate::vm::actor::Actor;

const MEMORY: &str = "memory";
const BALLOON: &str = "balloon";

/// How long all of a change may take; a busy guest gives memory back slowly.
const CHANGE: Duration = Duration::from_secs(60);

/// How long a guest that gives memory back may pause. What it has not let go of by then it uses.
const LET_GO: Duration = Duration::from_secs(3);

/// A Linux that leaves new memory unused is told to use it. Nothing of it depends on what anyone
/// asked for.
const ONLINE: &str = "f=/sys/devices/system/memory/auto_online_blocks; \
    [ \"$(cat $f)\" != offline ] || echo online > $f";

impl Actor {
    pub(super) async fn change_memory(&mut self, qmp: &Qmp, agent: Option<&GuestAgent>) {
        let Some((running, asked)) = self.compared() else { return };
        let (boot, now, wanted) = (running.boot_memory, running.spec.memory, asked.memory);
        if now != wanted && self.is_live(MEMORY) {
            let size = ByteSize(wanted.bytes().saturating_sub(boot.bytes()));
            if let (Some(agent), true) = (agent, wanted > now) {
                let exec = ExecRequest::new("/bin/sh").args(["-c", ONLINE]).within(GUEST);
                let _not_a_linux = agent.exec(exec).await;
            }
            let pause = if wanted > now { GUEST } else { LET_GO };
            match set_memory(qmp, size, pause, CHANGE).await {
                Ok(plugged) => {
                    let now = ByteSize(boot.bytes() + plugged.bytes());
                    if let Some(running) = &mut self.record.running {
                        running.spec.memory = now;
                    }
                    if plugged != size {
                        let verb = if plugged < size { "taken" } else { "let go of" };
                        let why = format!("the guest has not {verb} it yet; it has {now} now");
                        self.refuse(MEMORY, why);
                    }
                }
                Err(error) => self.refuse_error(MEMORY, &error),
            }
        }
        let plugged = self.compared().map(|(running, _)| running.plugged_memory());
        if let (Some(agent), true) = (agent, plugged.is_some_and(|plugged| plugged > ByteSize(0))) {
            online(agent).await;
        }
        self.change_balloon(qmp).await;
    }

    async fn change_balloon(&mut self, qmp: &Qmp) {
        let Some((running, asked)) = self.compared() else { return };
        if running.spec.balloon == asked.balloon || !self.is_live(BALLOON) {
            return;
        }
        let (boot, plugged) = (running.boot_memory, running.plugged_memory());
        let balloon = asked.balloon;
        let target = target(balloon, boot, plugged);
        match set_balloon(qmp, target, GUEST).await {
            Ok(left) if left == target => {
                if let Some(running) = &mut self.record.running {
                    running.spec.balloon = balloon;
                }
            }
            Ok(left) => {
                let left = ByteSize(left.bytes() + plugged.bytes());
                let why = format!("the guest's balloon has left it {left} so far");
                self.refuse(BALLOON, why);
            }
            Err(error) => self.refuse_error(BALLOON, &error),
        }
    }
}

/// QEMU's balloon knows only of the memory that the machine was started with.
pub(super) fn target(balloon: Option<ByteSize>, boot: ByteSize, plugged: ByteSize) -> ByteSize {
    /// Less would only make the guest kill its programs.
    const LEAST: u64 = 64 << 20;
    let Some(balloon) = balloon else { return boot };
    let least = LEAST.min(boot.bytes());
    let left = balloon.bytes().saturating_sub(plugged.bytes());
    ByteSize(left.clamp(least, boot.bytes()))
}

async fn online(agent: &GuestAgent) {
    let Ok(blocks) = agent.execute(GetMemoryBlocks).await else { return };
    let off = blocks.into_iter().filter(|block| !block.online);
    let blocks: Vec<_> = off.map(|block| MemoryBlock { online: true, ..block }).collect();
    if !blocks.is_empty()
        && let Err(error) = agent.execute(SetMemoryBlocks { blocks }).await
    {
        tracing::debug!(%error, "the guest agent does not switch memory on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balloon_takes_of_the_memory_of_the_start() {
        let mib = ByteSize::mib;
        let check = |balloon, boot, plugged, expected| {
            assert_eq!(target(balloon, mib(boot), mib(plugged)), mib(expected));
        };
        check(None, 1024, 512, 1024);
        check(Some(mib(512)), 1024, 0, 512);
        check(Some(mib(1024)), 1024, 512, 512);
        check(Some(mib(512)), 1024, 512, 64);
        check(Some(mib(2048)), 1024, 512, 1024);
    }
}
