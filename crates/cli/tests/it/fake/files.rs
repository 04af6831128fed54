//! Archives of VMs, and what lies on a datastore.

use std::time::Duration;

use futures::stream;
use hostler_api::{datastore, export};
use hostler_endpoint::{ByteStream, Call, Routes};
use hostler_types::{ByteSize, DatastoreFindings, Orphan, OrphanKind};

use super::Shared;

/// How long the server takes to remove an archive: long enough to be interrupted in it.
const REMOVING: Duration = Duration::from_millis(600);

pub(super) fn serve(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .serve(|state: Shared, call: Call<export::Export>| async move {
            state.note::<export::Export>(&());
            Ok(state.order("vm.export", &format!("vm/{}", call.path.vm)))
        })
        .serve(|state: Shared, _: Call<export::Content>| async move {
            let bytes = state.archive.lock().unwrap().clone();
            let bytes = stream::iter([Ok(bytes.into())]);
            Ok::<ByteStream, _>(Box::pin(bytes))
        })
        .serve(|state: Shared, _: Call<export::Remove>| async move {
            state.note::<export::Remove>(&());
            tokio::time::sleep(REMOVING).await;
            Ok(())
        })
        .serve(|_, _: Call<datastore::Check>| async { Ok(findings()) })
        .serve(|state: Shared, call: Call<datastore::Adopt>| async move {
            state.note::<datastore::Adopt>(&call.body);
            Ok(state.order("datastore.adopt", "image/found"))
        })
        .serve(|state: Shared, call: Call<datastore::RemoveOrphans>| async move {
            state.note::<datastore::RemoveOrphans>(&call.body);
            Ok(state.order("datastore.clean", "datastore/local"))
        })
}

/// Two images that nobody owns and a VM that an inventory has; nothing that `--remove all` removes.
fn findings() -> DatastoreFindings {
    let orphan = |path: &str, kind| Orphan {
        path: path.to_owned(),
        kind,
        name: None,
        files: 1,
        allocated: ByteSize::mib(1),
        note: None,
        used_by: vec!["vms/a/disk0.qcow2".to_owned()],
        adoptable: true,
        host: None,
        registered: false,
    };
    let mut registered = orphan("vms/b", OrphanKind::Vm);
    (registered.registered, registered.used_by) = (true, Vec::new());
    let images = ["images/1.qcow2", "images/2.qcow2"].map(|path| orphan(path, OrphanKind::Image));
    let mut orphans = images.to_vec();
    orphans.push(registered);
    DatastoreFindings {
        datastore: "local".parse().unwrap(),
        at: crate::world::at(0),
        files: 3,
        allocated: ByteSize::mib(3),
        orphans,
        damaged: Vec::new(),
        busy: Vec::new(),
        more: 0,
        truncated: false,
    }
}
