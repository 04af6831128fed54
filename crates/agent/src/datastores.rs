//! The datastores of this host: which directories the server told us to use.
//!
//! A datastore whose marker is missing stays known and is reported `missing`: it is opened again
//! when somebody needs it or when the clock of [`Datastores::watch`] ticks, because a mount gives
//! no event that can be relied upon.

mod claims;
mod promises;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hostler_agent_api::{AgentEvent, DatastoreReport};
use hostler_host::{Datastore, DatastoreError};
use hostler_types::{ByteSize, DatastoreId, DatastoreState};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::events::Hub;
use crate::fault::{Fault, chain};
use crate::state_file;
use claims::Claims;
pub(crate) use claims::{Condemned, Held};
pub(crate) use promises::Promised;
use promises::Promises;

const LOOK: Duration = Duration::from_secs(60);
/// A change of free space is worth telling from one part in this many of the capacity.
const WORTH_TELLING: u64 = 100;

#[derive(Debug, Clone)]
pub(crate) struct Datastores(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    hub: Hub,
    known: Mutex<BTreeMap<DatastoreId, Known>>,
    /// Held while the list changes: the file always has the newest.
    writing: tokio::sync::Mutex<()>,
    claims: Claims,
    promises: Promises,
}

#[derive(Debug, Clone)]
struct Known {
    path: PathBuf,
    opened: Option<Datastore>,
    /// As last told.
    report: DatastoreReport,
}

impl Datastores {
    /// Reads the list and opens what can be opened. Blocks.
    pub(crate) fn load(file: PathBuf, hub: Hub) -> Result<Self, Fault> {
        let paths: BTreeMap<DatastoreId, PathBuf> = state_file::read(&file)?.unwrap_or_default();
        let known = paths.into_iter().map(|(id, path)| (id, look(id, path, None))).collect();
        let (known, writing) = (Mutex::new(known), tokio::sync::Mutex::new(()));
        let (claims, promises) = (Claims::default(), Promises::default());
        Ok(Self(Arc::new(Inner { file, hub, known, writing, claims, promises })))
    }

    /// Uses a directory as datastore, now and after a restart.
    pub(crate) async fn ensure(
        &self,
        id: DatastoreId,
        path: PathBuf,
        create: bool,
        shared: bool,
    ) -> Result<DatastoreReport, Fault> {
        let _writing = self.0.writing.lock().await;
        let this = self.clone();
        blocking(move || {
            if let Some(other) = this.clash(id, &path) {
                return Err(Fault::WrongState(other));
            }
            let known = if create {
                let opened = match shared {
                    true => Datastore::create_shared(&path, id),
                    false => Datastore::create(&path, id),
                };
                look(id, path, Some(opened?))
            } else {
                // Remembered also while it is not mounted: it may be soon.
                look(id, path, None)
            };
            let report = known.report.clone();
            let mut paths = this.paths();
            paths.insert(id, known.path.clone());
            state_file::write(&this.0.file, &paths)?;
            this.lock().insert(id, known);
            this.0.hub.tell(AgentEvent::Datastore(report.clone()));
            Ok(report)
        })
        .await
    }

