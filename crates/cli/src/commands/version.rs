//! `hostler version`.

use std::process::ExitCode;

use clap::Args;
use hostler_api::system::ShowVersion;
use hostler_endpoint::NoParams;
use serde::Serialize;

use crate::error::CliError;
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::session::Session;
use crate::table::{Cell, Tone};

/// Print the versions of this program and of the server
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler version\n  hostler version --client -o json")]
pub(crate) struct Version {
    /// Only this program's; asks no server
    #[arg(long)]
    client: bool,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
}

impl Version {
    pub(super) async fn run(&self, globals: &GlobalOptions) -> Result<ExitCode, CliError> {
        let server = if self.client { None } else { Some(server(globals).await) };
        let versions = Versions {
            client: env!("CARGO_PKG_VERSION"),
            server: server.clone().and_then(Result::ok),
        };
        Output::new(globals).object(&versions, versions.client, || {
            let mut fields = vec![("Client", vec![Cell::new(versions.client)])];
            // No server is no error: the question was which versions there are.
            fields.extend(server.map(|server| match server {
                Ok(version) => ("Server", vec![Cell::new(version)]),
                Err(error) => ("Server", vec![Cell::new(error.to_string()).tone(Tone::Dim)]),
            }));
            fields
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn server(globals: &GlobalOptions) -> Result<String, CliError> {
    let session = Session::open(globals)?;
    Ok(session.call::<ShowVersion>(&NoParams {}, &NoParams {}, ()).await?.version)
}
