//! Making VMs from another VM or from a template: full clones, which are copies, linked ones, which lie on its disks, and
//! instant ones, which go on from where it runs (see `fork`).
//!
//! One request makes any number of clones, in one task: all of them or none. The parent is not locked:
//! it goes on as it likes, and any number of requests may clone it at the same time. What its disks
//! hold is frozen first (by its host), and what is frozen stays as long as anybody needs it. A template's
//! version is a parent that never runs, and whose disks are frozen for good.

use std::sync::Arc;

use hostler_policy::cluster::{ClusterVm, Reach, ReachOf};
use hostler_store::Write;
use hostler_types::{
    CdromSpec, CloneMode, CopySource, Customization, DatastoreKind, DiskSource, DiskSpec,
    LayerFile, Lease, Name, NetworkKind, NicAddressing, NicSpec, PlacementExplanation, PowerState,
    Ref, Role, Snapshot as VmSnapshot, SnapshotId, Task, TemplateRef, Vm, VmClone, VmId, VmKind,
    VmNic, VmSpec, validate_labels,
};
use jiff::Timestamp;
use serde::Serialize;

use super::create::{Taking, expect_image, in_the_making, name_taken, nics, validate};
use super::delete::require_not_recycled;
use super::fork;
use super::{require_host, require_power};
use crate::actor::{Actor, authorize};
use crate::customize::{self, GuestWish};
use crate::error::ServiceError;
use crate::inventory::{Snapshot, images};
use crate::placement::{self, Decided};
use crate::redact::Shown;
use crate::services::datastore::require_room_for_copies;
use crate::services::submit::{Ordered, Planned, order_with};
use crate::services::template::find_version;
use crate::services::{Changed, Options, naming_rule};
use crate::tasks::vm_clone::{self, Cloning};
use crate::world::World;

/// What a request for clones led to.
#[derive(Debug, Clone)]
pub struct Cloned {
    /// In the order of their names; as they will be, or would be.
    pub vms: Vec<Arc<Vm>>,
    /// Absent for a dry run.
    pub task: Option<Arc<Task>>,
    /// Why these hosts and datastores.
    pub explanation: Vec<String>,
    /// All filters and scores, of each; only for a dry run.
    pub explained: Vec<PlacementExplanation>,
}

/// What clones are made from. Serialised as the reference alone: idempotency keys are hashes of it.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub enum CloneOf<'a> {
    Vm(&'a Ref),
    Template(&'a TemplateRef),
}

impl CloneOf<'_> {
    /// The VM, or the record of the template's version.
    fn find(self, snapshot: &Snapshot) -> Result<&Arc<Vm>, ServiceError> {
        match self {
            Self::Vm(vm) => snapshot.find::<VmKind>(vm),
            Self::Template(template) => Ok(find_version(snapshot, template)?.1),
        }
    }
}

/// Clones a VM, whether it runs or not, or makes VMs from a template.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `naming_rule`, `wrong_state`, `busy`,
/// `template_not_ready`, `no_host`, `no_capacity`, `address_taken`, `pool_exhausted`,
/// `idempotency_mismatch`.
pub async fn clone(
    world: &World,
    actor: &Actor,
    parent: CloneOf<'_>,
    request: VmClone,
    options: &Options,
) -> Result<Cloned, ServiceError> {
    authorize(actor, Role::Operator, "clone VMs")?;
    let mut macs = world.macs.begin();
    let mut customizing = world.customizing();
    let mut placing = world.placing();
    let over = request.customization.as_ref();
    let over = over.map(|asked| customize::sealed(&world.vault, asked, None)).transpose()?;
    let customization = request.customization.clone().map(Customization::redacted);
    let key = (parent, VmClone { customization, ..request.clone() });
    let (mut planned, mut explained) = (Vec::new(), Vec::new());
    let ordered = order_with(world, actor, options, "vm.clone", &key, |snapshot| {
        macs.release();
        customizing.release();
        placing.release();
        let from = parent.find(snapshot)?;
        if let CloneOf::Vm(_) = parent {
            // Nor is it the record of a template's version.
            require_not_recycled(from)?;
        }
        let parent = from;
        let lease = request.lease_seconds;
        let lease = lease
            .map(|seconds| Lease::begin(seconds, world.settings.lease_grace, Timestamp::now()))
            .transpose()
            .map_err(|error| ServiceError::invalid("lease_seconds", error.reason))?;
        let mut plan = Plan {
            snapshot,
            parent,
            request: &request,
            over: over.as_ref(),
            lease,
            taking: Taking {
                macs: &mut macs,
                customizing: &mut customizing,
                placing: &mut placing,
            },
        };
        let (vms, decided) = plan.vms()?;
        let explanation = told(&vms);
        let at = plan.at()?.map(|at| at.id);
        let mut order = match request.mode {
            // They run from the beginning.
            CloneMode::Instant => order(parent, &vms, at, &request)
                .promised(world.admissions.admit(&world.inventory, &vms)?),
            CloneMode::Linked | CloneMode::Full => order(parent, &vms, at, &request),
        };
        order.writes.extend(decided.writes("vm.clone"));
        explained = if options.dry_run { decided.explained() } else { Vec::new() };
        let object = Arc::new(vms[0].clone());
        planned = vms;
        Ok(Planned { order, object, explanation })
    })
    .await?;
    match ordered {
        Ordered::New(Changed { task, explanation, .. }) => {
            let snapshot = world.snapshot();
            let stored = |vm: Vm| snapshot.get(vm.id()).cloned().unwrap_or_else(|| Arc::new(vm));
            let vms = planned.into_iter().map(|vm| VmKind::shown(&stored(vm))).collect();
            Ok(Cloned { vms, task, explanation, explained })
        }
        Ordered::Before(task) => before(world, parent, task),
    }
}

