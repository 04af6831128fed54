//! Room that is promised to files that are just being written: of two that begin at once, each would
//! otherwise find the room that the other one is about to take.
//!
//! This is about one host. Other hosts that write to a shared datastore show in its free space only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_host::{Datastore, volume};
use hostler_types::{ByteSize, DatastoreId};

use super::Datastores;
use crate::fault::Fault;

/// The promises of a host.
#[derive(Debug, Clone, Default)]
pub(super) struct Promises(Arc<Mutex<Made>>);

#[derive(Debug, Default)]
struct Made {
    last: u64,
    all: HashMap<u64, Promise>,
}

#[derive(Debug)]
struct Promise {
    datastore: DatastoreId,
    bytes: u64,
    /// What has been written to it is no longer free either.
    file: PathBuf,
}

impl Promise {
    fn outstanding(&self) -> u64 {
        let written = volume::allocated(&self.file).map_or(0, ByteSize::bytes);
        self.bytes.saturating_sub(written)
    }
}

/// Room that a file has for as long as this lives.
#[must_use = "the room is anybody's again when this is dropped"]
#[derive(Debug)]
pub(crate) struct Promised {
    promises: Promises,
    number: u64,
}

impl Datastores {
    /// Promises a file that is about to be written `bytes` of room. `what` for: "the guest's memory".
    /// Blocks.
    ///
    /// # Errors
    /// [`Fault::NoSpace`] with the numbers, when there is less that nobody else was promised.
    pub(crate) fn promise(
        &self,
        datastore: &Datastore,
        bytes: ByteSize,
        file: &Path,
        what: &str,
    ) -> Result<Promised, Fault> {
        let id = datastore.id();
        let mut made = self.0.promises.lock();
        let others = made.all.values().filter(|promise| promise.datastore == id);
        let promised = others.map(Promise::outstanding).fold(0, u64::saturating_add);
        let free = datastore.space()?.free;
        if free.bytes().saturating_sub(promised) < bytes.bytes() {
            return Err(Fault::NoSpace(refusal(id, free, ByteSize(promised), bytes, what)));
        }
        made.last += 1;
        let number = made.last;
        made.all
            .insert(number, Promise { datastore: id, bytes: bytes.bytes(), file: file.to_owned() });
        Ok(Promised { promises: self.0.promises.clone(), number })
    }
}

fn refusal(
    datastore: DatastoreId,
    free: ByteSize,
    promised: ByteSize,
    bytes: ByteSize,
    what: &str,
) -> String {
    let promised = match promised.bytes() {
        0 => String::new(),
        _ => format!(", {promised} of it promised to what is just being saved there"),
    };
    format!("datastore {datastore} has {free} free{promised}; {what} may take {bytes}")
}

impl Promises {
    fn lock(&self) -> MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        self.promises.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Hub;

    #[test]
    fn what_others_are_about_to_write_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let (list, path) = (dir.path().join("datastores.json"), dir.path().join("store"));
        let datastores = Datastores::load(list, Hub::new()).unwrap();
        let store = Datastore::create(&path, DatastoreId::generate()).unwrap();
        let free = store.space().unwrap().free.bytes();
        let (file, bytes) = (dir.path().join("one"), ByteSize(free / 3 * 2));
        let promise = |file: &Path| datastores.promise(&store, bytes, file, "a memory");
        let first = promise(&file).unwrap();
        let Err(Fault::NoSpace(text)) = promise(&dir.path().join("two")) else {
            panic!("it was promised twice");
        };
        assert!(text.contains("promised") && text.contains("a memory may take"), "{text}");
        // Another datastore is another matter.
        let other = Datastore::create(&dir.path().join("other"), DatastoreId::generate()).unwrap();
        drop(datastores.promise(&other, bytes, &file, "a memory").unwrap());
        drop(first);
        let second = promise(&dir.path().join("two")).unwrap();
        drop(second);
    }

    #[test]
    fn what_is_written_is_no_longer_promised() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let (datastore, bytes) = (DatastoreId::generate(), 1 << 20);
        let promise = Promise { datastore, bytes, file: file.clone() };
        assert_eq!(promise.outstanding(), 1 << 20);
        std::fs::write(&file, vec![7; 256 << 10]).unwrap();
        assert!(promise.outstanding() <= 768 << 10, "{}", promise.outstanding());
    }
}
