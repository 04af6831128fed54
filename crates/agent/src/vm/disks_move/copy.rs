//! The copying: of files that nobody writes to here, of those that the guest writes to by QEMU.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler_agent_api::OperationProgress;
use hostler_host::copy::{copy_file, flatten};
use hostler_host::layers::path;
use hostler_host::{Datastore, VmDir, VmUid, volume};
use hostler_qemu::{BlockJob, DiskPlan, Mirror, hotplug};
use hostler_qmp::Qmp;
use hostler_types::{ByteSize, DatastoreId, DiskSpec, LayerFile, Name, OperationId, Provisioning};
use tokio_util::sync::CancellationToken;

use super::plan::FileMove;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};
use crate::vm::create::vm_dir;
use crate::vm::power::disk_plan;
use crate::vm::record::VmRecord;

/// What stays free on the target, at least.
const RESERVE: u64 = 64 << 20;
/// How often it is looked how far `qemu-img` is.
const LOOK: Duration = Duration::from_millis(200);

/// All that the copying needs.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) host: Arc<HostContext>,
    pub(super) record: VmRecord,
    pub(super) to: DatastoreId,
    pub(super) files: Vec<FileMove>,
    /// Of the QEMU that runs the guest.
    pub(super) qmp: Option<Qmp>,
    /// Bytes a second.
    pub(super) rate: Option<u64>,
    pub(super) op: OperationId,
    /// It is to end soon. It is not dropped instead: no file is to come into being afterwards.
    pub(super) stop: CancellationToken,
}

/// What was copied.
#[derive(Debug)]
pub(crate) struct Copies {
    pub(super) target: VmDir,
    /// They follow what the guest writes; one for each disk that is plugged in.
    pub(super) mirrors: Vec<BlockJob>,
}

/// The mirror of a disk; one at a time.
pub(super) fn job_id(disk: &Name) -> String {
    format!("move-{disk}")
}

impl Work {
    /// What was begun is left as it is when it ends too early, mirrors too.
    pub(super) async fn copy(self) -> Result<Copies, Fault> {
        let (host, record, to) = (self.host.clone(), self.record.clone(), self.to);
        let (source, target) = blocking(move || {
            let source = vm_dir(&host, &record)?;
            let target = host.datastores.get(to)?.vm(record.id());
            target.create()?;
            Ok((source, target))
        })
        .await?;
        let beside = beside(&source, self.qmp.is_some())?;
        let measure = |file: &LayerFile| measured(&path(source.datastore(), file));
        let files = self.files.iter().map(|planned| needs(planned, measure));
        let others = beside.iter().map(|name| measured(&source.path().join(name)));
        let progress = Progress { done: AtomicU64::new(0), total: files.chain(others).sum() };
        for name in &beside {
            let file = source.path().join(name);
            self.copy_plain(&file, &target, (None, false), (&progress, "copying files")).await?;
        }
        let mut mirrors = Vec::new();
        for planned in &self.files {
            if self.stop.is_cancelled() {
                return Err(Fault::Cancelled);
            }
            let (activity, before) = (format!("copying disk {}", planned.disk), progress.done());
            let from = path(source.datastore(), &planned.file);
            match (&self.qmp, planned.written) {
                (Some(qmp), true) => {
                    mirrors.push(self.mirror(qmp, &target, planned, &progress).await?);
                }
                _ if !planned.takes_in.is_empty() => {
                    self.copy_alone(&from, &target, planned, (&progress, &activity)).await?;
                }
                _ => {
                    let whole = self.is_whole(&planned.disk) && planned.beneath.is_none();
                    let how = (Some(self.record.uid), whole);
                    self.copy_plain(&from, &target, how, (&progress, &activity)).await?;
                }
            }
            progress.at_least(before + needs(planned, measure));
        }
        let dir = target.clone();
        blocking(move || Ok(volume::flush_names(&dir)?)).await?;
        Ok(Copies { target, mirrors })
    }

    fn disk(&self, disk: &Name) -> Option<&DiskSpec> {
        let plugged = self.record.running.iter().flat_map(|running| &running.spec.disks);
        let spec = &self.record.definition.vm.spec;
        plugged.chain(spec.own_disks()).find(|spec| spec.name == *disk)
    }

