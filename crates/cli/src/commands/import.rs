//! `hostler image import`: from an address, or by uploading a file.

use std::path::{Path, PathBuf};

use clap::Args;
use hostler_api::image::{self, ImagePath};
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, Image, ImageCreate, ImageSource, Name, Ref, Sha256, Task};

use super::upload::Sending;
use crate::error::{CliError, Exit};
use crate::input::Label;
use crate::session::{Session, once};
use crate::wait::{self, WaitOptions};

/// Import a disk or ISO from a file or an http(s) address
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler image import debian-12 ./debian-12-genericcloud-amd64.qcow2
  hostler image import debian-12 https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2 \\
      --sha256 0000000000000000000000000000000000000000000000000000000000000000

qcow2, raw, vmdk, vhdx and ISO are recognised by content. An interrupted import goes on where it
stopped: give the same command again.")]
pub(crate) struct Import {
    /// Name for the image
    #[arg(value_name = "NAME")]
    name: Name,

    /// A file here, or an http(s) address that the host downloads from
    #[arg(value_name = "FILE|URL")]
    source: String,

    /// What it must hash to; checked before the image is used
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sha256>,

    /// Datastore to put it on [default: the one with the most free space]
    #[arg(long, value_name = "DATASTORE")]
    datastore: Option<Ref>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Import {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let task = if self.source.contains("://") {
            self.download(session).await?
        } else {
            self.upload(session).await?
        };
        if !self.wait.waits() {
            return super::task::print_ordered(session, &task);
        }
        wait::task(session, task).await?;
        let image = self.show(session).await?;
        session.output.done("imported", "image", self.name.as_str(), &image)
    }

    fn path(&self) -> ImagePath {
        ImagePath { image: self.name.clone().into() }
    }

    async fn show(&self, session: &Session) -> Result<Image, CliError> {
        session.call::<image::Show>(&self.path(), &NoParams {}, ()).await
    }

    fn request(&self, source: ImageSource) -> ImageCreate {
        ImageCreate {
            name: self.name.clone(),
            labels: self.labels.iter().map(Label::pair).collect(),
            datastore: self.datastore.clone(),
            source,
            sha256: self.sha256.clone(),
        }
    }

    async fn download(&self, session: &Session) -> Result<Task, CliError> {
        let request = self.request(ImageSource::Url(self.source.clone()));
        let call = session.call_with::<image::Create>(&NoParams {}, &NoParams {}, request, once());
        call.await?.task.ok_or_else(|| {
            CliError::new(Exit::Failed, "the server has accepted the image without importing it")
        })
    }

    async fn upload(&self, session: &Session) -> Result<Task, CliError> {
        let file = PathBuf::from(&self.source);
        let size = length(&file)?;
        let request = self.request(ImageSource::Upload(ByteSize(size)));
        Sending { request, file, start: 0, size }.run(session).await
    }
}

fn length(file: &Path) -> Result<u64, CliError> {
    let failed = |reason: String| {
        CliError::new(Exit::Failed, format!("cannot read {}: {reason}", file.display()))
    };
    let metadata = std::fs::metadata(file).map_err(|error| {
        failed(error.to_string()).hint("an image is a file here, or an http(s) address")
    })?;
    match (metadata.is_file(), metadata.len()) {
        (false, _) => Err(failed("it is not a file".to_owned())),
        (true, 0) => Err(failed("it is empty".to_owned())),
        (true, length) => Ok(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(length(directory.path()).is_err());
        let empty = directory.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(length(&empty).unwrap_err().to_string().contains("empty"));
        assert!(length(&directory.path().join("gone")).is_err());
    }
}