/// What an earlier request with the same key has made.
fn before(world: &World, parent: CloneOf<'_>, task: Arc<Task>) -> Result<Cloned, ServiceError> {
    let snapshot = world.snapshot();
    // Instant clones are made with their parent locked.
    let parent = parent.find(&snapshot).map(|parent| parent.id().untyped()).ok();
    let clones = task.spec.objects.iter().filter(|id| Some(**id) != parent);
    let found = clones.map(|id| snapshot.get::<VmKind>(id.typed()));
    let vms: Option<Vec<_>> = found.map(|vm| vm.map(VmKind::shown)).collect();
    let gone = || {
        let message =
            format!("this request made VMs before (task {}), some of which are gone", task.id());
        ServiceError::conflict("gone", message).hint("use a new idempotency key to make them again")
    };
    let vms = vms.ok_or_else(gone)?;
    let explanation = vms.iter().flat_map(|vm| vm.status.placement.clone()).collect();
    Ok(Cloned { vms, task: Some(task), explanation, explained: Vec::new() })
}

fn order(
    parent: &Vm,
    vms: &[Vm],
    at: Option<SnapshotId>,
    request: &VmClone,
) -> crate::services::Order {
    if request.mode == CloneMode::Instant {
        return fork::order(parent, vms);
    }
    // A copy takes its time, and a running parent writes on: a snapshot holds what is copied.
    let hold = request.mode == CloneMode::Full && at.is_none() && parent.status.power.is_live();
    let cloning = Cloning {
        parent: parent.id(),
        vms: vms.iter().map(Vm::id).collect(),
        at,
        hold: hold.then(SnapshotId::generate),
        start: request.start,
    };
    let mut order = vm_clone::order(vms, &cloning);
    order.writes.extend(vms.iter().map(Write::create));
    // Whoever deletes the parent, or changes its disks, has it locked.
    order.writes.push(Write::ExpectUnlocked { object: parent.id().untyped() });
    let mut needed: Vec<_> = vms.iter().flat_map(images).collect();
    needed.sort_unstable();
    needed.dedup();
    order.writes.extend(needed.into_iter().map(expect_image));
    order
}

struct Plan<'a, 'b> {
    snapshot: &'a Snapshot,
    parent: &'a Arc<Vm>,
    request: &'a VmClone,
    over: Option<&'a Customization>,
    lease: Option<Lease>,
    taking: Taking<'a, 'b>,
}

impl Plan<'_, '_> {
    /// All clones, and where they go: rules may keep them apart, so all are placed at once.
    fn vms(&mut self) -> Result<(Vec<Vm>, Decided), ServiceError> {
        self.require_possible()?;
        let (mut specs, mut wishes) = (Vec::new(), Vec::new());
        for name in self.names()? {
            let id = VmId::generate();
            let spec = self.vm(id, &name)?;
            wishes.push(self.wish(id, &name, &spec)?);
            specs.push((id, name, spec));
        }
        let decided = self.taking.placing.place(wishes)?;
        let mut vms = Vec::new();
        for (at, (id, name, spec)) in specs.into_iter().enumerate() {
            let status = in_the_making(decided.place(at)?, decided.sentences[at].clone());
            let labels = self.request.labels.clone();
            let mut vm = Vm::new(name, labels, Timestamp::now(), spec, status);
            vm.metadata.id = id;
            vms.push(vm);
        }
        require_room_for_copies(self.snapshot, &vms)?;
        Ok((vms, decided))
    }

