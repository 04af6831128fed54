//! Layers: the qcow2 files that make up a disk.
//!
//! A disk is a chain of files. Writes go to the first, the *active* layer; what it does not have
//! is read from the one beneath, down to an image or to nothing. The host's agent keeps the chain,
//! the server mirrors it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{ImageId, VmId};
use crate::name::Name;
use crate::size::ByteSize;

/// A file of a chain: its path relative to its datastore, such as `images/<id>.qcow2` or
/// `vms/<id>/root.2.qcow2`. No other form can be made, so none leaves the datastore.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct LayerFile(Box<str>);

/// Whose directory a layer lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerOwner {
    Image(ImageId),
    Vm(VmId),
}

impl LayerFile {
    /// An image that came as a disk.
    pub fn image(image: ImageId) -> Self {
        Self(format!("images/{image}.qcow2").into())
    }

    /// The `number`th file of a VM's disk, from 0: `<disk>.qcow2`, `<disk>.1.qcow2`, …
    pub fn disk(vm: VmId, disk: &Name, number: u32) -> Self {
        match number {
            0 => Self(format!("vms/{vm}/{disk}.qcow2").into()),
            _ => Self(format!("vms/{vm}/{disk}.{number}.qcow2").into()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn owner(&self) -> LayerOwner {
        Self::parse(&self.0).expect("only what parses becomes a layer file").0
    }

    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Which of its disk's files it is; `None` for an image.
    pub fn number(&self) -> Option<u32> {
        Self::parse(&self.0)?.1
    }

    /// The path from the directory of another layer to this one, as qcow2 headers carry it: every
    /// layer lies one or two directories below the datastore.
    pub fn relative_to(&self, other: &Self) -> String {
        match other.owner() {
            LayerOwner::Image(_) => format!("../{}", self.0),
            LayerOwner::Vm(vm) if self.owner() == LayerOwner::Vm(vm) => self.file_name().to_owned(),
            LayerOwner::Vm(_) => format!("../../{}", self.0),
        }
    }

    /// What a header of this layer means by `backing`; the inverse of [`Self::relative_to`].
    ///
    /// # Errors
    /// It is not the path of a layer of the same datastore.
    pub fn resolve(&self, backing: &str) -> Result<Self, LayerFileError> {
        let absolute = match (self.owner(), backing.strip_prefix("../../")) {
            (LayerOwner::Vm(_), Some(rest)) => rest.to_owned(),
            (LayerOwner::Vm(vm), None) if !backing.contains('/') => format!("vms/{vm}/{backing}"),
            (LayerOwner::Image(_), _) if backing.starts_with("../") => backing[3..].to_owned(),
            _ => return Err(LayerFileError(backing.escape_debug().to_string())),
        };
        absolute.parse()
    }

    fn parse(text: &str) -> Option<(LayerOwner, Option<u32>)> {
        let mut parts = text.split('/');
        let (directory, second, third) = (parts.next()?, parts.next()?, parts.next());
        match (directory, third, parts.next()) {
            ("images", None, None) => {
                let id: ImageId = second.strip_suffix(".qcow2")?.parse().ok()?;
                (Self::image(id).as_str() == text).then_some((LayerOwner::Image(id), None))
            }
            ("vms", Some(file), None) => {
                let vm: VmId = second.parse().ok()?;
                let stem = file.strip_suffix(".qcow2")?;
                let (disk, number) = match stem.split_once('.') {
                    Some((disk, number)) => (disk, number.parse().ok().filter(|n| *n > 0)?),
                    None => (stem, 0),
                };
                let disk: Name = disk.parse().ok()?;
                let canonical = Self::disk(vm, &disk, number).as_str() == text;
                canonical.then_some((LayerOwner::Vm(vm), Some(number)))
            }
            _ => None,
        }
    }
}

/// A text that is not the path of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the path of a disk file on a datastore")]
pub struct LayerFileError(String);

impl FromStr for LayerFile {
    type Err = LayerFileError;
    fn from_str(text: &str) -> Result<Self, LayerFileError> {
        match Self::parse(text) {
            Some(_) => Ok(Self(text.into())),
            None => Err(LayerFileError(
                text.chars().take(120).collect::<String>().escape_debug().to_string(),
            )),
        }
    }
}
impl TryFrom<String> for LayerFile {
    type Error = LayerFileError;
    fn try_from(text: String) -> Result<Self, LayerFileError> {
        text.parse()
    }
}
impl From<LayerFile> for String {
    fn from(file: LayerFile) -> Self {
        file.0.into()
    }
}
impl fmt::Display for LayerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One file of a disk's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Layer {
    pub file: LayerFile,
    /// Bytes on the datastore.
    pub allocated: ByteSize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "01890000-0000-7000-8000-000000000001";
    const OTHER: &str = "01890000-0000-7000-8000-000000000002";

    #[test]
    fn only_canonical_paths_are_layers() {
        let good = [
            format!("images/{VM}.qcow2"),
            format!("vms/{VM}/root.qcow2"),
            format!("vms/{VM}/root.12.qcow2"),
        ];
        for text in good {
            assert_eq!(text.parse::<LayerFile>().unwrap().as_str(), text);
        }
        let bad = [
            String::new(),
            "/etc/passwd".to_owned(),
            format!("vms/{VM}/../{OTHER}/root.qcow2"),
            format!("vms/{VM}/.qcow2"),
            format!("vms/{VM}/root.0.qcow2"),
            format!("vms/{VM}/root.01.qcow2"),
            format!("vms/{VM}/root.+1.qcow2"),
            format!("vms/{VM}/root.1.2.qcow2"),
            format!("vms/{VM}/root"),
            format!("vms//{VM}/root.qcow2"),
            format!("vms/{}/root.qcow2", VM.replace('-', "")),
            format!("images/{VM}.qcow2/x"),
        ];
        for text in bad {
            assert!(text.parse::<LayerFile>().is_err(), "{text}");
        }
    }

    #[test]
    fn headers_name_layers_relatively() {
        let vm: VmId = VM.parse().unwrap();
        let other: VmId = OTHER.parse().unwrap();
        let disk: Name = "root".parse().unwrap();
        let active = LayerFile::disk(vm, &disk, 2);
        let check = |layer: LayerFile, expected: &str| {
            assert_eq!(layer.relative_to(&active), expected);
            assert_eq!(active.resolve(expected).unwrap(), layer);
        };
        check(LayerFile::disk(vm, &disk, 1), "root.1.qcow2");
        check(LayerFile::disk(other, &disk, 0), &format!("../../vms/{OTHER}/root.qcow2"));
        check(LayerFile::image(VM.parse().unwrap()), &format!("../../images/{VM}.qcow2"));
        for hostile in
            ["/etc/shadow", "../../../etc/shadow", "../x.qcow2", "nbd://x", "json:{}", ""]
        {
            assert!(active.resolve(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn numbers_are_told() {
        let vm: VmId = VM.parse().unwrap();
        assert_eq!(LayerFile::disk(vm, &"root".parse().unwrap(), 3).number(), Some(3));
        assert_eq!(LayerFile::image(VM.parse().unwrap()).number(), None);
    }
}
