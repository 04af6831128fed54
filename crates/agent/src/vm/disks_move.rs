//! A VM's files go to another datastore of its host, while its guest runs or not.
//!
//! ```text
//!  record: where to ─> copies (files that nobody writes to) ─> mirrors (what the guest writes to)
//!       └─ from here on it can be given up: the target's files go, all is as before
//!  guest stands still ─> mirrors complete ─> record: the target ─> QEMU changes over ─> guest goes on
//!                                                  └─ from here on the target's files are the VM's
//!  the source's files go ─> record: done
//! ```
//!
//! **The record decides which of the two sets of files is the VM's**, and it is written while nobody can
//! write to either and both read alike. Whoever finds a record with a [`DisksMove`] knows that the other
//! set is nobody's: it goes (see [`Actor::settle_move`]). A QEMU that an agent has left in between is
//! told which one it is, by finishing its mirrors or by giving them up.
//!
//! Chains stay chains: each file is copied by itself, under its own name, so that snapshots keep theirs.
//! What lies beneath the VM's own files, an image or another VM's disk, is on one datastore only: the
//! lowest of the VM's files takes it in while it is copied, and stands alone then. Files that others'
//! disks lie on do not move.
//!
//! The copying goes on beside the actor. The guest may be stopped meanwhile, which ends it.

mod copy;
mod plan;
mod switch;

use hostler_host::VmDir;
use hostler_qmp::Qmp;
use hostler_types::{DatastoreId, LayerOwner, OperationId, PowerState};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(super) use self::copy::Copies;
use self::plan::{FileMove, files};
use super::actor::{Actor, Message, Reply};
use super::create::{remove_files, vm_dir};
use super::layers;
use super::lend::give_back;
use super::record::VmRecord;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::datastores::{Condemned, Held};
use crate::fault::Fault;
use crate::references::require_unused;

/// What the record says of a move: the other place, whose files are not the VM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DisksMove {
    /// Its files are being copied there.
    To(DatastoreId),
    /// They have gone from there.
    From(DatastoreId),
}

impl DisksMove {
    pub(crate) fn other(self) -> DatastoreId {
        match self {
            Self::To(other) | Self::From(other) => other,
        }
    }
}

/// A move under way.
#[derive(Debug)]
pub(super) struct Moving {
    op: OperationId,
    reply: Reply,
    to: DatastoreId,
    /// With the QEMU that the VM had at the beginning.
    live: bool,
    /// The VM's files: nobody begins to build upon them.
    _own: Condemned,
    /// What lies beneath them.
    _beneath: Held,
}

impl Actor {
    /// Begins, or lets another asker wait for the one that is under way.
    pub(super) async fn disks_move(
        &mut self,
        op: OperationId,
        to: DatastoreId,
        rate: Option<u64>,
        reply: Reply,
    ) {
        if let Some(under_way) = self.moving.as_mut().filter(|moving| moving.op == op) {
            under_way.reply = reply;
            return;
        }
        match Box::pin(self.begin_move(to)).await {
            // It has been there, by an operation whose end nobody remembers.
            Ok(None) => self.finish(op, Ok(()), reply).await,
            Ok(Some((claims, files))) => {
                let live = self.machine.is_some();
                let (_own, _beneath) = claims;
                self.moving = Some(Moving { op, reply, to, live, _own, _beneath });
                self.publish();
                self.copy_beside(op, to, files, rate);
            }
            Err(fault) => self.finish(op, Err(fault), reply).await,
        }
    }

    /// Whether a command must wait until the files are where they go.
    pub(super) fn require_not_moving(&self) -> Result<(), Fault> {
        match &self.moving {
            Some(_) => Err(Fault::InUse(
                "its disks are just being moved to another datastore; wait, or cancel that"
                    .to_owned(),
            )),
            None => Ok(()),
        }
    }

