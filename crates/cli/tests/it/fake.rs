//! A server with canned answers that remembers what it was asked for.

mod files;
mod templates;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::Message;
use futures::{StreamExt as _, stream};
use hostler_api::{
    console, datastore, event, host, image, network, snapshot, task, token, user, vm,
};
use hostler_endpoint::{Call, Endpoint, EventStream, Item, Page, Problem, Routes};
use hostler_types::{
    ByteSize, DeletionPlan, ExecAnswer, Image, ImageSource, ImageState, KindName, MergeEstimate,
    Object, PowerState, Ref, SecretText, SnapshotDeletionPlan, SnapshotRules, Task, TaskState, Vm,
    VmSnapshots, plan_merges,
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::process::{Run, command};
use crate::world;

/// A server on a Unix socket, in a thread of its own.
pub(crate) struct Fake {
    folder: TempDir,
    pub(crate) state: Arc<State>,
}

/// What the server has, and what it was asked.
pub(crate) struct State {
    pub(crate) vms: Mutex<BTreeMap<String, Vm>>,
    pub(crate) images: Mutex<BTreeMap<String, Image>>,
    pub(crate) uploaded: Mutex<Vec<u8>>,
    /// What an export gives.
    pub(crate) archive: Mutex<Vec<u8>>,
    /// An upload breaks off after this many bytes, once.
    pub(crate) break_upload_at: Mutex<Option<usize>>,
    /// `operation: body`, in order.
    pub(crate) asked: Mutex<Vec<String>>,
    /// How tasks end.
    pub(crate) end: Mutex<TaskEnd>,
    tasks: Mutex<BTreeMap<String, watch::Sender<Task>>>,
    changes: watch::Sender<u64>,
}

#[derive(Clone)]
pub(crate) enum TaskEnd {
    Done,
    Fails(&'static str, &'static str),
    /// Runs until it is cancelled.
    Never,
    /// Runs, and cannot be cancelled.
    Stubborn,
    /// Runs until it is cancelled, and is done then with less than was asked for.
    Settles,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::new());
        let router = router(Arc::clone(&state));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _entered = runtime.enter();
            tokio::net::UnixListener::bind(folder.path().join("server.sock")).unwrap()
        };
        std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, router).await }));
        Self { folder, state }
    }

    pub(crate) fn with_vm(self, vm: Vm) -> Self {
        self.state.vms.lock().unwrap().insert(vm.metadata.name.to_string(), vm);
        self
    }

    pub(crate) fn ends(self, end: TaskEnd) -> Self {
        *self.state.end.lock().unwrap() = end;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command(self.path(), arguments);
        command.env("HOSTLER_SOCKET", self.path().join("server.sock"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    /// Waits until an operation was asked for.
    pub(crate) fn wait_asked(&self, operation: &str) {
        for _ in 0..500 {
            if self.asked().iter().any(|asked| asked.starts_with(operation)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{operation} was not asked for: {:?}", self.asked());
    }
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            vms: Mutex::default(),
            images: Mutex::new([("tiny".to_owned(), world::image())].into()),
            uploaded: Mutex::default(),
            archive: Mutex::default(),
            break_upload_at: Mutex::default(),
            asked: Mutex::default(),
            end: Mutex::new(TaskEnd::Done),
            tasks: Mutex::default(),
            changes: watch::channel(0).0,
        }
    }

    fn note<E: Endpoint>(&self, body: &impl serde::Serialize) {
        let body = serde_json::to_string(body).unwrap();
        self.asked.lock().unwrap().push(format!("{} {body}", E::ID));
    }

    /// Changes a VM, as its host's report would, and tells those who watch.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Vm)) {
        let mut vms = self.vms.lock().unwrap();
        let vm = vms.get_mut(name).unwrap();
        vm.metadata.revision.0 += 100;
        change(vm);
        drop(vms);
        self.changes.send_modify(|count| *count += 1);
    }

    fn order(&self, action: &str, target: &str) -> Task {
        let mut tasks = self.tasks.lock().unwrap();
        let n = 0x40 + u8::try_from(tasks.len()).unwrap();
        let task = world::task(action, target, n);
        tasks.insert(task.id().to_string(), watch::channel(task.clone()).0);
        task
    }

    fn vm(&self, reference: &Ref) -> Result<Vm, Problem> {
        let vms = self.vms.lock().unwrap();
        let found = vms.values().find(|vm| is(vm, reference)).cloned();
        found.ok_or_else(|| missing("vm", reference))
    }
}

fn is<K: hostler_types::Kind>(object: &Object<K>, reference: &Ref) -> bool {
    match reference {
        Ref::Id(id) => object.id().uuid() == *id,
        Ref::Name(name) => object.metadata.name == *name,
    }
}

fn missing(kind: &str, reference: &Ref) -> Problem {
    Problem::new(404, "not_found", format!("there is no {kind} `{reference}`"))
        .hint(format!("`hostler {kind} list` shows those there are"))
}

fn page<T>(items: Vec<T>) -> Page<T> {
    Page { items, next: None, revision: 500 }
}

type Shared = Arc<State>;

pub(crate) fn router(state: Shared) -> Router {
    let routes = Routes::new(state)
        .serve(|_, _: Call<user::Whoami>| async {
            Ok(user::Identity { name: "root".to_owned(), role: hostler_types::Role::Admin })
        })
        .serve(|_, call: Call<user::Login>| async move {
            if call.body.password.reveal() != "correct horse battery" {
                return Err(Problem::new(401, "unauthenticated", "wrong user or password"));
            }
            let token = SecretText::new("hostler_session");
            Ok(user::LoginAnswer { token, expires_at: world::at(3600) })
        })
        .serve(|state: Shared, _: Call<user::Logout>| async move {
            state.note::<user::Logout>(&());
            Ok(())
        })
        .serve(|_, _: Call<host::List>| async { Ok(page(vec![world::host()])) })
        .serve(|_, _: Call<datastore::List>| async { Ok(page(vec![world::datastore()])) })
        .serve(|_, _: Call<network::List>| async { Ok(page(vec![world::network()])) })
        .serve(|_, call: Call<network::Show>| async move {
            let network = world::network();
            if is(&network, &call.path.network) {
                return Ok(network);
            }
            Err(missing("network", &call.path.network))
        })
        .serve(|state: Shared, call: Call<network::Create>| async move {
            state.note::<network::Create>(&call.body);
            let mut network = world::network();
            network.metadata.name = call.body.name;
            Ok(network)
        })
        .serve(|_, call: Call<token::Create>| async move {
            let token = serde_json::json!({
                "metadata": world::network().metadata,
                "spec": {"user": world::host().id(), "role": "viewer"},
                "status": {},
            });
            let mut token: hostler_types::Token = serde_json::from_value(token).unwrap();
            token.metadata.name = call.body.name;
            Ok(token::TokenCreated { token, secret: SecretText::new("hostler_secret") })
        });
    templates::serve(files::serve(snapshots(images(tasks(vms(routes)))))).build()
}

fn vms(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .serve(|state: Shared, _: Call<vm::List>| async move {
            Ok(page(state.vms.lock().unwrap().values().cloned().collect()))
        })
        .serve(|state: Shared, call: Call<vm::Show>| async move { state.vm(&call.path.vm) })
        .serve(create)
        .serve(|state: Shared, call: Call<vm::Update>| async move {
            state.note::<vm::Update>(&call.body);
            let vm = state.vm(&call.path.vm)?;
            assert!(call.if_match.is_none_or(|revision| revision == vm.metadata.revision.0));
            Ok(state.order("vm.update", &format!("vm/{}", vm.metadata.name)))
        })
        .serve(|_: Shared, _: Call<vm::Plan>| async move {
            Ok(vm::ChangePlan { changes: Vec::new() })
        })
        .serve(|state: Shared, call: Call<vm::Start>| async move {
            state.note::<vm::Start>(&());
            let name = state.vm(&call.path.vm)?.metadata.name.to_string();
            state.change(&name, |vm| vm.status.power = PowerState::Running);
            Ok(state.order("vm.start", &format!("vm/{name}")))
        })
        .serve(|state: Shared, call: Call<vm::PlanDeletion>| async move {
            let vm = state.vm(&call.path.vm)?;
            Ok(DeletionPlan {
                vm: vm.id(),
                name: vm.name().clone(),
                power: vm.status.power,
                disks: Vec::new(),
                nics: Vec::new(),
                labels: vm.metadata.labels.clone(),
                kept_until: Some(jiff::Timestamp::UNIX_EPOCH),
                used_by: Vec::new(),
                refused: vm.spec.protected.then(|| format!("vm `{}` is protected", vm.name())),
            })
        })
        .serve(|state: Shared, call: Call<vm::Delete>| async move {
            let vm = state.vm(&call.path.vm)?;
            if vm.status.power == PowerState::Running && !call.query.force {
                let detail = format!("vm {} is running", vm.metadata.name);
                return Err(Problem::new(409, "wrong_state", detail).hint("stop it first"));
            }
            state.note::<vm::Delete>(&vm.metadata.name);
            state.vms.lock().unwrap().remove(vm.metadata.name.as_str());
            Ok(state.order("vm.delete", &format!("vm/{}", vm.metadata.name)))
        })
        .serve(|state: Shared, call: Call<vm::Exec>| async move {
            state.note::<vm::Exec>(&call.body);
            Ok(ExecAnswer {
                exit_code: Some(3),
                signal: None,
                stdout: "out\n".to_owned(),
                stderr: "err\n".to_owned(),
                truncated: false,
            })
        })
        .serve(|_, _: Call<vm::Screenshot>| async {
            let bytes = stream::iter([Ok("\u{89}PNG".into())]);
            Ok::<hostler_endpoint::ByteStream, _>(Box::pin(bytes))
        })
        .serve(|_, _: Call<console::CreateTicket>| async {
            let ticket = "one-time".to_owned();
            Ok(console::Ticket { ticket, url: "/v1/x".to_owned(), expires_at: world::at(30) })
        })
        .serve(attach)
        .serve(watch_changes)
}

/// Of each VM, what its record has.
fn snapshots(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .serve(|state: Shared, call: Call<snapshot::List>| async move {
            let vm = state.vm(&call.path.vm)?;
            Ok(VmSnapshots {
                vm: vm.id(),
                name: vm.name().clone(),
                current: vm.status.snapshots.current,
                snapshots: vm.status.snapshots.snapshots.clone(),
                rules: SnapshotRules::of(
                    &vm.metadata.labels,
                    &vm.spec.snapshot_limits,
                    std::iter::empty(),
                ),
                warnings: vm.status.snapshot_warnings.clone(),
            })
        })
        .serve(|state: Shared, call: Call<snapshot::Show>| async move {
            let vm = state.vm(&call.path.vm)?;
            let found = vm.status.snapshots.find(&call.path.snapshot).cloned();
            found.ok_or_else(|| missing("snapshot", &call.path.snapshot))
        })
        .serve(|state: Shared, call: Call<snapshot::Create>| async move {
            state.note::<snapshot::Create>(&call.body);
            Ok(state.order("vm.snapshot", &format!("vm/{}", call.path.vm)))
        })
        .serve(|state: Shared, call: Call<snapshot::Revert>| async move {
            state.note::<snapshot::Revert>(&call.body);
            Ok(state.order("vm.revert", &format!("vm/{}", call.path.vm)))
        })
        .serve(|state: Shared, call: Call<snapshot::PlanDeletion>| async move {
            let vm = state.vm(&call.path.vm)?;
            let tree = &vm.status.snapshots;
            let named = call.query.snapshot.iter().filter_map(|name| tree.find(name));
            let ids: Vec<_> = named.map(|snapshot| snapshot.id).collect();
            let files = plan_merges(vm.id(), &vm.status.disks, tree, &ids, |_| false);
            let rate = ByteSize::mib(100);
            Ok(SnapshotDeletionPlan {
                vm: vm.id(),
                name: vm.name().clone(),
                snapshots: ids.iter().map(|id| tree.get(*id).unwrap().name.clone()).collect(),
                estimate: MergeEstimate::new(files.bytes(), rate, "assumed".to_owned()),
                files,
                refused: None,
            })
        })
        .serve(|state: Shared, call: Call<snapshot::DeleteSeveral>| async move {
            state.note::<snapshot::DeleteSeveral>(&call.query);
            Ok(state.order("vm.snapshot_delete", &format!("vm/{}", call.path.vm)))
        })
}

async fn create(state: Shared, call: Call<vm::Create>) -> Result<vm::VmCreated, Problem> {
    state.note::<vm::Create>(&call.body);
    for nic in call.body.nics.iter().flatten() {
        if nic.network.to_string() == "new" {
            return Err(missing("network", &nic.network));
        }
    }
    let name = call.body.name.to_string();
    // As a naming rule does at once, and as a host that is full by then does late.
    if name == "refused" || (name == "late" && !call.query.dry_run) {
        return Err(Problem::new(409, "refused", format!("`{name}` is refused")));
    }
    if state.vms.lock().unwrap().contains_key(&name) {
        return Err(Problem::new(409, "name_taken", format!("there is a vm `{name}` already")));
    }
    let mut vm = world::vm(&name, 0x20);
    vm.metadata.labels = call.body.labels;
    let placement = vm.status.placement.clone();
    if call.query.dry_run {
        return Ok(vm::VmCreated { vm, task: None, placement, explained: Vec::new() });
    }
    if call.body.start {
        vm.status.power = PowerState::Running;
    }
    state.vms.lock().unwrap().insert(name.clone(), vm.clone());
    let task = Some(state.order("vm.create", &format!("vm/{name}")));
    Ok(vm::VmCreated { vm, task, placement, explained: Vec::new() })
}

/// Echoes in upper case, and ends when it is told `bye`.
async fn attach(
    _: Shared,
    mut call: Call<console::Attach>,
) -> Result<axum::response::Response, Problem> {
    if call.query.ticket != "one-time" {
        return Err(Problem::new(401, "unauthenticated", "the ticket is spent"));
    }
    let upgrade = call.upgrade.take().unwrap();
    Ok(upgrade.on_upgrade(|mut socket| async move {
        let _ = socket.send(Message::Binary("login: ".into())).await;
        while let Some(Ok(message)) = socket.recv().await {
            let Message::Binary(bytes) = message else { continue };
            if bytes.as_ref() == b"bye" {
                return;
            }
            let _ = socket.send(Message::Binary(bytes.to_ascii_uppercase().into())).await;
        }
    }))
}

async fn watch_changes(
    state: Shared,
    call: Call<event::Watch>,
) -> Result<EventStream<event::Change>, Problem> {
    state.note::<event::Watch>(&call.query.after);
    let after = call.query.after.unwrap_or(0);
    let receiver = state.changes.subscribe();
    let changes =
        stream::unfold((state, receiver, after), |(state, mut receiver, after)| async move {
            loop {
                let newer = {
                    let vms = state.vms.lock().unwrap();
                    vms.values().find(|vm| vm.metadata.revision.0 > after).cloned()
                };
                if let Some(vm) = newer {
                    let revision = vm.metadata.revision.0;
                    let change = event::Change {
                        revision,
                        at: world::at(1),
                        kind: KindName::Vm,
                        id: vm.id().untyped(),
                        name: vm.metadata.name.clone(),
                        action: event::ChangeAction::Changed,
                        actor: "system".to_owned(),
                        reason: "reported".to_owned(),
                        task: None,
                        old: None,
                        new: Some(serde_json::to_value(&vm).unwrap()),
                    };
                    return Some((
                        Ok(Item { id: revision, data: change }),
                        (state, receiver, revision),
                    ));
                }
                receiver.changed().await.ok()?;
            }
        });
    Ok(Box::pin(changes))
}

fn tasks(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .serve(|state: Shared, call: Call<task::Watch>| async move {
            let id = call.path.task.to_string();
            state.note::<task::Watch>(&id);
            let receiver = state.tasks.lock().unwrap()[&id].subscribe();
            let end = state.end.lock().unwrap().clone();
            Ok::<EventStream<Task>, Problem>(Box::pin(progress(state, receiver, end)))
        })
        .serve(|state: Shared, call: Call<task::Cancel>| async move {
            let id = call.path.task.to_string();
            state.note::<task::Cancel>(&id);
            if matches!(*state.end.lock().unwrap(), TaskEnd::Stubborn) {
                return Err(Problem::new(
                    409,
                    "task_no_return",
                    "it is past the point of no return",
                ));
            }
            let settles = matches!(*state.end.lock().unwrap(), TaskEnd::Settles);
            let end = if settles { TaskState::Done } else { TaskState::Cancelled };
            let tasks = state.tasks.lock().unwrap();
            tasks[&id].send_modify(|task| task.status.state = end);
            Ok(tasks[&id].borrow().clone())
        })
}

/// How it stands now, then how it goes on, to its end.
fn progress(
    state: Shared,
    receiver: watch::Receiver<Task>,
    end: TaskEnd,
) -> impl futures::Stream<Item = Result<Item<Task>, Problem>> + Send {
    let first = receiver.borrow().clone();
    let id = first.id().to_string();
    let rest = stream::unfold(Some((receiver, end)), move |rest| {
        let (state, id) = (Arc::clone(&state), id.clone());
        async move {
            let (mut receiver, end) = rest?;
            if matches!(end, TaskEnd::Never | TaskEnd::Stubborn | TaskEnd::Settles) {
                receiver.changed().await.ok()?;
                return Some((receiver.borrow().clone(), None));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let tasks = state.tasks.lock().unwrap();
            tasks[&id].send_modify(|task| match end {
                TaskEnd::Fails(code, error) => {
                    task.status.state = TaskState::Failed;
                    task.status.error = Some(error.to_owned());
                    task.status.error_code = Some(code.to_owned());
                }
                TaskEnd::Done | TaskEnd::Never | TaskEnd::Stubborn | TaskEnd::Settles => {
                    task.status.state = TaskState::Done;
                }
            });
            let task = tasks[&id].borrow().clone();
            Some((task, None))
        }
    });
    stream::once(async { first })
        .chain(rest)
        .enumerate()
        .map(|(n, task)| Ok(Item { id: u64::try_from(n).unwrap(), data: task }))
}

fn images(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .serve(|state: Shared, _: Call<image::List>| async move {
            Ok(page(state.images.lock().unwrap().values().cloned().collect()))
        })
        .serve(|state: Shared, call: Call<image::Show>| async move {
            let images = state.images.lock().unwrap();
            let found = images.values().find(|image| is(image, &call.path.image)).cloned();
            found.ok_or_else(|| missing("image", &call.path.image))
        })
        .serve(|state: Shared, call: Call<image::Create>| async move {
            state.note::<image::Create>(&call.body);
            let name = call.body.name.to_string();
            let mut images = state.images.lock().unwrap();
            if images.contains_key(&name) {
                let detail = format!("there is an image `{name}` already");
                return Err(Problem::new(409, "name_taken", detail));
            }
            let mut image = world::image();
            image.metadata.name = call.body.name;
            image.spec.source = call.body.source.clone();
            image.spec.sha256 = call.body.sha256;
            let task = match call.body.source {
                ImageSource::Upload(_) | ImageSource::Found => {
                    image.status.state = ImageState::Uploading;
                    None
                }
                ImageSource::Url(_) => Some(state.order("image.import", &format!("image/{name}"))),
            };
            images.insert(name, image.clone());
            Ok(image::ImageCreated { image, task })
        })
        .serve(|state: Shared, _: Call<image::UploadProgress>| async move {
            let length = state.uploaded.lock().unwrap().len();
            Ok(image::UploadStatus { received: ByteSize(u64::try_from(length).unwrap()) })
        })
        .serve(upload)
        .serve(delete_image)
        .serve(|state: Shared, call: Call<image::Import>| async move {
            state.note::<image::Import>(&());
            let name = call.path.image.to_string();
            if let Some(image) = state.images.lock().unwrap().get_mut(&name) {
                image.status.state = ImageState::Ready;
                image.status.sha256.clone_from(&image.spec.sha256);
            }
            Ok(state.order("image.import", &format!("image/{}", call.path.image)))
        })
}

async fn delete_image(state: Shared, call: Call<image::Delete>) -> Result<Task, Problem> {
    let name = call.path.image.to_string();
    state.note::<image::Delete>(&name);
    state.uploaded.lock().unwrap().clear();
    let removed = state.images.lock().unwrap().remove(&name);
    removed.ok_or_else(|| missing("image", &call.path.image))?;
    Ok(state.order("image.delete", &format!("image/{name}")))
}

async fn upload(
    state: Shared,
    mut call: Call<image::Upload>,
) -> Result<image::UploadStatus, Problem> {
    state.note::<image::Upload>(&call.query.offset);
    let have = state.uploaded.lock().unwrap().len();
    assert_eq!(call.query.offset, u64::try_from(have).unwrap());
    while let Some(chunk) = call.body.next().await {
        let Ok(chunk) = chunk else { break };
        let mut uploaded = state.uploaded.lock().unwrap();
        uploaded.extend_from_slice(&chunk);
        let breaks = state.break_upload_at.lock().unwrap().take_if(|at| uploaded.len() >= *at);
        if breaks.is_some() {
            return Err(Problem::new(503, "unavailable", "the host has gone"));
        }
    }
    let length = state.uploaded.lock().unwrap().len();
    Ok(image::UploadStatus { received: ByteSize(u64::try_from(length).unwrap()) })
}