    /// Forgets a datastore, now and after a restart; with `release`, its directory can be used
    /// again.
    pub(crate) async fn remove(&self, id: DatastoreId, release: bool) -> Result<(), Fault> {
        let _writing = self.0.writing.lock().await;
        let this = self.clone();
        blocking(move || {
            let Some(known) = this.lock().get(&id).cloned() else { return Ok(()) };
            if release {
                match Datastore::open(&known.path, id).and_then(|store| store.release()) {
                    // What is not there has no marker to take away; nor has what is another's now.
                    Ok(())
                    | Err(
                        DatastoreError::NotMounted(_)
                        | DatastoreError::OtherDatastore { .. }
                        | DatastoreError::Released(_),
                    ) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let mut paths = this.paths();
            paths.remove(&id);
            state_file::write(&this.0.file, &paths)?;
            this.lock().remove(&id);
            Ok(())
        })
        .await
    }

    fn paths(&self) -> BTreeMap<DatastoreId, PathBuf> {
        self.lock().iter().map(|(id, known)| (*id, known.path.clone())).collect()
    }

    /// A datastore that can be written to now. Blocks for a look at its marker.
    pub(crate) fn get(&self, id: DatastoreId) -> Result<Datastore, Fault> {
        let known = self.lock().get(&id).cloned().ok_or(Fault::NoDatastore(id))?;
        match known.opened {
            Some(datastore) => {
                datastore.check()?;
                Ok(datastore)
            }
            None => {
                let datastore = Datastore::open(&known.path, id)?;
                self.keep(id, look(id, known.path, Some(datastore.clone())));
                Ok(datastore)
            }
        }
    }

    /// A datastore that has been opened, whether or not it is still there: for looking at files.
    pub(crate) fn peek(&self, id: DatastoreId) -> Option<Datastore> {
        self.lock().get(&id).and_then(|known| known.opened.clone())
    }

    /// All that are known and there, for looking something up. Blocks.
    pub(crate) fn usable(&self) -> Vec<Datastore> {
        let ids: Vec<DatastoreId> = self.lock().keys().copied().collect();
        ids.into_iter().filter_map(|id| self.get(id).ok()).collect()
    }

    pub(crate) fn reports(&self) -> Vec<DatastoreReport> {
        self.lock().values().map(|known| known.report.clone()).collect()
    }

    /// Looks at every datastore once a minute until `stop`, and tells what has changed.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            let this = self.clone();
            let looked = blocking(move || {
                this.look_at_all();
                Ok(())
            });
            if let Err(error) = looked.await {
                tracing::warn!(%error, "cannot look at the datastores");
            }
        }
    }

    /// Looks at one now, after much has been written to it. Blocks.
    pub(crate) fn look_again(&self, id: DatastoreId) {
        let Some(known) = self.lock().get(&id).cloned() else { return };
        self.keep(id, look(id, known.path, known.opened));
    }

    fn look_at_all(&self) {
        let all: Vec<_> = self.lock().iter().map(|(id, known)| (*id, known.clone())).collect();
        for (id, known) in all {
            let now = look(id, known.path, known.opened);
            self.keep(id, now);
        }
    }

    /// Remembers what a look found, and tells it if it is news.
    fn keep(&self, id: DatastoreId, mut now: Known) {
        let mut known = self.lock();
        let Some(before) = known.get_mut(&id) else { return };
        let news = is_news(&before.report, &now.report);
        if !news {
            now.report = before.report.clone();
        }
        let report = now.report.clone();
        *before = now;
        drop(known);
        if news {
            self.0.hub.tell(AgentEvent::Datastore(report));
        }
    }