    async fn begin_move(
        &mut self,
        to: DatastoreId,
    ) -> Result<Option<((Condemned, Held), Vec<FileMove>)>, Fault> {
        self.require_not_moving()?;
        self.require_not_flattening()?;
        let possible = [PowerState::Stopped, PowerState::Failed, PowerState::Running];
        if !possible.contains(&self.power) {
            let (action, power) = ("moving its disks", self.power);
            return Err(Fault::Power { action, power, needed: "running or stopped" });
        }
        if let Some(unsettled) = self.record.unsettled_layers() {
            return Err(Fault::InUse(format!("{unsettled}; try again")));
        }
        let qmp = self.monitor();
        self.settle_move(qmp.as_ref()).await?;
        if self.record.datastore() == to {
            return Ok(None);
        }
        if self.record.moving.is_some() {
            let text = "what is left of its last move cannot be removed yet; see the agent's log";
            return Err(Fault::InUse(text.to_owned()));
        }
        let (host, record) = (self.host.clone(), self.record.clone());
        let prepared = blocking(move || prepare(&host, &record, to)).await?;
        self.record.moving = Some(DisksMove::To(to));
        if let Err(fault) = self.save().await {
            self.record.moving = None;
            return Err(fault);
        }
        Ok(Some(prepared))
    }

    pub(super) fn monitor(&self) -> Option<Qmp> {
        self.machine.as_ref().map(|machine| machine.live.qmp.clone())
    }

    fn copy_beside(
        &self,
        op: OperationId,
        to: DatastoreId,
        files: Vec<FileMove>,
        rate: Option<u64>,
    ) {
        let Some(to_self) = self.to_self.upgrade() else { return };
        let stop = CancellationToken::new();
        let work = copy::Work {
            host: self.host.clone(),
            record: self.record.clone(),
            to,
            files,
            qmp: self.monitor(),
            rate,
            op,
            stop: stop.clone(),
        };
        let cancels = self.host.cancels.clone();
        let process = self.machine.as_ref().map(|machine| machine.process.clone());
        tokio::spawn(async move {
            let cancelled =
                cancels.unless_cancelled(op, std::future::pending::<Result<(), Fault>>());
            let ended = async {
                match &process {
                    Some(process) => drop(process.exited().await),
                    None => std::future::pending().await,
                }
            };
            let mut copying = std::pin::pin!(work.copy());
            let copied = tokio::select! {
                copied = &mut copying => copied,
                cancelled = cancelled => ended_early(&stop, copying, cancelled.err()).await,
                () = ended => ended_early(&stop, copying, Some(ended_meanwhile())).await,
            };
            let _ended = to_self.send(Message::DisksCopied(copied.map(Box::new))).await;
        });
    }

    /// All is at the target, but for what the guest still writes; or it came to nothing.
    pub(super) async fn disks_copied(&mut self, copied: Result<Box<Copies>, Fault>) {
        let Some(live) = self.moving.as_ref().map(|moving| moving.live) else { return };
        let before = self.record.clone();
        let switched = match copied {
            Ok(copies) if live == self.machine.is_some() => self.change_over(*copies).await,
            Ok(_) => Err(ended_meanwhile()),
            Err(fault) => Err(fault),
        };
        let qmp = self.monitor();
        let Some(moving) = self.moving.take() else { return };
        let Moving { op, reply, to, _own, _beneath, .. } = moving;
        let from = self.record.moving.map(DisksMove::other);
        // Whoever wants to build on what is left finds out at once that it goes.
        drop((_own, _beneath));
        // Which of the two sets goes is in the record. What fails is tried again.
        self.settle_move_or_log(qmp.as_ref()).await;
        let (host, moved) = (self.host.clone(), switched.is_ok());
        let looked = blocking(move || {
            // What lay beneath its files is not needed for them any more.
            for disk in before.definition.vm.status.disks.iter().filter(|_| moved) {
                give_back(&host, &before, &disk.layers);
            }
            [Some(to), from].into_iter().flatten().for_each(|id| host.datastores.look_again(id));
            Ok(())
        });
        if let Err(error) = looked.await {
            tracing::warn!(%error, "cannot look at a datastore");
        }
        self.finish(op, switched, reply).await;
    }

