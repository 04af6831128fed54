//! The words of the field: typed ids, names, sizes, specs, statuses and the states' legal
//! transitions.
//!
//! Every other crate (but `qmp` and `endpoint`) speaks in these types, so a word means the same in
//! the store, on the wire and on the screen. Nothing here does I/O or reads a clock.

mod address;
mod approval_rule;
mod cluster;
mod count;
pub mod cpu;
mod customization;
mod customization_validate;
mod datastore;
mod datastore_check;
mod decision;
mod drs;
mod export;
mod host;
mod id;
mod image;
mod layer;
mod lease;
mod lifecycle;
mod limits;
mod migration;
mod name;
mod naming_rule;
mod network;
mod object;
mod operations;
mod placement;
mod pool;
mod pool_views;
mod request;
mod request_work;
mod rule;
mod seal;
mod shares;
mod size;
mod snapshot;
mod snapshot_measure;
mod snapshot_plan;
mod snapshot_policy;
mod snapshot_views;
mod task;
mod template;
mod usage;
mod user;
mod vm;
mod vm_change;
mod vm_clone;
mod vm_requests;

pub use address::{
    AddressPool, AddressRange, AddressRangeError, NicAddress, NicAddressing, StaticAddress,
};
pub use approval_rule::{
    ApprovalConditions, ApprovalDecision, ApprovalNeed, ApprovalRule, ApprovalRuleKind,
    ApprovalRuleSpec, ApprovalRuleStatus, RuleVerdict,
};
pub use cluster::{
    Automation, Cluster, ClusterKind, ClusterSpec, ClusterStatus, ClusterUpdate, Strategy,
};
pub use count::counted;
pub use cpu::{BaselineHost, BaselineSetting, CpuBaseline, CpuBaselineReport, GuestCpu};
pub use customization::{
    ComputerName, Customization, CustomizationOrigin, CustomizationRules, CustomizationSpec,
    CustomizationSpecKind, CustomizationSpecStatus, CustomizationState, CustomizationStatus, Dns,
    DomainJoin, GuestOs, GuestUser, SecretText, WindowsDelivery, WindowsSettings,
};
pub use datastore::{
    Datastore, DatastoreKind, DatastoreLimits, DatastoreOnHost, DatastoreSpec, DatastoreState,
    DatastoreStatus, DatastoreUsage, StorageKind,
};
pub use datastore_check::{Damage, DamageKind, DatastoreFindings, Orphan, OrphanKind, is_vm_file};
pub use decision::{DecidedVm, Decision};
pub use drs::{
    ClusterBalance, DrsApplied, DrsApply, DrsOutcome, DrsRun, DrsRunStep, HostMaintenance,
    MaintenanceEnter, MaintenanceExit, PlannedMove, PlannedStep, VmAutomation,
};
pub use export::{ExportManifest, ExportedDisk, ExportedNetwork};
pub use host::{
    Accelerator, Host, HostFacts, HostKind, HostSpec, HostState, HostStatus, Join, JoinAnswer,
    JoinToken, JoinTokenKind, JoinTokenSpec, JoinTokenStatus,
};
pub use id::{
    ClusterId, CustomizationSpecId, DatastoreId, DecisionId, HostId, Id, ImageId, JoinTokenId,
    NetworkId, ObjectId, OperationId, PoolId, RequestId, SnapshotId, TaskId, TemplateId, TokenId,
    UserId, VmId,
};
pub use image::{
    Image, ImageCreate, ImageFormat, ImageKind, ImageMedia, ImageSource, ImageSpec, ImageState,
    ImageStatus, Sha256,
};
pub use layer::{Layer, LayerFile, LayerFileError, LayerOwner};
pub use lease::{Lease, LeaseStage};
pub use lifecycle::{DeletionPlan, Dependent, PlannedDisk, PlannedNic, Recycled};
pub use limits::{IoLimits, Millicpus};
pub use migration::{DOWNTIME_MS, LastMove, MOST_DOWNTIME_MS, MigrationPolicy, MigrationTerms};
pub use name::{Name, NameError, Ref, shorten};
pub use naming_rule::{NamingRule, NamingRuleKind, NamingRuleSpec, NamingRuleStatus};
pub use network::{
    Ipv4Net, Ipv4NetError, MacAddress, MacError, Network, NetworkKind, NetworkSpec, NetworkState,
    NetworkStatus,
};
pub use object::{Kind, KindName, Labels, Metadata, Object, validate_labels};
pub use operations::{Epoch, Revision, Role};
pub use placement::{
    BlockedMove, DecisionRecord, DecisionReplay, InventoryExport, PlacementExplanation,
    PlacementFilter, PlacementObstacle, PlacementScore, PlacementWhy, PlacementWhyNot,
    Recommendation, Recommendations, RecommendedMove, RuleViolation, Simulation,
};
pub use pool::{
    Pool, PoolCpu, PoolCpuUpdate, PoolCreate, PoolKind, PoolMemory, PoolMemoryUpdate, PoolSpec,
    PoolStatus, PoolUpdate, VmResources, VmResourcesUpdate,
};
pub use pool_views::{PoolExplanation, PoolNode, PoolNodeKind, PoolTree, ResourceStand};
pub use request::{
    Approval, IllegalRequestEvent, OnFailure, Request, RequestEvent, RequestImage, RequestKind,
    RequestNetwork, RequestOrder, RequestProgress, RequestSpec, RequestState, RequestStatus,
    RequestTemplate, Requester,
};
pub use request_work::{
    GuestCommand, GuestScript, HttpCheck, Probe, ProbeCheck, RequestAction, Webhook,
};
pub use rule::{
    Group, GroupKind, GroupOf, GroupSpec, GroupStatus, Rule, RuleKind, RuleRelation, RuleSpec,
    RuleStatus, RuleStrength, Selector,
};
pub use seal::{Removed, Seal, SealWay};
pub use shares::{Megahertz, Shares};
pub use size::{ByteSize, SizeError};
pub use snapshot::{Consistency, Snapshot, SnapshotDisk, SnapshotTree};
pub use snapshot_plan::{KeptFile, KeptWhy, Merge, MergePlan, PlannedFile, plan_merges};
pub use snapshot_policy::{
    AtLimit, QuietWindow, SnapshotLimits, SnapshotPolicy, SnapshotPolicyKind, SnapshotPolicySpec,
    SnapshotPolicyStatus, SnapshotRules,
};
pub use snapshot_views::{MergeEstimate, SnapshotDeletionPlan, VmSnapshots};
pub use task::{
    Progress, StepRecord, StepState, Task, TaskKind, TaskMessage, TaskSpec, TaskState, TaskStatus,
};
pub use template::{
    Template, TemplateCreate, TemplateKind, TemplateRef, TemplateRefError, TemplateSpec,
    TemplateStatus, TemplateUpdate, TemplateVersion, VersionOf,
};
pub use usage::{DiskUse, HostStats, HostUse, MeanDemand, ResourceUse, VmStats};
pub use user::{Token, TokenKind, TokenSpec, TokenStatus, User, UserKind, UserSpec, UserStatus};
pub use vm::{
    BootDevice, CdromSpec, CopySource, Cores, DiskBus, DiskSource, DiskSpec, DiskStatus, Firmware,
    GuestNic, GuestReport, IllegalTransition, LinkState, NicSpec, NicStatus, PowerState,
    Provisioning, RestartPolicy, Vm, VmKind, VmSpec, VmStatus, disk_serial,
};
pub use vm_change::{ChangeWhen, Hardware, MEMORY_STEP, VmChange, plan_changes};
pub use vm_clone::{CloneMode, NamePattern, VmClone};
pub use vm_requests::{
    DiskUpdate, ExecAnswer, ExecRequest, SpecError, StopMode, VmCreate, VmDisk, VmNic, VmUpdate,
};
