//! Images: disks and ISOs that VMs are made from. An image never changes once it is ready.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::DatastoreId;
use crate::name::{Name, Ref};
use crate::object::{Kind, KindName, Labels, Object};
use crate::size::ByteSize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageKind;
pub type Image = Object<ImageKind>;

impl Kind for ImageKind {
    const NAME: KindName = KindName::Image;
    const SCHEMA: &'static str = "Image";
    type Spec = ImageSpec;
    type Status = ImageStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    pub datastore: DatastoreId,
    pub source: ImageSource,
    /// What the source must hash to; checked before the image is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ImageSource {
    /// An http(s) address that the host downloads from.
    Url(String),
    /// The client sends the bytes; this many in all.
    Upload(ByteSize),
    /// It lay on the datastore and was adopted. Not for new images.
    Found,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageStatus {
    pub state: ImageState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Found by content; absent until the import has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<ImageMedia>,
    /// The disk's size as a guest sees it.
    pub virtual_size: ByteSize,
    /// Bytes on the datastore.
    pub allocated: ByteSize,
    /// SHA-256 of the bytes received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// Waits for the client's bytes; an interrupted upload goes on where it stopped.
    Uploading,
    Importing,
    Ready,
    Failed,
}

/// The format of the source, found by content. What is stored is qcow2 or (ISO) raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    Qcow2,
    Raw,
    Vmdk,
    Vhdx,
    Iso,
}

impl ImageFormat {
    /// QEMU's name of the format.
    pub const fn driver(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw | Self::Iso => "raw",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageMedia {
    Disk,
    Cdrom,
}

/// An image to be imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageCreate {
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    /// Absent: the only one, or the one with the most free space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Ref>,
    pub source: ImageSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

/// A SHA-256 digest, 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 64, max_length = 64)]
pub struct Sha256(String);

impl Sha256 {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for Sha256 {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() != 64 || !text.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(format!(
                "`{}` is not a SHA-256: 64 hexadecimal digits",
                text.escape_debug()
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}
impl TryFrom<String> for Sha256 {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.0
    }
}
impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
