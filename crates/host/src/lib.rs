//! Linux, as the agent uses it: datastores and volumes, images, seeds, networks, cgroups.
//!
//! Nothing here knows QEMU's command line, the server or a task; every function that changes the
//! world can be repeated, and has an inverse that can be repeated too. Paths are made from typed
//! ids, never from text that a person or a guest chose. Functions that are not `async` may block
//! for the time of a few disk flushes, or as long as they say.

pub mod cgroup;
pub mod copy;
pub mod datastore;
pub mod facts;
mod file;
pub mod huge_pages;
pub mod image;
pub mod layers;
pub mod network;
mod pressure;
mod process;
mod qcow2;
pub mod qemu_img;
pub mod seed;
mod stat;
pub mod survey;
pub mod uid;
pub mod userfault;
pub mod volume;

pub use cgroup::{CgroupError, Cgroups, CpuLimits, Layout, PoolGroup, Share, Usage, VmGroup};
pub use datastore::{Datastore, DatastoreError, DefinitionError, FoundVm, Space, VmDir};
pub use file::{Access, Replacement, write_atomic};
pub use image::{ImportError, ImportProgress, ImportStage, ImportedImage, Refusal};
pub use layers::LayerGraph;
pub use network::{NetworkError, Networks, Tap, TapName};
pub use pressure::{HostUsage, Pressure};
pub use process::ProcessError;
pub use qemu_img::{QemuImg, QemuImgError};
pub use seed::SeedError;
pub use uid::VmUid;
pub use volume::VolumeError;