    /// Whether all of a disk's size is on the datastore.
    fn is_whole(&self, disk: &Name) -> bool {
        self.disk(disk).is_some_and(|disk| !disk.provisioning.is_thin())
    }

    async fn copy_plain(
        &self,
        from: &Path,
        target: &VmDir,
        (owner, whole): (Option<VmUid>, bool),
        (progress, activity): (&Progress, &str),
    ) -> Result<(), Fault> {
        let Some(name) = from.file_name() else { return Ok(()) };
        let to = target.path().join(name);
        let report = |bytes| {
            progress.add(bytes);
            self.tell(progress, activity);
            !self.stop.is_cancelled()
        };
        match copy_file(from, (target, &to), owner, (whole, self.rate), report).await? {
            true => Ok(()),
            false => Err(Fault::Cancelled),
        }
    }

    /// With what lies beneath it.
    async fn copy_alone(
        &self,
        from: &Path,
        target: &VmDir,
        planned: &FileMove,
        (progress, activity): (&Progress, &str),
    ) -> Result<(), Fault> {
        let to = path(target.datastore(), &planned.file);
        let before = progress.done();
        let (uid, limits) = (self.record.uid, (ByteSize(RESERVE), self.rate));
        let files = (from, to.as_path());
        {
            let copying = flatten(&self.host.qemu_img, target.datastore(), files, uid, limits);
            tokio::pin!(copying);
            loop {
                tokio::select! {
                    copied = &mut copying => break copied?,
                    () = self.stop.cancelled() => return Err(Fault::Cancelled),
                    () = tokio::time::sleep(LOOK) => {
                        progress.at_least(before + measured(&to));
                        self.tell(progress, activity);
                    }
                }
            }
        }
        blocking(move || Ok(volume::set_owner(&to, uid)?)).await
    }

    /// Lets QEMU copy what the guest writes to; all is copied when this returns, and what the guest
    /// writes from then on goes to both files.
    async fn mirror(
        &self,
        qmp: &Qmp,
        target: &VmDir,
        planned: &FileMove,
        progress: &Progress,
    ) -> Result<BlockJob, Fault> {
        let qemu = |error| Fault::Qemu(chain(&error));
        self.make_active(target, planned).await?;
        let disk = self.disk(&planned.disk).cloned();
        let disk = disk.ok_or_else(|| Fault::WrongState("a disk is gone".to_owned()))?;
        let (after, dir) = (self.record.moved_to(self.to), target.clone());
        let (aio, name) = (self.record.disk_aio(), disk.name.clone());
        let plan: DiskPlan = blocking(move || Ok(disk_plan(&dir, &after, &disk, aio))).await?;
        hotplug::open_disk(qmp, &plan).await.map_err(qemu)?;
        let Some(active) = plan.layers.first() else {
            return Err(Fault::WrongState(format!("disk `{name}` has no file")));
        };
        let mirror = Mirror {
            node: crate::vm::layers::node(&self.record, &name, &planned.file),
            target: active.node.clone(),
            whole: planned.beneath.is_none(),
        };
        let mut job =
            BlockJob::mirror(qmp, &job_id(&name), mirror, self.rate).await.map_err(qemu)?;
        let (before, activity) = (progress.done(), format!("copying disk {name}"));
        let copied = job.mirrored(|done, _| {
            progress.at_least(before + done);
            self.tell(progress, &activity);
        });
        tokio::select! {
            copied = copied => copied.map_err(|error| full_or(target.datastore(), &error))?,
            () = self.stop.cancelled() => return Err(Fault::Cancelled),
        }
        if self.is_whole(&name) && planned.beneath.is_none() {
            // QEMU makes holes of zeros.
            let file = path(target.datastore(), &planned.file);
            blocking(move || Ok(volume::reserve(&file)?)).await?;
        }
        Ok(job)
    }

