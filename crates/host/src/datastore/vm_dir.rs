//! The directory of one VM on a datastore, and its definition.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hostler_types::{LayerFile, Name, SnapshotId, Vm, VmId};

use super::error::{DatastoreError, DefinitionError, IoContext, io_error};
use super::{Datastore, create_directory, entries, sweep_temporary_files};
use crate::file::{Access, Replacement, is_not_plain, open_plain, sync_directory, write_atomic};

const REGISTERED: &str = "vm.json";
const UNREGISTERED: &str = "vm.json.unregistered";
const SNAPSHOT: &str = "snapshot-";

/// User data and network configuration may have 512 KiB each, which JSON may double.
const MAX_DEFINITION: u64 = 4 << 20;

/// The directory of a VM. The value exists whether or not the directory does.
#[derive(Debug, Clone)]
pub struct VmDir {
    datastore: Datastore,
    id: VmId,
    path: PathBuf,
}

/// A VM that a scan found.
#[derive(Debug)]
pub struct FoundVm {
    pub id: VmId,
    /// Whether it is in the inventory, as far as this datastore knows.
    pub registered: bool,
    pub definition: Result<Vm, DefinitionError>,
}

impl VmDir {
    /// How the names of directories begin that are being removed.
    pub(crate) const REMOVED: &str = ".removed-";

    pub(super) fn new(datastore: Datastore, id: VmId) -> Self {
        let path = datastore.vms().join(id.to_string());
        Self { datastore, id, path }
    }

    pub fn id(&self) -> VmId {
        self.id
    }
    pub fn datastore(&self) -> &Datastore {
        &self.datastore
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn definition_path(&self) -> PathBuf {
        self.path.join(REGISTERED)
    }
    pub fn disk(&self, name: &Name) -> PathBuf {
        self.path.join(format!("{name}.qcow2"))
    }
    pub fn seed(&self) -> PathBuf {
        self.path.join("seed.img")
    }
    pub fn nvram(&self) -> PathBuf {
        self.path.join("nvram.fd")
    }
    pub fn suspend_state(&self) -> PathBuf {
        self.path.join("suspend.state")
    }
    /// What a snapshot holds beside its disks: the guest's memory, …
    pub fn snapshot_memory(&self, snapshot: SnapshotId) -> PathBuf {
        self.path.join(format!("{SNAPSHOT}{snapshot}.memory"))
    }
    /// … its UEFI variables, …
    pub fn snapshot_nvram(&self, snapshot: SnapshotId) -> PathBuf {
        self.path.join(format!("{SNAPSHOT}{snapshot}.nvram"))
    }
    /// … and its hardware.
    pub fn snapshot_hardware(&self, snapshot: SnapshotId) -> PathBuf {
        self.path.join(format!("{SNAPSHOT}{snapshot}.json"))
    }

    /// Removes what there is of snapshots, beside their disks, that `keep` does not know.
    ///
    /// # Errors
    /// The datastore is not mounted or cannot be written.
    pub fn remove_snapshots(
        &self,
        keep: impl Fn(SnapshotId) -> bool,
    ) -> Result<(), DatastoreError> {
        self.datastore.check()?;
        let mut removed = false;
        for name in entries(&self.path)? {
            let id = name.strip_prefix(SNAPSHOT).and_then(|rest| rest.split_once('.'));
            let id = id.and_then(|(id, _)| id.parse::<SnapshotId>().ok());
            if id.is_some_and(|id| !keep(id)) {
                let path = self.path.join(name);
                crate::file::remove_if_there(&path).doing("remove", &path)?;
                removed = true;
            }
        }
        match removed {
            true => sync_directory(&self.path).doing("flush", &self.path),
            false => Ok(()),
        }
    }

    pub fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }
    /// Where an archive of the VM is made.
    pub fn export(&self) -> PathBuf {
        self.path.join("export")
    }
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Its disk files; none when the directory is not there.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn layer_files(&self) -> Result<Vec<LayerFile>, DatastoreError> {
        let names = match entries(&self.path) {
            // Perhaps removed meanwhile.
            Err(_) if !self.exists() => return Ok(Vec::new()),
            names => names?,
        };
        let id = self.id;
        Ok(names.iter().filter_map(|name| format!("vms/{id}/{name}").parse().ok()).collect())
    }

    /// Makes the directory; it may be there already, from an attempt that a crash cut short.
    ///
    /// # Errors
    /// The datastore is not mounted or full.
    pub fn create(&self) -> Result<(), DatastoreError> {
        self.datastore.check()?;
        create_directory(&self.path).doing("create the directory", &self.path)?;
        sweep_temporary_files(&self.path)
    }

    /// Removes files that were in the making when an agent died. They may be large.
    ///
    /// # Errors
    /// The datastore is not mounted, or one cannot be removed.
    pub fn sweep(&self) -> Result<(), DatastoreError> {
        self.datastore.check()?;
        sweep_temporary_files(&self.path)
    }

