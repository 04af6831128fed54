//! Many clients at once.

use std::collections::BTreeSet;

use futures::future::join_all;
use hostler_api::vm::{Create, List, Update, VmCreateQuery, VmListQuery, VmPath};
use hostler_endpoint::{CallOptions, ClientError, NoParams};
use hostler_types::{Ref, VmUpdate};

use crate::rig::Rig;

fn code(error: &ClientError) -> &str {
    &error.problem().unwrap_or_else(|| panic!("{error}")).code
}

#[tokio::test]
async fn a_hundred_creates_make_a_hundred_vms() {
    let rig = Rig::start().await;
    let root = rig.root();
    let create = async |name: String| {
        let request = hostler_sim::vm_request(&name);
        root.call::<Create>(&NoParams {}, &VmCreateQuery::default(), request).await
    };
    let made = join_all((0..100).map(|number| create(format!("many{number}")))).await;
    for made in made {
        rig.fleet.done(&made.unwrap().task.unwrap()).await;
    }
    let query = VmListQuery { name: Some("many".to_owned()), ..VmListQuery::default() };
    let vms = root.call::<List>(&NoParams {}, &query, ()).await.unwrap().items;
    assert_eq!(vms.len(), 100);
    let macs: BTreeSet<_> = vms.iter().flat_map(|vm| &vm.spec.nics).map(|nic| nic.mac).collect();
    assert_eq!(macs.len(), 100, "no two have one address");
}

#[tokio::test]
async fn one_name_is_given_once() {
    let rig = Rig::start().await;
    let root = rig.root();
    let create = async |_| {
        let request = hostler_sim::vm_request("the-one");
        root.call::<Create>(&NoParams {}, &VmCreateQuery::default(), request).await
    };
    let made = join_all((0..20).map(create)).await;
    let refused: Vec<_> = made.iter().filter_map(|made| made.as_ref().err()).collect();
    assert_eq!(refused.len(), 19);
    assert!(refused.iter().all(|error| code(error) == "name_taken"), "{refused:?}");
}

#[tokio::test]
async fn of_two_changes_to_one_revision_one_is_made() {
    let rig = Rig::start().await;
    let root = rig.root();
    let path = VmPath { vm: "db01".parse::<Ref>().unwrap() };
    let revision = rig.fleet.show("db01").metadata.revision.0;
    let change = async |text: &str| {
        let change = VmUpdate { description: Some(text.to_owned()), ..VmUpdate::default() };
        let options = CallOptions { if_match: Some(revision), ..CallOptions::default() };
        root.call_with::<Update>(&path, &NoParams {}, change, options).await
    };
    let (first, second) = tokio::join!(change("first"), change("second"));
    let (made, refused) = match (first, second) {
        (Ok(task), Err(error)) => ((task, "first"), error),
        (Err(error), Ok(task)) => ((task, "second"), error),
        other => panic!("not one of two: {other:?}"),
    };
    assert!(["busy", "stale_revision"].contains(&code(&refused)), "{refused}");
    rig.fleet.done(&made.0).await;
    assert_eq!(rig.fleet.show("db01").spec.description, made.1);
}