    /// The empty file that the guest is going to write to.
    async fn make_active(&self, target: &VmDir, planned: &FileMove) -> Result<(), Fault> {
        let to = path(target.datastore(), &planned.file);
        let (host, record) = (self.host.clone(), self.record.clone());
        let file = planned.file.clone();
        let size = blocking(move || {
            Ok(volume::virtual_size(&path(vm_dir(&host, &record)?.datastore(), &file))?)
        })
        .await?;
        let uid = self.record.uid;
        let whole = self.disk(&planned.disk).map(|disk| disk.provisioning);
        if let Some(whole) = whole.filter(|it| !it.is_thin() && planned.beneath.is_none()) {
            let zeroed = whole == Provisioning::Zeroed;
            let made = self.host.qemu_img.create_whole(&to, size, zeroed).await;
            made.map_err(|error| full_or(target.datastore(), &error))?;
            return blocking(move || Ok(volume::set_owner(&to, uid)?)).await;
        }
        let (dir, planned) = (target.clone(), planned.clone());
        blocking(move || {
            let beneath = planned.beneath.as_ref();
            Ok(volume::create_file(&dir, &planned.file, size, beneath, uid)?)
        })
        .await
    }

    fn tell(&self, progress: &Progress, activity: &str) {
        let percent = progress.done().saturating_mul(100).checked_div(progress.total);
        let percent = percent.and_then(|percent| u8::try_from(percent.min(100)).ok());
        let activity = activity.to_owned();
        self.host.hub.progress(OperationProgress { op: self.op, percent, activity });
    }
}

/// How far the copying is, in bytes.
#[derive(Debug)]
struct Progress {
    done: AtomicU64,
    /// An estimate: what the files have.
    total: u64,
}

impl Progress {
    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn at_least(&self, bytes: u64) {
        self.done.fetch_max(bytes.min(self.total), Ordering::Relaxed);
    }
}

/// Refuses when what is to be copied does not fit. Blocks.
///
/// # Errors
/// [`Fault::NoSpace`], with the numbers.
pub(super) fn require_room(
    record: &VmRecord,
    source: &VmDir,
    target: &Datastore,
    files: &[FileMove],
) -> Result<(), Fault> {
    let spec = &record.definition.vm.spec;
    let whole =
        |disk: &Name| spec.own_disks().find(|d| d.name == *disk && !d.provisioning.is_thin());
    let of_disks = files.iter().map(|planned| {
        let bytes = needs(planned, |file| measured(&path(source.datastore(), file)));
        let lowest = planned.beneath.is_none();
        let size = whole(&planned.disk).filter(|_| lowest).map_or(0, |disk| disk.size.bytes());
        bytes.max(size)
    });
    let others = beside(source, false)?;
    let others = others.iter().map(|name| measured(&source.path().join(name)));
    let needed: u64 = of_disks.chain(others).sum();
    let free = target.space()?.free;
    if needed.saturating_add(RESERVE) <= free.bytes() {
        return Ok(());
    }
    Err(Fault::NoSpace(format!(
        "the VM's files take {} on the datastore {}, which has {free} free and keeps {} of that; make \
         room there, or choose another datastore",
        ByteSize(needed),
        target.id(),
        ByteSize(RESERVE)
    )))
}

/// Bytes that a file and what it takes in have here.
fn needs(planned: &FileMove, measured: impl Fn(&LayerFile) -> u64) -> u64 {
    [&planned.file].into_iter().chain(&planned.takes_in).map(measured).sum()
}

fn measured(file: &Path) -> u64 {
    volume::allocated(file).map_or(0, ByteSize::bytes)
}

/// Why copying failed: QEMU tells only in words that there is no room.
fn full_or(target: &Datastore, error: &(dyn std::error::Error + 'static)) -> Fault {
    let text = chain(error);
    match text.contains("No space left") {
        true => Fault::NoSpace(format!(
            "the datastore {} is full: {text}; the VM's disks are where they were",
            target.id()
        )),
        false => Fault::Qemu(format!("its disks cannot be copied: {text}")),
    }
}

/// Files beside the disks: all but what is made anew, or copied at the end.
fn beside(source: &VmDir, live: bool) -> Result<Vec<OsString>, Fault> {
    let failed = |error: std::io::Error| Fault::internal("list a VM's files", &error);
    let disks = source.layer_files()?;
    let is_disk = |name: &str| disks.iter().any(|file| file.file_name() == name);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(source.path()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let later = live && (text.starts_with("console.log") || entry.path() == source.nvram());
        if entry.file_type().map_err(failed)?.is_file()
            && !is_disk(&text)
            && !text.starts_with('.')
            && entry.path() != source.definition_path()
            && !later
        {
            names.push(name);
        }
    }
    Ok(names)
}
