//! What a Hostler leaves behind: processes, files, cgroups, interfaces.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything that belongs to VMs of one instance and still exists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Process ids of QEMU.
    pub qemu: Vec<u32>,
    /// Directories and files of VMs on the datastores.
    pub files: Vec<PathBuf>,
    /// Runtime directories of VMs.
    pub runtime: Vec<PathBuf>,
    /// Cgroups of VMs of this instance.
    pub cgroups: Vec<PathBuf>,
    pub taps: Vec<String>,
}

impl Leftovers {
    pub(crate) fn look(state: &Path, runtime: &Path, datastore: &Path, links: &[String]) -> Self {
        let vms = vm_ids(&state.join("agent/vms"));
        Self {
            qemu: processes("qemu-system", runtime),
            files: entries(&datastore.join("vms")),
            runtime: entries(&runtime.join("agent/vms")),
            cgroups: cgroups(&vms),
            taps: links.iter().filter(|name| name.starts_with("ht")).cloned().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Processes of a program whose command line names a path.
pub(crate) fn processes(program: &str, path: &Path) -> Vec<u32> {
    let path = path.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let executable = line.split(' ').next().unwrap_or_default();
        if executable.contains(program) && line.contains(&*path) {
            found.push(pid);
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn vm_ids(folder: &Path) -> Vec<String> {
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    entries(folder).into_iter().filter_map(stem).collect()
}

/// Cgroups, of any hierarchy, named after one of the VMs.
fn cgroups(vms: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder).into_iter().filter(|path| path.is_dir() && !path.is_symlink())
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if vms.iter().any(|vm| name.contains(vm.as_str())) {
                found.push(path);
            } else {
                folders.push(path);
            }
        }
    }
    found
}
