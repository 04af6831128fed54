//! `hostler image list|show|delete`; the import is in `import.rs`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::image::{self, ImageListQuery, ImagePath};
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, Image, ImageSource, ImageState, Ref};

use super::import::Import;
use crate::error::CliError;
use crate::names::Names;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::terminal::confirm;
use crate::time;
use crate::wait::{self, WaitOptions};

/// Images: disks and ISOs that VMs are made from
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler image import debian-12 ./debian-12-genericcloud-amd64.qcow2
  hostler image list"
)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    Import(Import),
    List(List),

    /// Show an image
    #[command(after_help = "Examples:\n  hostler image show debian-12")]
    Show(Which),

    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    image: Ref,
}

/// List images
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "Examples:\n  hostler image list\n  hostler image list --datastore local"
)]
struct List {
    /// Only images with this label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY[=VALUE]")]
    labels: Vec<String>,

    /// Only images on this datastore
    #[arg(long, value_name = "DATASTORE")]
    datastore: Option<Ref>,
}

/// Delete an image that no VM uses
#[derive(Debug, Args)]
#[command(visible_alias = "rm", after_help = "Examples:\n  hostler image delete debian-12 --yes")]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl ImageArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            ImageCommand::Import(import) => import.run(session).await?,
            ImageCommand::List(list) => list.run(session).await?,
            ImageCommand::Show(which) => {
                let path = ImagePath { image: which.image };
                let image = session.call::<image::Show>(&path, &NoParams {}, ());
                let (image, names) = futures::try_join!(image, Names::datastores(session))?;
                print(session, &image, &names)?;
            }
            ImageCommand::Delete(delete) => delete.run(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = ImageListQuery {
            label: self.labels,
            datastore: self.datastore,
            ..ImageListQuery::default()
        };
        let page = session.call::<image::List>(&NoParams {}, &query, ());
        let (page, names) = futures::try_join!(page, Names::datastores(session))?;
        session.output.list(
            &page.items,
            &Listing {
                header: &["NAME", "STATE", "MEDIA", "SIZE", "STORED", "DATASTORE", "MESSAGE"],
                empty: "no images",
                name: &|image| image.metadata.name.to_string(),
                row: &|image| {
                    vec![
                        Cell::new(image.metadata.name.as_str()),
                        state(image),
                        Cell::new(media(image)),
                        size(image.status.virtual_size),
                        size(image.status.allocated),
                        names.cell(image.spec.datastore),
                        Cell::maybe(image.status.message.as_ref()),
                    ]
                },
            },
        )
    }
}

fn state(image: &Image) -> Cell {
    match image.status.state {
        ImageState::Uploading => Cell::new("uploading").tone(Tone::Busy),
        ImageState::Importing => Cell::new("importing").tone(Tone::Busy),
        ImageState::Ready => Cell::new("ready").tone(Tone::Good),
        ImageState::Failed => Cell::new("failed").tone(Tone::Bad),
    }
}

fn media(image: &Image) -> &'static str {
    match image.status.media {
        Some(hostler_types::ImageMedia::Disk) => "disk",
        Some(hostler_types::ImageMedia::Cdrom) => "cdrom",
        None => "",
    }
}

/// Zero as long as the image is on its way.
fn size(size: ByteSize) -> Cell {
    if size.bytes() == 0 { Cell::new("") } else { Cell::number(size) }
}

fn print(session: &Session, image: &Image, names: &Names) -> Result<(), CliError> {
    let fields = || {
        let one = |text: String| vec![Cell::new(text)];
        let source = match &image.spec.source {
            ImageSource::Url(url) => url.clone(),
            ImageSource::Upload(size) => format!("an upload of {size}"),
            ImageSource::Found => "found on its datastore".to_owned(),
        };
        let status = &image.status;
        let labels = image.metadata.labels.iter();
        let mut fields = vec![
            ("Name", one(image.metadata.name.to_string())),
            ("Id", one(image.metadata.id.to_string())),
            ("Labels", labels.map(|(key, value)| Cell::new(format!("{key}={value}"))).collect()),
            ("State", vec![state(image)]),
            ("Message", status.message.iter().map(Cell::new).collect()),
            ("Media", one(media(image).to_owned())),
            (
                "Format",
                status.format.iter().map(|f| Cell::new(format!("{f:?}").to_lowercase())).collect(),
            ),
            ("Size", vec![size(status.virtual_size)]),
            ("Stored", vec![size(status.allocated)]),
            ("Datastore", one(names.of(image.spec.datastore))),
            ("Source", one(source)),
            ("SHA-256", status.sha256.iter().map(|sum| Cell::new(sum.as_str())).collect()),
            ("Imported", one(time::show(image.metadata.created_at))),
        ];
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(image, image.metadata.name.as_str(), fields)
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        confirm(self.yes, &format!("Delete the image {}?", self.which.image))?;
        let path = ImagePath { image: self.which.image.clone() };
        let task = session.call_with::<image::Delete>(&path, &NoParams {}, (), once()).await?;
        if !self.wait.waits() {
            return super::task::print_ordered(session, &task);
        }
        let task = wait::task(session, task).await?;
        session.output.done("deleted", "image", &self.which.image.to_string(), &task)
    }
}
