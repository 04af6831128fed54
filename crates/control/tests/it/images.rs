//! Images: imported from an address, uploaded in pieces, refused, deleted.

use hostler_agent_api::code;
use hostler_control::Actor;
use hostler_control::services::{Options, image};
use hostler_endpoint::{ByteStream, Bytes};
use hostler_sim::{Fault, Fleet};
use hostler_types::{
    ByteSize, ImageCreate, ImageKind, ImageSource, ImageState, Labels, Ref, TaskState,
};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn request(name: &str, source: ImageSource) -> ImageCreate {
    let labels = Labels::new();
    ImageCreate { name: name.parse().unwrap(), labels, datastore: None, source, sha256: None }
}

fn content(length: usize) -> ByteStream {
    Box::pin(futures::stream::iter([Ok(Bytes::from(vec![7; length]))]))
}

#[tokio::test]
async fn a_refused_image_leaves_nothing_but_the_reason() {
    let fleet = Fleet::new().await;
    let detail = "the image has a backing file, `/etc/shadow`";
    fleet.host.fault("image_import", Fault::refuse(422, code::IMAGE_REFUSED, detail));
    let source = ImageSource::Url("https://images.test/evil".to_owned());
    let changed =
        image::create(&fleet.world, &root(), request("evil", source), &plain()).await.unwrap();
    assert_eq!(changed.object.status.state, ImageState::Importing);
    let ended = fleet.ended(&changed.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(ended.status.error_code.as_deref(), Some("image_refused"));
    assert_eq!(ended.status.error.as_deref(), Some(detail));
    assert!(fleet.snapshot().all::<ImageKind>().is_empty());
    assert!(fleet.host.images().is_empty());
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped() {
    let fleet = Fleet::new().await;
    let world = &fleet.world;
    let source = ImageSource::Upload(ByteSize(100));
    let made = image::create(world, &root(), request("mine", source), &plain()).await.unwrap();
    assert!(made.task.is_none());
    let reference: Ref = made.object.reference();
    image::upload(world, &root(), &reference, 0, content(60)).await.unwrap();
    let error = image::import(world, &root(), &reference, &plain()).await.unwrap_err();
    assert_eq!(error.message, "only 60 of the image's 100 bytes were sent");
    assert!(image::upload(world, &root(), &reference, 10, content(1)).await.is_err());
    assert!(image::upload(world, &root(), &reference, 60, content(41)).await.is_err(), "too much");

    let fleet = fleet.restart(true).await;
    let world = &fleet.world;
    let at = image::received(world, &root(), &reference).await.unwrap().received.0;
    assert_eq!(at, 60);
    let uploaded = image::upload(world, &root(), &reference, at, content(40)).await.unwrap();
    assert_eq!(uploaded.received, uploaded.size);
    let import = image::import(world, &root(), &reference, &plain()).await.unwrap();
    fleet.done(&import).await;
    let ready = fleet.snapshot().find::<ImageKind>(&reference).cloned().unwrap();
    assert_eq!(ready.status.state, ImageState::Ready);
    let error = image::upload(world, &root(), &reference, 0, content(1)).await.unwrap_err();
    assert_eq!(error.code, "wrong_state");
}

#[tokio::test]
async fn an_image_is_deleted_when_nothing_lies_on_it() {
    let fleet = Fleet::new().await;
    let reference = fleet.image("tiny").await.reference();
    // A deletion goes on until it has worked, also when the host has refused it at first.
    fleet.host.fault("image_remove", Fault::refuse(503, code::DATASTORE_MISSING, "not mounted"));
    fleet.done(&image::delete(&fleet.world, &root(), &reference, &plain()).await.unwrap()).await;
    assert!(fleet.snapshot().all::<ImageKind>().is_empty());
    assert!(fleet.host.images().is_empty());
}
