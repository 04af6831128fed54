//! Images: import from an address or by upload.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, Stream};
use hostler_types::{ByteSize, Image, ImageState, Ref, Task};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which image.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ImagePath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub image: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ImageListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those with this label, `key=value`, or `key` for any value. Several: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Only those whose name begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub state: Option<ImageState>,
    /// Only those on this datastore, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub datastore: Option<Ref>,
}

/// What became of a request for an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageCreated {
    pub image: Image,
    /// What downloads it; absent when the client uploads: send the bytes, then `image_import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

/// Where in the image the bytes begin.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UploadQuery {
    /// Must be what `image_upload_status` answers as `received`.
    #[serde(default)]
    pub offset: u64,
}

/// How far an upload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadStatus {
    /// Bytes that are safely stored: where to go on.
    pub received: ByteSize,
}

/// List images, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "image_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/images";
    const SUMMARY: &'static str = "List images, sorted by name";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = ImageListQuery;
    type Body = Empty;
    type Answer = Json<Page<Image>>;
}
/// Make an image from an address, or one to be uploaded.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "image_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/images";
    const SUMMARY: &'static str = "Make an image from an address, or one to be uploaded";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<hostler_types::ImageCreate>;
    type Answer = Json<ImageCreated>;

    fn revision(answer: &ImageCreated) -> Option<u64> {
        Some(answer.image.metadata.revision.0)
    }
}
/// Show an image.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "image_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/images/{image}";
    const SUMMARY: &'static str = "Show an image";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "viewer";
    type Path = ImagePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Image>;

    fn revision(answer: &Image) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete an image that no VM uses.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "image_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/images/{image}";
    const SUMMARY: &'static str = "Delete an image that no VM uses";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = ImagePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Send bytes of an image; an interrupted upload goes on where it stopped.
#[derive(Debug)]
pub struct Upload;

impl Endpoint for Upload {
    const ID: &'static str = "image_upload";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/v1/images/{image}/content";
    const SUMMARY: &'static str =
        "Send bytes of an image; an interrupted upload goes on where it stopped";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "operator";
    type Path = ImagePath;
    type Query = UploadQuery;
    type Body = Stream;
    type Answer = Json<UploadStatus>;
}
/// Tell how far an upload has come.
#[derive(Debug)]
pub struct UploadProgress;

impl Endpoint for UploadProgress {
    const ID: &'static str = "image_upload_status";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/images/{image}/content";
    const SUMMARY: &'static str = "Tell how far an upload has come";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "operator";
    type Path = ImagePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<UploadStatus>;
}
/// Check an uploaded image and make it ready.
#[derive(Debug)]
pub struct Import;

impl Endpoint for Import {
    const ID: &'static str = "image_import";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/images/{image}/import";
    const SUMMARY: &'static str = "Check an uploaded image and make it ready";
    const TAG: &'static str = "image";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = ImagePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
