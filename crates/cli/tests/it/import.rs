//! Uploads: whole, broken off and taken up again, refused.

use hostler_types::{ByteSize, ImageSource, ImageState};

use crate::fake::Fake;
use crate::process::Run;
use crate::world;

/// 3 MiB that are nowhere the same.
fn content() -> Vec<u8> {
    (0..3_u32 << 18).flat_map(u32::to_le_bytes).collect()
}

fn offsets(fake: &Fake) -> Vec<String> {
    fake.asked().into_iter().filter(|asked| asked.starts_with("image_upload ")).collect()
}

#[test]
fn a_file_is_uploaded_and_imported() {
    let fake = Fake::start();
    let file = fake.file("disk.raw", content());
    let run = fake.run(&["image", "import", "deb", file.to_str().unwrap()]);
    assert!(run.stderr.contains("uploading deb: 100%"), "{run:?}");
    assert_eq!(run.ok(), "image deb imported\n");
    assert!(*fake.state.uploaded.lock().unwrap() == content(), "other bytes have arrived");
    assert_eq!(offsets(&fake), ["image_upload 0"]);
}

#[test]
fn an_upload_that_breaks_off_goes_on_by_itself() {
    let fake = Fake::start();
    *fake.state.break_upload_at.lock().unwrap() = Some(1 << 20);
    let file = fake.file("disk.raw", content());
    let run = fake.run(&["image", "import", "deb", file.to_str().unwrap()]);
    run.ok();
    assert!(*fake.state.uploaded.lock().unwrap() == content(), "other bytes have arrived");
    assert_eq!(offsets(&fake).len(), 2);
}

#[test]
fn the_same_command_goes_on_where_it_stopped() {
    let fake = Fake::start();
    let file = fake.file("disk.raw", content());
    let left = |size: u64| {
        let mut image = world::image();
        image.metadata.name = "deb".parse().unwrap();
        image.spec.source = ImageSource::Upload(ByteSize(size));
        image.status.state = ImageState::Uploading;
        fake.state.images.lock().unwrap().insert("deb".to_owned(), image);
        *fake.state.uploaded.lock().unwrap() = content()[..1000].to_vec();
    };
    left(12345);
    let error = fake.run(&["image", "import", "deb", file.to_str().unwrap()]).fails(4);
    assert!(error.contains("another file is being uploaded"), "{error}");
    left(u64::try_from(content().len()).unwrap());
    let run = fake.run(&["image", "import", "deb", file.to_str().unwrap()]);
    assert!(run.stderr.contains("going on after the 1000B"), "{run:?}");
    run.ok();
    assert_eq!(offsets(&fake), ["image_upload 1000"]);
    assert!(*fake.state.uploaded.lock().unwrap() == content(), "other bytes have arrived");
}

#[test]
fn an_address_is_left_to_the_host() {
    let fake = Fake::start();
    let run = fake.run(&["image", "import", "deb", "https://example.org/deb.qcow2"]);
    assert_eq!(run.ok(), "image deb imported\n");
    assert!(offsets(&fake).is_empty());
    assert!(fake.asked()[0].contains("https://example.org/deb.qcow2"));
}

#[test]
fn what_cannot_be_imported_is_refused_before_the_server_is_asked() {
    let fake = Fake::start();
    let check = |arguments: &[&str], code, words: &str| {
        let all = [&["image", "import", "deb"], arguments].concat();
        let error: Run = fake.run(&all);
        assert!(error.stderr.contains(words), "{error:?}");
        error.fails(code);
    };
    check(&["/does/not/exist"], 1, "/does/not/exist");
    check(&["/"], 1, "not a file");
    check(&["/etc/hostname", "--sha256", "abc"], 2, "64 hexadecimal digits");
    assert!(fake.asked().is_empty());
}