    fn require_possible(&self) -> Result<(), ServiceError> {
        if self.parent.is_template() {
            self.require_template_fit()?;
        }
        // Overlays on a template are made by whichever host reaches it.
        if !(self.parent.is_template() && self.request.mode == CloneMode::Linked) {
            require_host(self.snapshot, self.parent)?;
        }
        validate_labels(&self.request.labels)
            .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
        let fit = [
            PowerState::Stopped,
            PowerState::Running,
            PowerState::Paused,
            PowerState::Suspended,
            PowerState::Failed,
        ];
        require_power(self.parent, "cloned", &fit)?;
        if self.request.mode == CloneMode::Instant {
            fork::require_possible(self.parent, self.request)?;
        }
        if self.request.mode == CloneMode::Linked && self.request.datastore.is_some() {
            let reason = "a linked clone lies where its parent's disks lie";
            return Err(ServiceError::invalid("datastore", reason)
                .hint("leave it out, or make a full clone"));
        }
        Ok(())
    }

    /// A template never runs, has no snapshots, and nobody asks its host what its disks are made of.
    fn require_template_fit(&self) -> Result<(), ServiceError> {
        let name = self.parent.called();
        if self.request.mode == CloneMode::Instant {
            let reason = "a template does not run, and instant clones go on from where a VM is";
            return Err(ServiceError::invalid("mode", reason).hint("make linked ones"));
        }
        if self.request.snapshot.is_some() {
            return Err(ServiceError::invalid("snapshot", "a template has no snapshots"));
        }
        let told = |disk: &DiskSpec| {
            let told = self.parent.status.disks.iter().find(|told| told.name == disk.name);
            told.is_some_and(|told| !told.layers.is_empty())
        };
        if !self.parent.spec.disks.iter().all(told) {
            let message = format!("the host of template `{name}` has not told what it is made of");
            return Err(
                ServiceError::conflict("template_not_ready", message).hint("try again in a moment")
            );
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<Name>, ServiceError> {
        let names = self.request.name.names(self.request.count)?;
        if self.request.mode == CloneMode::Instant {
            fork::require_number(names.len())?;
        }
        for name in &names {
            if self.snapshot.all::<VmKind>().get_by_name(name).is_some() {
                return Err(name_taken(name));
            }
            naming_rule::require_allowed(self.snapshot, name, &self.request.labels)?;
        }
        Ok(names)
    }

    /// The parent's snapshot to clone from.
    fn at(&self) -> Result<Option<&VmSnapshot>, ServiceError> {
        let Some(wanted) = &self.request.snapshot else { return Ok(None) };
        let name = self.parent.name();
        let found = self.parent.status.snapshots.find(wanted).ok_or_else(|| {
            let message = format!("vm `{name}` has no snapshot `{wanted}`");
            ServiceError::new(crate::error::Class::NotFound, "not_found", message)
                .hint(format!("see `hostler vm snapshot list {name}`"))
        });
        found.map(Some)
    }

    fn vm(&mut self, id: VmId, name: &Name) -> Result<VmSpec, ServiceError> {
        let (mut nics, addressing) = self.nics(id)?;
        let wish_for_guest = GuestWish {
            vm: id,
            name,
            called: None,
            spec: self.request.customization_spec.as_ref(),
            over: self.over,
            addressing: &addressing,
        };
        let customization =
            self.taking.customizing.resolve(self.snapshot, &wish_for_guest, &mut nics)?;
        let customization = customization.unwrap_or_else(|| inherited(self.parent));
        let spec = self.spec(nics, customization)?;
        validate(&spec)?;
        Ok(spec)
    }

    fn spec(
        &self,
        nics: Vec<NicSpec>,
        customization: Customization,
    ) -> Result<VmSpec, ServiceError> {
        let (parent, request) = (&self.parent.spec, self.request);
        let memory = request.memory.unwrap_or(parent.memory);
        let instant = request.mode == CloneMode::Instant;
        let drive = |drive: &CdromSpec| CdromSpec {
            image: drive.image.filter(|_| instant),
            ..drive.clone()
        };
        Ok(VmSpec {
            description: request.description.clone().unwrap_or(parent.description.clone()),
            cpus: request.cpus.unwrap_or(parent.cpus),
            memory,
            max_memory: parent.max_memory.filter(|most| *most >= memory),
            balloon: None,
            disks: self.disks()?,
            detached: Vec::new(),
            cdroms: match self.parent.is_template() {
                true => Vec::new(),
                false => parent.cdroms.iter().map(drive).collect(),
            },
            nics,
            customization: Some(Box::new(customization)),
            protected: request.protected,
            recycled: None,
            template: None,
            lease: self.lease.clone(),
            ..parent.clone()
        })
    }

    /// The disks, made of what the parent's are made of now, as far as is known here: its host tells
    /// the task what they really are made of.
    fn disks(&self) -> Result<Vec<DiskSpec>, ServiceError> {
        let parent = &self.parent.spec;
        let (mode, datastore) = (self.request.mode, self.parent.status.datastore);
        let source = |file: LayerFile| match mode {
            CloneMode::Linked | CloneMode::Instant => DiskSource::Linked(file),
            CloneMode::Full => DiskSource::Copy(CopySource { datastore, file }),
        };
        let made = |disk: &DiskSpec, file: LayerFile| DiskSpec {
            source: source(file),
            provisioning: hostler_types::Provisioning::Thin,
            ..disk.clone()
        };
        if let Some(at) = self.at()? {
            let held = at.disks.iter().filter_map(|held| {
                let disk = parent.own_disks().find(|disk| disk.name == held.name)?;
                Some(DiskSpec { size: held.size, ..made(disk, held.layers.first()?.clone()) })
            });
            return Ok(held.collect());
        }
        let active = |disk: &DiskSpec| {
            let told = self.parent.status.disks.iter().find(|told| told.name == disk.name);
            let told = told.and_then(|told| told.layers.first()).map(|layer| layer.file.clone());
            told.unwrap_or_else(|| LayerFile::disk(self.parent.id(), &disk.name, 0))
        };
        Ok(parent.disks.iter().map(|disk| made(disk, active(disk))).collect())
    }

    /// As asked for, or on the parent's networks; with the way to an address of each.
    fn nics(
        &mut self,
        vm: VmId,
    ) -> Result<(Vec<NicSpec>, Vec<Option<NicAddressing>>), ServiceError> {
        let like = |nic: &NicSpec| VmNic {
            name: Some(nic.name.clone()),
            network: Ref::by_id(nic.network),
            mac: None,
            address: self.addressing(nic),
            link: nic.link,
        };
        let wanted = match &self.request.nics {
            Some(wanted) => wanted.clone(),
            None => self.parent.spec.nics.iter().map(like).collect(),
        };
        if self.request.name.is_pattern() && wanted.iter().any(|nic| nic.mac.is_some()) {
            let reason = "a MAC address is one NIC's only; leave it out where there are many VMs";
            return Err(ServiceError::invalid("nics", reason));
        }
        let addressing = wanted.iter().map(|nic| nic.address.clone()).collect();
        let nics = nics(self.snapshot, self.taking.macs, vm, Some(&wanted))?;
        Ok((nics, addressing))
    }

    /// Who had an address of the pool gets another one; as the customization spec says, if there is
    /// one.
    fn addressing(&self, nic: &NicSpec) -> Option<NicAddressing> {
        let network = self.snapshot.get::<NetworkKind>(nic.network)?;
        let fixed = nic.address.is_some() && self.request.customization_spec.is_none();
        (fixed && network.spec.pool().is_some()).then_some(NicAddressing::Pool)
    }

    /// Where it may go: a linked clone lies beside its parent, an instant one runs there, too, and a
    /// full one is copied by the parent's host.
    fn wish(&self, id: VmId, name: &Name, spec: &VmSpec) -> Result<ClusterVm, ServiceError> {
        let status = &self.parent.status;
        let mut wish =
            placement::wish(self.snapshot, id, name.as_str(), &self.request.labels, spec);
        if !self.request.start && self.request.mode != CloneMode::Instant {
            wish = placement::at_rest(wish);
        }
        wish.datastore = Some(status.datastore);
        wish.wanted = match self.request.mode {
            CloneMode::Linked => None,
            CloneMode::Instant | CloneMode::Full => Some(status.host),
        };
        if self.request.mode == CloneMode::Full
            && let Some(wanted) = &self.request.datastore
        {
            wish.datastore = Some(self.snapshot.find::<DatastoreKind>(wanted)?.id());
        }
        if self.parent.is_template() {
            let what = ReachOf::Template(self.parent.called().to_string());
            wish.reach.push(Reach { datastore: status.datastore, what });
        }
        Ok(wish)
    }
}

/// Why they go where they go. Of many in one place, the first one's reasons say enough.
fn told(vms: &[Vm]) -> Vec<String> {
    let place = |vm: &Vm| (vm.status.host, vm.status.datastore);
    let mut told = Vec::new();
    for (at, vm) in vms.iter().enumerate() {
        if vms[..at].iter().all(|known| place(known) != place(vm)) {
            told.extend(vm.status.placement.clone());
        }
    }
    told
}

/// What a clone's guest is told when nothing is asked for: the same as its parent, but for who it is.
fn inherited(parent: &Vm) -> Customization {
    if parent.is_template() {
        return Customization::default();
    }
    let told = parent.spec.customization.clone().unwrap_or_default();
    Customization { hostname: None, network_config: None, run: 0, ..*told }
}
