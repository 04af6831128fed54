//! What a client command works with: the server it talks to and how it prints.

use hostler_endpoint::{Answer, Body, CallOptions, Endpoint, Receive};

use crate::address::{Address, Environment};
use crate::connection::Connection;
use crate::contexts::ContextFile;
use crate::error::CliError;
use crate::options::GlobalOptions;
use crate::output::Output;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) output: Output,
    /// A person watches: progress may be drawn.
    pub(crate) draws: bool,
}

impl Session {
    pub(crate) fn open(globals: &GlobalOptions) -> Result<Self, CliError> {
        let contexts = ContextFile::of_user().and_then(|file| file.load());
        let environment = Environment::read();
        // A missing or broken file matters only to those who need it.
        let address = match contexts {
            Ok(contexts) => Address::resolve(globals, &environment, &contexts)?,
            Err(error) => {
                Address::resolve(globals, &environment, &Default::default()).map_err(|_| error)?
            }
        };
        Self::at(&address, globals)
    }

    pub(crate) fn at(address: &Address, globals: &GlobalOptions) -> Result<Self, CliError> {
        let connection = Connection::new(address)?;
        let draws = globals.draws_progress();
        Ok(Self { connection, output: Output::new(globals), draws })
    }

    pub(crate) async fn call<E>(
        &self,
        path: &E::Path,
        query: &E::Query,
        body: <E::Body as Body>::Value,
    ) -> Result<<E::Answer as Answer>::Value, CliError>
    where
        E: Endpoint,
        E::Answer: Receive,
    {
        Ok(self.connection.client.call::<E>(path, query, body).await?)
    }

    pub(crate) async fn call_with<E>(
        &self,
        path: &E::Path,
        query: &E::Query,
        body: <E::Body as Body>::Value,
        options: CallOptions,
    ) -> Result<<E::Answer as Answer>::Value, CliError>
    where
        E: Endpoint,
        E::Answer: Receive,
    {
        Ok(self.connection.client.call_with::<E>(path, query, body, options).await?)
    }
}

/// A call whose repetition after a broken connection is done once.
pub(crate) fn once() -> CallOptions {
    CallOptions {
        idempotency_key: Some(uuid::Uuid::now_v7().to_string()),
        ..CallOptions::default()
    }
}
