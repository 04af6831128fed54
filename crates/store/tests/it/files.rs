//! Files that cannot or must not be opened, and disks that are full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use hostler_store::conformance::{batch, create, record};
use hostler_store::{Json, SqliteStore, Store, StoreError, Write};
use hostler_types::KindName;

use super::SqlitePlace;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn nobody_else_may_read_the_files() {
    let place = SqlitePlace::new();
    let store = SqliteStore::open(place.path()).unwrap();
    create(&store, record(KindName::User, "ada", 1)).await;
    let directory = place.path().parent().unwrap().to_owned();
    assert_eq!(mode(&directory), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    assert!(names.contains(&"hostler.db-wal".to_owned()), "{names:?}");
    drop(store);

    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o644)).unwrap();
    drop(SqliteStore::open(place.path()).unwrap());
    assert_eq!(mode(&place.path()), 0o600, "too open a mode is tightened");
}

#[test]
fn a_second_process_is_refused() {
    let place = SqlitePlace::new();
    let first = SqliteStore::open(place.path()).unwrap();
    let Err(error) = SqliteStore::open(place.path()) else { panic!("opened twice") };
    assert!(matches!(&error, StoreError::InUse { path } if *path == place.path()), "{error:?}");
    drop(first);
    SqliteStore::open(place.path()).unwrap();
}

/// Opens `content` as a database; gives the error's text and checks that the file is as it was.
fn refused(content: &[u8]) -> String {
    let place = SqlitePlace::new();
    fs::create_dir(place.path().parent().unwrap()).unwrap();
    fs::write(place.path(), content).unwrap();
    let error = SqliteStore::open(place.path()).expect_err("it is not one of our databases");
    assert_eq!(fs::read(place.path()).unwrap(), content, "the file was changed");
    error.to_string().replace(place.path().to_str().unwrap(), "PATH")
}

#[test]
fn what_is_not_our_database_is_refused_and_left_alone() {
    let text = refused(b"kind: Vm\nname: web01\n# certainly not a database, but long enough\n");
    assert_eq!(
        text,
        "PATH is damaged or not a database; nothing was changed; restore it from a backup"
    );

    let foreign = SqlitePlace::new();
    let connection = rusqlite::Connection::open(foreign.0.path().join("foreign.db")).unwrap();
    connection.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    drop(connection);
    let content = fs::read(foreign.0.path().join("foreign.db")).unwrap();
    let text = refused(&content);
    assert_eq!(text, "PATH is a database, but not one of Hostler; nothing was changed");
}

#[test]
fn a_newer_schema_is_refused() {
    let place = SqlitePlace::new();
    drop(SqliteStore::open(place.path()).unwrap());
    let connection = rusqlite::Connection::open(place.path()).unwrap();
    connection
        .execute("INSERT INTO schema_versions VALUES (999, '0999_future', '2099-01-01')", [])
        .unwrap();
    drop(connection);
    let error = SqliteStore::open(place.path()).expect_err("it is newer");
    assert!(matches!(error, StoreError::TooNew { found: 999, .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_page_is_an_error_and_not_an_empty_list() {
    let place = SqlitePlace::new();
    let store = SqliteStore::open(place.path()).unwrap();
    for number in 0..100 {
        create(&store, record(KindName::Vm, &format!("vm-{number}"), 1)).await;
    }
    drop(store);
    let mut content = fs::read(place.path()).unwrap();
    for byte in &mut content[8192..] {
        *byte = 0xA5;
    }
    fs::write(place.path(), &content).unwrap();
    // The first pages are whole, so that the damage may show when it is opened or when it is read.
    let error = match SqliteStore::open(place.path()) {
        Ok(store) => store.load_all().await.expect_err("its pages are damaged"),
        Err(error) => error,
    };
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

/// A file system of 2 MiB that goes away with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        let status = Command::new("mount").args(options).arg(directory.path()).status().unwrap();
        assert!(status.success(), "mounting a tmpfs needs root");
        Self(directory)
    }
}
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_not_the_end() {
    let disk = SmallDisk::mount();
    let ballast = disk.0.path().join("ballast");
    let store = SqliteStore::open(disk.0.path().join("hostler.db")).unwrap();
    let first = create(&store, record(KindName::Vm, "first", 1)).await;
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let big = |number: u32| {
        let mut big = record(KindName::Vm, &format!("vm-{number}"), 1);
        big.spec = Json::from(serde_json::json!({ "text": "x".repeat(100_000) }));
        batch(1, [Write::Create(big)])
    };
    let mut taken = 0;
    let error = loop {
        match store.commit(big(taken)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100, "10 MB on a disk of 2 MB");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.is_transient());
    let readable = store.get(KindName::Vm, first.id).await.unwrap();
    assert_eq!(readable, Some(first));

    fs::remove_file(&ballast).unwrap();
    let committed = store.commit(big(taken)).await.expect("there is space again");
    let last = store.changes_after(hostler_types::Revision(0), 1000).await.unwrap();
    assert_eq!(last.len(), usize::try_from(committed.revision.0).unwrap());
}
