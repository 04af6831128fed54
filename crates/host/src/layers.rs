//! Which file backs which on a datastore, as the qcow2 headers say.
//!
//! The agent's record says what a disk's chain should be; here it is held against the files
//! before they are given to QEMU, and before any of them is modified or deleted. Headers are only
//! compared, never followed out of the datastore: whoever could write one has no say in what is
//! opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hostler_types::{ByteSize, Layer, LayerFile};

use crate::datastore::Datastore;
use crate::volume::{VolumeError, allocated, backing_of};

/// The longest chain that is followed; far more than a policy lets grow.
pub const MAX_DEPTH: usize = 128;

/// Which layer files of a datastore refer to which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerGraph {
    backing: BTreeMap<LayerFile, Option<LayerFile>>,
    dependents: BTreeMap<LayerFile, BTreeSet<LayerFile>>,
    unreadable: BTreeMap<LayerFile, String>,
}

impl LayerGraph {
    /// Reads the header of every disk file of a datastore. Blocks: some 20 µs a file.
    ///
    /// # Errors
    /// The datastore is not mounted, or a file of it cannot be read or refers to something that is
    /// no layer: nobody can say then what may be deleted.
    pub fn read(datastore: &Datastore) -> Result<Self, VolumeError> {
        Self::collect(datastore, |_, _, error| Err(error))
    }

    /// As [`Self::read`], but a file whose header cannot be used is remembered with the reason, and
    /// the rest is read: for whoever asks about files that such a one has nothing to do with.
    ///
    /// # Errors
    /// The datastore is not mounted or cannot be listed.
    pub fn survey(datastore: &Datastore) -> Result<Self, VolumeError> {
        Self::collect(datastore, |graph, file, error| {
            graph.unreadable.insert(file, with_causes(&error));
            Ok(())
        })
    }

    fn collect(
        datastore: &Datastore,
        mut unusable: impl FnMut(&mut Self, LayerFile, VolumeError) -> Result<(), VolumeError>,
    ) -> Result<Self, VolumeError> {
        let mut graph = Self::default();
        for file in datastore.layer_files()? {
            let backing = match backing(datastore, &file) {
                Ok(backing) => backing,
                // Removed or renamed since the directory was listed.
                Err(_) if fs::symlink_metadata(path(datastore, &file)).is_err() => continue,
                Err(error) => {
                    unusable(&mut graph, file, error)?;
                    continue;
                }
            };
            if let Some(backing) = &backing {
                graph.dependents.entry(backing.clone()).or_default().insert(file.clone());
            }
            graph.backing.insert(file, backing);
        }
        Ok(graph)
    }

    /// Files of which nobody can say what lies beneath them, and why. Only [`Self::survey`] knows
    /// any.
    pub fn unreadable(&self) -> impl Iterator<Item = (&LayerFile, &str)> {
        self.unreadable.iter().map(|(file, reason)| (file, reason.as_str()))
    }

    /// The files directly on top of one, of whichever VM.
    pub fn dependents(&self, file: &LayerFile) -> impl Iterator<Item = &LayerFile> {
        self.dependents.get(file).into_iter().flatten()
    }

    /// The file directly beneath one.
    pub fn backing(&self, file: &LayerFile) -> Option<&LayerFile> {
        self.backing.get(file)?.as_ref()
    }

    /// Whether the file is there.
    pub fn contains(&self, file: &LayerFile) -> bool {
        self.backing.contains_key(file)
    }

    /// All files, in order of their paths.
    pub fn files(&self) -> impl Iterator<Item = &LayerFile> {
        self.backing.keys()
    }

    /// Files that are referred to and not there.
    pub fn missing(&self) -> impl Iterator<Item = &LayerFile> {
        self.dependents.keys().filter(|file| !self.contains(file))
    }
}

/// What lies directly beneath a layer, as its header says.
///
/// # Errors
/// It cannot be read, or refers to something that is no layer of the datastore.
pub fn backing(datastore: &Datastore, file: &LayerFile) -> Result<Option<LayerFile>, VolumeError> {
    let path = path(datastore, file);
    let Some(name) = backing_of(&path)? else { return Ok(None) };
    match file.resolve(&name) {
        Ok(layer) => Ok(Some(layer)),
        Err(error) => Err(VolumeError::Damaged { path, reason: error.to_string() }),
    }
}

/// A file and all beneath it, from the headers; the file itself first.
///
/// # Errors
/// One of them is missing or no layer, or there are more than [`MAX_DEPTH`].
pub fn chain(datastore: &Datastore, active: &LayerFile) -> Result<Vec<LayerFile>, VolumeError> {
    let mut files = vec![active.clone()];
    while let Some(beneath) = backing(datastore, &files[files.len() - 1])? {
        if files.len() == MAX_DEPTH || files.contains(&beneath) {
            let reason = format!("it stands on more than {MAX_DEPTH} files, or on itself");
            return Err(VolumeError::Damaged { path: path(datastore, active), reason });
        }
        files.push(beneath);
    }
    Ok(files)
}

/// Makes sure that the files of a disk are what they are recorded to be: each is there, and its
/// header names the next.
///
/// # Errors
/// The first file that is missing or says otherwise.
pub fn verify(datastore: &Datastore, recorded: &[Layer]) -> Result<(), VolumeError> {
    for (depth, layer) in recorded.iter().enumerate() {
        let expected = recorded.get(depth + 1).map(|layer| &layer.file);
        let found = backing(datastore, &layer.file)?;
        if found.as_ref() != expected {
            let name = |file: Option<&LayerFile>| {
                file.map_or_else(|| "no file".to_owned(), |file| format!("`{file}`"))
            };
            let reason = format!(
                "its header names {} beneath it, the VM's record {}",
                name(found.as_ref()),
                name(expected)
            );
            return Err(VolumeError::Damaged { path: path(datastore, &layer.file), reason });
        }
    }
    Ok(())
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Where a layer lies.
pub fn path(datastore: &Datastore, file: &LayerFile) -> PathBuf {
    datastore.root().join(file.as_str())
}

/// A layer with the bytes it has; 0 when it is not there.
pub fn measure(datastore: &Datastore, file: LayerFile) -> Layer {
    let allocated = allocated(Path::new(&path(datastore, &file))).unwrap_or(ByteSize(0));
    Layer { file, allocated }
}