    /// Writes the definition, which also registers the VM. Secrets are left out: the seed has them
    /// for as long as the guest needs them.
    ///
    /// # Errors
    /// The datastore is not mounted or full; the old definition is still there then.
    pub fn write_definition(&self, vm: &Vm) -> Result<(), DatastoreError> {
        self.datastore.check()?;
        let path = self.definition_path();
        let vm = Self::stored(vm);
        serde_json::to_vec_pretty(&vm)
            .map_err(io::Error::other)
            .and_then(|bytes| write_atomic(&path, &bytes, Access::ROOT_ONLY))
            .doing("write the definition", &path)?;
        let unregistered = self.path.join(UNREGISTERED);
        crate::file::remove_if_there(&unregistered).doing("remove", &unregistered)
    }

    /// Finds room for what [`Self::write_definition`] would write; it is given back when the answer is
    /// dropped.
    ///
    /// # Errors
    /// As [`Self::write_definition`].
    pub fn prepare_definition(&self, vm: &Vm) -> Result<Replacement, DatastoreError> {
        self.datastore.check()?;
        let path = self.definition_path();
        serde_json::to_vec_pretty(&Self::stored(vm))
            .map_err(io::Error::other)
            .and_then(|bytes| Replacement::new(&path, &bytes, Access::ROOT_ONLY))
            .doing("write the definition", &path)
    }

    /// The definition as [`Self::write_definition`] writes it.
    pub fn stored(vm: &Vm) -> Vm {
        Vm { spec: vm.spec.clone().without_secrets(), ..vm.clone() }
    }

    /// The definition, registered or not; `None` when there is none.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn read_definition(&self) -> Result<Option<Vm>, DefinitionError> {
        self.find().map(|found| found.definition).transpose()
    }

    /// Keeps all files, and marks the VM as in no inventory.
    ///
    /// # Errors
    /// The datastore is not mounted or read-only.
    pub fn unregister(&self) -> Result<(), DatastoreError> {
        self.rename_definition(REGISTERED, UNREGISTERED)
    }

    /// The inverse of [`Self::unregister`].
    ///
    /// # Errors
    /// The datastore is not mounted or read-only.
    pub fn register(&self) -> Result<(), DatastoreError> {
        self.rename_definition(UNREGISTERED, REGISTERED)
    }

    /// Removes the directory and all in it. Never follows a symbolic link. The VM is gone in one
    /// instant: a crash afterwards leaves files that the next [`Datastore::open`] removes.
    ///
    /// # Errors
    /// The datastore is not mounted, or a file cannot be removed; try again.
    pub fn remove(&self) -> Result<(), DatastoreError> {
        self.datastore.check()?;
        let vms = self.datastore.vms();
        let removed = vms.join(format!("{}{}", Self::REMOVED, self.id));
        remove_tree(&removed).doing("remove", &removed)?;
        match fs::rename(&self.path, &removed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.doing("remove", &self.path)?,
        }
        sync_directory(&vms).doing("flush", &vms)?;
        remove_tree(&removed).doing("remove", &removed)
    }

    pub(super) fn is_removed(name: &str) -> bool {
        name.starts_with(Self::REMOVED)
    }

    pub(super) fn find(&self) -> Option<FoundVm> {
        [(REGISTERED, true), (UNREGISTERED, false)].into_iter().find_map(|(name, registered)| {
            let definition = self.read(&self.path.join(name)).transpose()?;
            Some(FoundVm { id: self.id, registered, definition })
        })
    }

    /// The datastore may come from anywhere, so the file is not trusted to be one, or small.
    fn read(&self, path: &Path) -> Result<Option<Vm>, DefinitionError> {
        let read = |source| DefinitionError::Read { path: path.to_owned(), source };
        let file = match open_plain(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_not_plain(&error) => {
                return Err(DefinitionError::NotAFile(path.to_owned()));
            }
            Err(error) => return Err(read(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_DEFINITION + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_DEFINITION {
            let path = path.to_owned();
            return Err(DefinitionError::TooLarge { path, limit: MAX_DEFINITION });
        }
        let vm: Vm = serde_json::from_slice(&bytes)
            .map_err(|source| DefinitionError::Malformed { path: path.to_owned(), source })?;
        if vm.id() != self.id {
            return Err(DefinitionError::OtherVm { path: path.to_owned(), found: vm.id() });
        }
        Ok(Some(vm))
    }

    fn rename_definition(&self, from: &str, to: &str) -> Result<(), DatastoreError> {
        self.datastore.check()?;
        let (from, to) = (self.path.join(from), self.path.join(to));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
            Err(error) => return Err(io_error("rename", &from, error)),
            Ok(()) => {}
        }
        sync_directory(&self.path).doing("flush", &self.path)
    }
}

/// `remove_dir_all` works relative to directory handles and does not follow symbolic links.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
