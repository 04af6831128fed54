//! Who is at work with which disk files, so that nothing is built on what is just going.
//!
//! Whoever makes a file that refers to others, or copies them, *holds* them: from before it looks
//! whether they are there until its own header, which everybody can read, is on the disk. Whoever
//! deletes files or rewrites what lies beneath others *condemns* them: from before it reads the
//! headers of the datastore until the files are gone. The two refuse each other at once: nobody
//! waits for a copy of hours, and nothing can deadlock.
//!
//! This is about one host. What other hosts do with a shared datastore is kept apart by the server,
//! which locks the objects that the files belong to; and where it does not, because a VM that is
//! cloned is not locked, by looking twice (see `vm::lend`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_types::{DatastoreId, LayerFile};

use super::Datastores;
use crate::fault::Fault;

type Key = (DatastoreId, LayerFile);

/// The claims of a host.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Arc<Mutex<HashMap<Key, Claim>>>);

#[derive(Debug)]
enum Claim {
    /// What for, one text for each that holds it.
    Held(Vec<String>),
    Condemned(String),
}

/// Files that stay for as long as this lives.
#[must_use = "the files are let go when this is dropped"]
#[derive(Debug)]
pub(crate) struct Held {
    claims: Claims,
    files: Vec<Key>,
    what: String,
}

/// Files that nobody builds upon for as long as this lives.
#[must_use = "the files are let go when this is dropped"]
#[derive(Debug)]
pub(crate) struct Condemned {
    claims: Claims,
    files: Vec<Key>,
}

impl Datastores {
    /// Keeps files from being deleted while something is made of them. `what` that is, for who wants
    /// to delete them: ``"a clone for `web02`"``.
    ///
    /// # Errors
    /// [`Fault::InUse`] when one of them is just being deleted or rewritten.
    pub(crate) fn hold(
        &self,
        datastore: DatastoreId,
        files: impl IntoIterator<Item = LayerFile>,
        what: impl Into<String>,
    ) -> Result<Held, Fault> {
        let claims = &self.0.claims;
        let files: Vec<Key> = files.into_iter().map(|file| (datastore, file)).collect();
        let what = what.into();
        let mut table = claims.lock();
        for key in &files {
            if let Some(Claim::Condemned(why)) = table.get(key) {
                return Err(Fault::InUse(format!("{} is in use: {why}", key.1)));
            }
        }
        for key in &files {
            match table.entry(key.clone()).or_insert_with(|| Claim::Held(Vec::new())) {
                Claim::Held(holders) => holders.push(what.clone()),
                Claim::Condemned(_) => {}
            }
        }
        drop(table);
        Ok(Held { claims: claims.clone(), files, what })
    }

    /// Keeps anything from being made of files while they are deleted or rewritten. `why`, for who
    /// wants to use them: `"it is being deleted"`.
    ///
    /// # Errors
    /// [`Fault::InUse`] when something is just being made of one of them, or when somebody else has
    /// condemned it.
    pub(crate) fn condemn(
        &self,
        datastore: DatastoreId,
        files: impl IntoIterator<Item = LayerFile>,
        why: &str,
    ) -> Result<Condemned, Fault> {
        let claims = &self.0.claims;
        let files: Vec<Key> = files.into_iter().map(|file| (datastore, file)).collect();
        let mut table = claims.lock();
        for key in &files {
            let by = match table.get(key) {
                None => continue,
                Some(Claim::Held(holders)) => holders.join(", "),
                Some(Claim::Condemned(why)) => why.clone(),
            };
            return Err(Fault::InUse(format!("{} is in use: {by}", key.1)));
        }
        table.extend(files.iter().map(|key| (key.clone(), Claim::Condemned(why.to_owned()))));
        drop(table);
        Ok(Condemned { claims: claims.clone(), files })
    }
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.claims.lock();
        for key in &self.files {
            let Some(Claim::Held(holders)) = table.get_mut(key) else { continue };
            if let Some(own) = holders.iter().position(|what| *what == self.what) {
                holders.swap_remove(own);
            }
            if holders.is_empty() {
                table.remove(key);
            }
        }
    }
}

impl Drop for Condemned {
    fn drop(&mut self) {
        let mut table = self.claims.lock();
        for key in &self.files {
            table.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_types::ImageId;

    use super::*;
    use crate::events::Hub;

    #[test]
    fn what_is_used_is_not_deleted_and_what_is_deleted_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let datastores = Datastores::load(dir.path().join("list"), Hub::new()).unwrap();
        let (here, there) = (DatastoreId::generate(), DatastoreId::generate());
        let file = LayerFile::image(ImageId::generate());
        let hold = |what| datastores.hold(here, [file.clone()], what);
        let condemn = |at| datastores.condemn(at, [file.clone()], "it is being deleted");

        let (one, two) = (hold("a disk of `a`").unwrap(), hold("a disk of `b`").unwrap());
        let refused = condemn(here).unwrap_err().to_string();
        assert_eq!(refused, format!("{file} is in use: a disk of `a`, a disk of `b`"));
        drop(condemn(there).unwrap());
        drop(one);
        assert!(condemn(here).unwrap_err().to_string().ends_with("a disk of `b`"));
        drop(two);

        let going = condemn(here).unwrap();
        let refused = hold("a disk of `c`").unwrap_err().to_string();
        assert_eq!(refused, format!("{file} is in use: it is being deleted"));
        assert!(condemn(here).is_err(), "only one deletes it");
        drop(going);
        drop(hold("a disk of `c`").unwrap());
        assert!(datastores.0.claims.lock().is_empty());
    }
}
