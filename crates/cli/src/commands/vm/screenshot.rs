//! `hostler vm screenshot`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt as _;
use hostler_api::vm;
use hostler_endpoint::{ByteStream, NoParams};

use super::VmName;
use crate::error::{CliError, Exit};
use crate::output;
use crate::session::Session;

/// Take a picture of a guest's screen, as PNG
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm screenshot web01 web01.png
  hostler vm screenshot web01 - | feh -")]
pub(crate) struct Screenshot {
    #[command(flatten)]
    vm: VmName,

    /// Where to put it (`-`: standard output)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Screenshot {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let bytes = session.call::<vm::Screenshot>(&path, &NoParams {}, ()).await?;
        if self.file.as_os_str() == "-" {
            return copy(bytes, &mut |chunk| output::print_bytes(chunk)).await;
        }
        save(bytes, &self.file).await?;
        session.output.remark(&format!("wrote {}", self.file.display()));
        Ok(())
    }
}

/// Either the whole picture is there afterwards, or the file is as it was.
async fn save(bytes: ByteStream, path: &Path) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        // As any other file: what the umask leaves.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    copy(bytes, &mut |chunk| file.write_all(chunk).map_err(failed)).await?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

async fn copy(
    mut bytes: ByteStream,
    write: &mut dyn FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| {
            CliError::new(Exit::CannotConnect, format!("the picture broke off: {error}"))
        })?;
        write(&chunk)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broken_transfer_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("screen.png");
        let stream = |items: Vec<Result<bytes::Bytes, std::io::Error>>| -> ByteStream {
            Box::pin(futures::stream::iter(items))
        };
        save(stream(vec![Ok("one".into())]), &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        let broken = vec![Ok("tw".into()), Err(std::io::Error::other("gone"))];
        assert!(save(stream(broken), &path).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
