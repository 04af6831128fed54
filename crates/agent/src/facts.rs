//! What the host has. The accelerator's probe boots something, so it runs beside everything else
//! and its result is kept until QEMU or the kernel changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use hostler_host::Cgroups;
use hostler_host::uid::IMPORT_UID;
use hostler_qemu::{Credentials, DiskAio, ProbeOptions, QEMU};
use hostler_types::{Accelerator, GuestCpu, HostFacts};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::state_file;

/// Debian's OVMF: code and the template of the variables.
const UEFI: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// 1: with what guests can be given of the CPU.
const CACHE_FORMAT: u32 = 1;

/// The facts, once they are known. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct FactsSource(watch::Receiver<Option<Result<Arc<Known>, String>>>);

#[derive(Debug)]
struct Known {
    facts: HostFacts,
    disk_aio: DiskAio,
}

/// What the probe found, and for which QEMU and kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cached {
    key: CacheKey,
    accelerator: Accelerator,
    disk_aio: DiskAio,
    qemu_version: String,
    warnings: Vec<String>,
    guest_cpu: Option<GuestCpu>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CacheKey {
    /// Of QEMU's binary, in nanoseconds after the epoch.
    modified: u64,
    size: u64,
    boot_id: String,
    /// Of what is kept: what a newer agent asks for besides, an older one has not found out.
    #[serde(default)]
    format: u32,
}

impl FactsSource {
    /// Begins to find out. Spawns a task that ends with its answer.
    pub(crate) fn begin(cache: PathBuf, cgroups: Cgroups) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let facts = find(cache, cgroups).await;
            if let Err(error) = &facts {
                tracing::error!(%error, "cannot tell what this host can do");
            }
            let facts = facts.map(Arc::new).map_err(|error| error.to_string());
            let _ = sender.send(Some(facts));
        });
        Self(receiver)
    }

    pub(crate) async fn get(&self) -> Result<HostFacts, Fault> {
        self.known().await.map(|known| known.facts.clone())
    }

    /// How QEMU is started here: what runs guests, and how disks are read and written.
    pub(crate) async fn engines(&self) -> Result<(Accelerator, DiskAio), Fault> {
        self.known().await.map(|known| (known.facts.accelerator, known.disk_aio))
    }

    /// The UEFI firmware: its code, and the template of its variables. Blocks.
    #[expect(clippy::unused_self, reason = "it is a fact of the host, whoever finds it")]
    pub(crate) fn uefi(&self) -> Result<(PathBuf, PathBuf), Fault> {
        let [code, vars] = UEFI.map(PathBuf::from);
        match code.is_file() && vars.is_file() {
            true => Ok((code, vars)),
            false => Err(Fault::Qemu(format!(
                "this host has no UEFI firmware ({} is missing); install the package `ovmf`, or use BIOS",
                code.display()
            ))),
        }
    }

    async fn known(&self) -> Result<Arc<Known>, Fault> {
        let mut receiver = self.0.clone();
        let facts = match receiver.wait_for(Option::is_some).await {
            Ok(facts) => facts.clone(),
            Err(_) => None,
        };
        facts.unwrap_or_else(|| Err("the probe was cut off".to_owned())).map_err(Fault::Qemu)
    }
}

/// The group that may use KVM.
pub(crate) fn kvm_group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/dev/kvm").ok().map(|metadata| metadata.gid())
}

async fn find(cache: PathBuf, cgroups: Cgroups) -> Result<Known, Fault> {
    let (host, key, cached) = blocking({
        let cache = cache.clone();
        move || {
            let host = hostler_host::facts::read()
                .map_err(|error| Fault::internal("read the host's facts", &error))?;
            let key = cache_key(Path::new(QEMU))?;
            let cached: Option<Cached> = state_file::read(&cache).ok().flatten();
            Ok((host, key, cached))
        }
    })
    .await?;
    let found = match cached.filter(|cached| cached.key == key) {
        Some(cached) => cached,
        None => {
            let found = run_probe(key).await?;
            let kept = found.clone();
            blocking(move || state_file::write(&cache, &kept)).await?;
            found
        }
    };
    let facts = HostFacts {
        hostname: host.hostname,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: host.kernel,
        cpu_model: host.cpu_model,
        cpus: host.cpus,
        mhz_per_cpu: host.mhz_per_cpu,
        memory: host.memory,
        qemu_version: found.qemu_version,
        accelerator: found.accelerator,
        warnings: found.warnings,
        cgroup_version: cgroups.version(),
        bridges: host.bridges,
        cpu_features: host.cpu_features,
        guest_cpu: found.guest_cpu.map(|cpu| GuestCpu { vendor: host.cpu_vendor, ..cpu }),
    };
    Ok(Known { facts, disk_aio: found.disk_aio })
}

/// As VMs will run: what root can do with KVM proves nothing for them.
async fn run_probe(key: CacheKey) -> Result<Cached, Fault> {
    let groups = kvm_group().into_iter().collect();
    let options = ProbeOptions {
        credentials: Credentials::User { uid: IMPORT_UID, gid: IMPORT_UID, groups },
        ..ProbeOptions::default()
    };
    let probe = hostler_qemu::probe(&options).await;
    let probe = probe.map_err(|error| Fault::Qemu(chain(&error)))?;
    if let Some(warning) = &probe.warning {
        tracing::warn!(warning, "accelerator");
    }
    Ok(Cached {
        key,
        accelerator: probe.accelerator,
        disk_aio: probe.disk_aio,
        qemu_version: probe.version.to_string(),
        warnings: probe.warning.into_iter().collect(),
        guest_cpu: Some(probe.guest_cpu),
    })
}

fn cache_key(qemu: &Path) -> Result<CacheKey, Fault> {
    let metadata = std::fs::metadata(qemu).map_err(|error| {
        Fault::Qemu(format!("{} cannot be used: {error}; install QEMU", qemu.display()))
    })?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(CacheKey {
        modified: modified.map_or(0, |modified| u64::try_from(modified.as_nanos()).unwrap_or(0)),
        size: metadata.len(),
        boot_id: boot_id.trim().to_owned(),
        format: CACHE_FORMAT,
    })
}
