//! Images on the agent's datastores.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Stream};
use hostler_types::{ByteSize, DatastoreId, ImageFormat, ImageId, ImageMedia, OperationId, Sha256};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ImagePath {
    #[param(value_type = String)]
    pub image: ImageId,
}

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ImageContentQuery {
    #[param(value_type = String)]
    pub datastore: DatastoreId,
    /// Where the bytes go; must be what has been received so far.
    #[serde(default)]
    pub offset: u64,
}

/// `PUT /agent/v1/images/{image}/content`: appends bytes to the image's `.part` file. Refused when
/// `offset` is not its length (the answer of `image_content` tells it).
#[derive(Debug)]
pub struct ImageUpload;

impl Endpoint for ImageUpload {
    const ID: &'static str = "image_upload";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/agent/v1/images/{image}/content";
    const SUMMARY: &'static str = "Append bytes to an image being imported";
    const TAG: &'static str = "image";
    type Path = ImagePath;
    type Query = ImageContentQuery;
    type Body = Stream;
    type Answer = Json<ImageContentAnswer>;
}

/// `GET /agent/v1/images/{image}/content`: how many bytes have been received.
#[derive(Debug)]
pub struct ImageContent;

impl Endpoint for ImageContent {
    const ID: &'static str = "image_content";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/images/{image}/content";
    const SUMMARY: &'static str = "How much of an image has been received";
    const TAG: &'static str = "image";
    type Path = ImagePath;
    type Query = ImageContentQuery;
    type Body = Empty;
    type Answer = Json<ImageContentAnswer>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageContentAnswer {
    pub received: ByteSize,
}

/// `POST /agent/v1/images/{image}/import`: downloads (going on where it stopped), checks, converts
/// and puts the image in place. On failure the `.part` file is kept for the next try unless its
/// content was refused.
#[derive(Debug)]
pub struct ImageImport;

impl Endpoint for ImageImport {
    const ID: &'static str = "image_import";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/images/{image}/import";
    const SUMMARY: &'static str = "Check an image and put it in place";
    const TAG: &'static str = "image";
    type Path = ImagePath;
    type Query = NoParams;
    type Body = Json<ImageImportRequest>;
    type Answer = Json<ImageImported>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageImportRequest {
    pub op: OperationId,
    pub datastore: DatastoreId,
    pub source: ImageImportSource,
    pub sha256: Option<Sha256>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageImportSource {
    Url(String),
    /// The `.part` file holds it all: this many bytes.
    Uploaded(ByteSize),
    /// It is in its place already, though in no inventory. Whatever comes of it, it stays there.
    Found,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageImported {
    pub format: ImageFormat,
    pub media: ImageMedia,
    pub virtual_size: ByteSize,
    pub allocated: ByteSize,
    pub sha256: Sha256,
}

/// `POST /agent/v1/images/{image}/remove`: removes the image and its `.part` file. Idempotent;
/// refused while a disk on any of the agent's datastores is an overlay on it.
#[derive(Debug)]
pub struct ImageRemove;

impl Endpoint for ImageRemove {
    const ID: &'static str = "image_remove";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/images/{image}/remove";
    const SUMMARY: &'static str = "Remove an image's files";
    const TAG: &'static str = "image";
    const STATUS: u16 = 204;
    type Path = ImagePath;
    type Query = NoParams;
    type Body = Json<ImageRemoveRequest>;
    type Answer = Empty;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageRemoveRequest {
    pub op: OperationId,
    pub datastore: DatastoreId,
}
