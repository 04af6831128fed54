//! The networks of this host: what the server told us of them, and what has been set up.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_host::network::{NetworkError, Networks as HostNetworks, Port, Tap, TapName};
use hostler_types::{NetworkId, NetworkSpec};
use std::net::Ipv4Addr;

use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::state_file;

#[derive(Debug, Clone)]
pub(crate) struct Networks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: HostNetworks,
    file: PathBuf,
    specs: Mutex<BTreeMap<NetworkId, NetworkSpec>>,
    /// Set up since the agent started: a VM's start need not look again.
    ready: Mutex<HashSet<NetworkId>>,
    /// Held while networks are set up or taken down.
    changing: tokio::sync::Mutex<()>,
}

impl Networks {
    /// Blocks for reading a file.
    pub(crate) fn load(host: HostNetworks, file: PathBuf) -> Result<Self, Fault> {
        let specs = state_file::read(&file)?.unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            host,
            file,
            specs: Mutex::new(specs),
            ready: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
        })))
    }

    /// Sets a network up, now and (when a VM needs it) after a restart.
    pub(crate) async fn ensure(&self, id: NetworkId, spec: &NetworkSpec) -> Result<(), Fault> {
        spec.validate().map_err(Fault::Invalid)?;
        let _changing = self.0.changing.lock().await;
        self.0.host.ensure(id, spec).await?;
        self.remember(id, Some(spec.clone())).await?;
        lock(&self.0.ready).insert(id);
        Ok(())
    }

    /// Sets up all known networks: what they need may have ended with an earlier agent, and guests
    /// that run on them need it now. What fails is logged; a VM's start tries again.
    pub(crate) async fn ensure_all(&self) {
        let specs = lock(&self.0.specs).clone();
        for (id, spec) in specs {
            if let Err(error) = self.ensure_once(id, &spec).await {
                tracing::warn!(network = %id, %error, "cannot set up a network");
            }
        }
    }

    /// As [`Networks::ensure`], but free of charge when it is set up as told already.
    pub(crate) async fn ensure_once(&self, id: NetworkId, spec: &NetworkSpec) -> Result<(), Fault> {
        let known = lock(&self.0.specs).get(&id) == Some(spec);
        if known && lock(&self.0.ready).contains(&id) {
            return Ok(());
        }
        self.ensure(id, spec).await
    }

    pub(crate) async fn remove(&self, id: NetworkId) -> Result<(), Fault> {
        let _changing = self.0.changing.lock().await;
        lock(&self.0.ready).remove(&id);
        let spec = lock(&self.0.specs).get(&id).cloned();
        // Never heard of: nothing was made.
        let Some(spec) = spec else { return Ok(()) };
        self.0.host.remove(id, &spec).await?;
        self.remember(id, None).await
    }

    /// Reserves an address and admits the NIC; the address that DHCP will give, if it does.
    pub(crate) async fn plug(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
        port: Port<'_>,
    ) -> Result<Option<Ipv4Addr>, Fault> {
        self.ensure_once(id, spec).await?;
        Ok(self.0.host.plug(id, spec, tap, port).await?)
    }

    pub(crate) async fn unplug(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
    ) -> Result<(), Fault> {
        Ok(self.0.host.unplug(id, spec, tap).await?)
    }

    /// The address that a NIC's DHCP request is answered with.
    pub(crate) fn reserved(&self, id: NetworkId, tap: &TapName) -> Option<Ipv4Addr> {
        self.0.host.reserved(id, tap).ok().flatten()
    }

    /// A tap for a starting VM. If the network is not as it was set up (somebody removed the
    /// bridge), it is set up again.
    pub(crate) async fn open_tap(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
    ) -> Result<Tap, Fault> {
        self.ensure_once(id, spec).await?;
        match self.0.host.open_tap(id, spec, tap).await {
            Ok(tap) => Ok(tap),
            Err(error) => {
                tracing::warn!(network = %id, error = chain(&error), "setting the network up again");
                self.ensure(id, spec).await?;
                Ok(self.0.host.open_tap(id, spec, tap).await?)
            }
        }
    }

    /// Puts a running VM's tap on this network.
    pub(crate) async fn move_tap(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
    ) -> Result<(), Fault> {
        self.ensure_once(id, spec).await?;
        Ok(self.0.host.move_tap(id, spec, tap).await?)
    }

    async fn remember(&self, id: NetworkId, spec: Option<NetworkSpec>) -> Result<(), Fault> {
        let mut specs = lock(&self.0.specs).clone();
        if specs.get(&id) == spec.as_ref() {
            return Ok(());
        }
        match spec {
            Some(spec) => specs.insert(id, spec),
            None => specs.remove(&id),
        };
        let (file, written) = (self.0.file.clone(), specs.clone());
        blocking(move || state_file::write(&file, &written)).await?;
        *lock(&self.0.specs) = specs;
        Ok(())
    }
}

impl From<NetworkError> for Fault {
    fn from(error: NetworkError) -> Self {
        Self::NetworkUnavailable(chain(&error))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
