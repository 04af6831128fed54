//! Images: sent, downloaded, refused, kept while needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hostler_agent_api as api;
use hostler_agent_api::{ImageImportSource, ImagePath, ImageRemoveRequest};
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, DiskSource, ImageFormat, ImageId, OperationId};

use crate::world::{World, problem};

/// A qcow2 of 1 MiB that holds nothing, optionally with a backing file.
fn qcow2(backing: Option<&str>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.qcow2");
    let mut command = std::process::Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]);
    if let Some(backing) = backing {
        command.args(["-u", "-F", "raw", "-b", backing]);
    }
    assert!(command.arg(&path).arg("1M").status().unwrap().success());
    std::fs::read(path).unwrap()
}

async fn remove(world: &World, image: ImageId) -> Result<(), hostler_endpoint::Problem> {
    let request = ImageRemoveRequest { op: OperationId::generate(), datastore: world.datastore };
    let answer =
        world.client.call::<api::ImageRemove>(&ImagePath { image }, &NoParams {}, request).await;
    answer.map_err(problem)
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped() {
    let mut world = World::start().await;
    let (image, bytes) = (ImageId::generate(), qcow2(None));
    let half = bytes.len() / 2;
    let sent = world.upload(image, &bytes[..half]).await;
    assert_eq!(sent, half as u64);
    let early = world.import(image, ImageImportSource::Uploaded(ByteSize(bytes.len() as u64)));
    assert_eq!(early.await.unwrap_err().code, "wrong_state");
    let wrong = world.upload_at(image, 7, &bytes[7..]).await.unwrap_err();
    assert_eq!(wrong.status, 409);
    let all = world.upload_at(image, sent, &bytes[half..]).await.unwrap();
    assert_eq!(all, bytes.len() as u64);
    let source = ImageImportSource::Uploaded(ByteSize(all));
    let imported = world.import(image, source.clone()).await.unwrap();
    assert_eq!((imported.format, imported.virtual_size), (ImageFormat::Qcow2, ByteSize::mib(1)));
    assert_eq!(world.import(image, source).await.unwrap(), imported, "asked again");
    world.end_agent().await;
}

#[tokio::test]
async fn an_image_that_refers_elsewhere_is_refused_and_gone() {
    let mut world = World::start().await;
    let (image, bytes) = (ImageId::generate(), qcow2(Some("/etc/shadow")));
    let size = world.upload(image, &bytes).await;
    let refusal =
        world.import(image, ImageImportSource::Uploaded(ByteSize(size))).await.unwrap_err();
    assert_eq!((refusal.status, refusal.code.as_str()), (422, "image_refused"));
    assert!(refusal.detail.contains("/etc/shadow"), "{refusal}");
    assert_eq!(std::fs::read_dir(world.path("store/images")).unwrap().count(), 0);
    world.end_agent().await;
}

#[tokio::test]
async fn an_image_stays_while_a_disk_needs_it() {
    let mut world = World::start().await;
    let (image, bytes) = (ImageId::generate(), qcow2(None));
    let size = world.upload(image, &bytes).await;
    world.import(image, ImageImportSource::Uploaded(ByteSize(size))).await.unwrap();
    let definition = world.vm(DiskSource::Image(image));
    world.create(&definition).await.unwrap();
    let refusal = remove(&world, image).await.unwrap_err();
    assert!(refusal.code == "in_use" && refusal.detail.contains("web01"), "{refusal}");
    // In no inventory, but still on the datastore.
    world.remove(definition.vm.id(), true, false).await.unwrap();
    assert!(remove(&world, image).await.is_err());
    world.remove(definition.vm.id(), false, false).await.unwrap();
    remove(&world, image).await.unwrap();
    remove(&world, image).await.unwrap();
    assert_eq!(std::fs::read_dir(world.path("store/images")).unwrap().count(), 0);
    world.end_agent().await;
}

#[derive(Clone)]
struct Source {
    bytes: Arc<Vec<u8>>,
    requests: Arc<AtomicU32>,
    ranges: Arc<AtomicU32>,
}

/// Serves a file; the first answer ends half way.
async fn serve(State(source): State<Source>, headers: HeaderMap) -> Response {
    let number = source.requests.fetch_add(1, Ordering::SeqCst);
    let total = source.bytes.len();
    let begin = headers
        .get(header::RANGE)
        .and_then(|range| {
            range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
        })
        .unwrap_or(0usize);
    let status = if begin > 0 {
        assert_eq!(headers[header::IF_RANGE], "\"v1\"");
        source.ranges.fetch_add(1, Ordering::SeqCst);
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let end = if number == 0 { total / 2 } else { total };
    let piece = source.bytes[begin..end].to_vec();
    let broken = number == 0;
    let body = futures::stream::iter([Ok(piece)]).chain(futures::stream::once(async move {
        // The client has what was sent; what is left of a broken connection may be lost.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        if broken { Err(std::io::Error::other("the cable was pulled")) } else { Ok(Vec::new()) }
    }));
    let answer = [
        (header::ETAG, "\"v1\"".to_owned()),
        (header::CONTENT_LENGTH, (total - begin).to_string()),
        (header::CONTENT_RANGE, format!("bytes {begin}-{}/{total}", total - 1)),
    ];
    (status, answer, axum::body::Body::from_stream(body)).into_response()
}

#[tokio::test]
async fn a_download_goes_on_where_it_stopped() {
    let mut world = World::start().await;
    let source =
        Source { bytes: Arc::new(qcow2(None)), requests: Arc::default(), ranges: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router =
        axum::Router::new().route("/image", axum::routing::get(serve)).with_state(source.clone());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let image = ImageId::generate();
    let url = format!("http://{address}/image");
    let imported = world.import(image, ImageImportSource::Url(url)).await.unwrap();
    assert_eq!(imported.virtual_size, ByteSize::mib(1));
    assert_eq!(source.requests.load(Ordering::SeqCst), 2);
    assert_eq!(source.ranges.load(Ordering::SeqCst), 1, "the second went on");

    let missing = format!("http://{address}/nothing");
    let error = world.import(ImageId::generate(), ImageImportSource::Url(missing)).await;
    assert_eq!(error.unwrap_err().code, "download_failed");
    let file = ImageImportSource::Url("file:///etc/shadow".to_owned());
    assert_eq!(world.import(ImageId::generate(), file).await.unwrap_err().status, 400);
    server.abort();
    world.end_agent().await;
}