    /// As [`Self::settle_move`]; what fails is tried again when QEMU ends, and at the next start.
    pub(super) async fn settle_move_or_log(&mut self, qmp: Option<&Qmp>) {
        if let Err(error) = self.settle_move(qmp).await {
            tracing::warn!(vm = %self.record.id(), %error, "files of a move are left; later");
        }
    }

    /// Brings a move to its end that nobody works at: the set of files that is not the VM's goes, and its
    /// QEMU, if there is one, lets go of it first.
    pub(super) async fn settle_move(&mut self, qmp: Option<&Qmp>) -> Result<(), Fault> {
        let Some(of) = self.record.moving.filter(|_| self.moving.is_none()) else { return Ok(()) };
        if let Some(qmp) = qmp {
            self.settle_mirrors(qmp, of).await?;
        }
        let (host, mut record) = (self.host.clone(), self.record.clone());
        self.record = blocking(move || {
            let dir = host.datastores.get(of.other())?.vm(record.id());
            remove_files(&host, &dir)?;
            record.moving = None;
            host.records.save(&record)?;
            Ok(record)
        })
        .await?;
        self.publish();
        Ok(())
    }
}

/// Waits until nothing is copied any more.
async fn ended_early(
    stop: &CancellationToken,
    copying: impl Future<Output = Result<Copies, Fault>>,
    why: Option<Fault>,
) -> Result<Copies, Fault> {
    stop.cancel();
    let _whatever = copying.await;
    Err(why.unwrap_or(Fault::Cancelled))
}

fn ended_meanwhile() -> Fault {
    Fault::WrongState("the VM has ended meanwhile; its disks are where they were".to_owned())
}

/// What is to be done, with the files kept from whoever would build on them. Blocks.
fn prepare(
    host: &HostContext,
    record: &VmRecord,
    to: DatastoreId,
) -> Result<((Condemned, Held), Vec<FileMove>), Fault> {
    let dir = vm_dir(host, record)?;
    let target = host.datastores.get(to)?.vm(record.id());
    require_nothing_there(&target)?;
    for disk in &record.definition.vm.status.disks {
        let there = |path: std::path::PathBuf| std::fs::symlink_metadata(path).is_ok();
        let made = disk.layers.first();
        // A disk that was never plugged in has no file yet.
        if made.is_some_and(|l| there(hostler_host::layers::path(dir.datastore(), &l.file)))
            || !record.is_unmade(&disk.name)
        {
            layers::check(&dir, &disk.layers)?;
        } else if disk.layers.len() > 1 {
            return Err(Fault::WrongState(format!(
                "disk `{}` was never plugged in, and is to show what lies on this datastore; plug it in \
                 once, or delete it, first",
                disk.name
            )));
        }
    }
    let own = LayerOwner::Vm(record.id());
    let (own, beneath): (Vec<_>, Vec<_>) =
        record.known_files().into_iter().partition(|file| file.owner() == own);
    let from = dir.datastore().id();
    let why = "it is going to another datastore";
    let condemned = host.datastores.condemn(from, own.clone(), why)?;
    require_unused(dir.datastore(), &dir.layer_files()?)?;
    let called = record.definition.vm.called();
    let held = host.datastores.hold(from, beneath, format!("the move of the VM `{called}`"))?;
    let files = files(record, &dir);
    copy::require_room(record, &dir, target.datastore(), &files)?;
    Ok(((condemned, held), files))
}

fn require_nothing_there(target: &VmDir) -> Result<(), Fault> {
    match std::fs::symlink_metadata(target.path()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(Fault::WrongState(format!(
            "{} is there already: files of a VM with this id; see `hostler datastore check`",
            target.path().display()
        ))),
    }
}