    fn clash(&self, id: DatastoreId, path: &Path) -> Option<String> {
        self.lock().iter().find_map(|(other, known)| {
            let same_path = known.path == path;
            match (*other == id, same_path) {
                (true, false) => Some(format!(
                    "the datastore {id} is at {}; it cannot also be at {}",
                    known.path.display(),
                    path.display()
                )),
                (false, true) => {
                    Some(format!("{} is the datastore {other} already", path.display()))
                }
                _ => None,
            }
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<DatastoreId, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<DatastoreError> for Fault {
    fn from(error: DatastoreError) -> Self {
        let text = chain(&error);
        if error.is_full() {
            return Self::NoSpace(text);
        }
        match error {
            DatastoreError::NotMounted(_)
            | DatastoreError::OtherDatastore { .. }
            | DatastoreError::Released(_)
            | DatastoreError::BadMarker(_) => Self::DatastoreMissing(text),
            DatastoreError::NotAbsolute(_) => Self::Invalid(text),
            _ => Self::WrongState(text),
        }
    }
}

fn look(id: DatastoreId, path: PathBuf, opened: Option<Datastore>) -> Known {
    let result = match opened {
        Some(datastore) => Ok(datastore),
        None => Datastore::open(&path, id),
    }
    .and_then(|datastore| datastore.space().map(|space| (datastore, space)));
    let report = |state, message, capacity, free| DatastoreReport {
        datastore: id,
        state,
        message,
        capacity,
        free,
    };
    match result {
        Ok((datastore, space)) => {
            let report = report(DatastoreState::Ready, None, space.capacity, space.free);
            Known { path, opened: Some(datastore), report }
        }
        Err(error) => {
            let zero = ByteSize(0);
            let report = report(DatastoreState::Missing, Some(chain(&error)), zero, zero);
            Known { path, opened: None, report }
        }
    }
}

fn is_news(before: &DatastoreReport, now: &DatastoreReport) -> bool {
    let worth = (now.capacity.bytes() / WORTH_TELLING).max(1);
    before.state != now.state
        || before.message != now.message
        || before.capacity != now.capacity
        || before.free.bytes().abs_diff(now.free.bytes()) >= worth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_of_free_space_are_not_news() {
        let report = |free| DatastoreReport {
            datastore: DatastoreId::from_uuid(uuid::Uuid::nil()),
            state: DatastoreState::Ready,
            message: None,
            capacity: ByteSize(10_000),
            free: ByteSize(free),
        };
        assert!(!is_news(&report(5_000), &report(5_099)));
        assert!(is_news(&report(5_000), &report(4_900)));
        let missing = DatastoreReport { state: DatastoreState::Missing, ..report(5_000) };
        assert!(is_news(&report(5_000), &missing));
    }

    #[tokio::test]
    async fn a_datastore_is_remembered_and_missed() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let (file, path) = (dir.path().join("datastores.json"), dir.path().join("store"));
        let id = DatastoreId::generate();
        let datastores = Datastores::load(file.clone(), Hub::new()).unwrap();
        let report = datastores.ensure(id, path.clone(), true, false).await.unwrap();
        assert_eq!(report.state, DatastoreState::Ready);
        assert_eq!(datastores.ensure(id, path.clone(), true, false).await.unwrap().datastore, id);
        let clash = datastores.ensure(DatastoreId::generate(), path.clone(), true, false).await;
        assert!(matches!(clash, Err(Fault::WrongState(_))), "{clash:?}");

        let datastores = Datastores::load(file, Hub::new()).unwrap();
        assert!(datastores.get(id).is_ok());
        std::fs::remove_file(path.join(".hostler-datastore")).unwrap();
        assert!(matches!(datastores.get(id), Err(Fault::DatastoreMissing(_))));
        datastores.look_at_all();
        assert_eq!(datastores.reports()[0].state, DatastoreState::Missing);
        // The mount point of what is not mounted is not marked again.
        let report = datastores.ensure(id, path.clone(), false, false).await.unwrap();
        assert_eq!(report.state, DatastoreState::Missing);
        assert!(!path.join(".hostler-datastore").exists());
    }

    #[tokio::test]
    async fn a_directory_can_be_used_again_after_its_datastore_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let (file, path) = (dir.path().join("datastores.json"), dir.path().join("store"));
        let (one, two) = (DatastoreId::generate(), DatastoreId::generate());
        let datastores = Datastores::load(file.clone(), Hub::new()).unwrap();
        datastores.ensure(one, path.clone(), true, false).await.unwrap();
        datastores.remove(one, true).await.unwrap();
        datastores.remove(one, true).await.unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "nothing is left");
        assert!(Datastores::load(file, Hub::new()).unwrap().reports().is_empty());

        datastores.ensure(two, path.clone(), true, false).await.unwrap();
        std::fs::write(path.join("images/left"), "over").unwrap();
        datastores.remove(two, true).await.unwrap();
        let three = DatastoreId::generate();
        let report = datastores.ensure(three, path.clone(), true, false).await.unwrap();
        assert_eq!(report.state, DatastoreState::Ready);
        assert!(path.join("images/left").exists());
    }
}
