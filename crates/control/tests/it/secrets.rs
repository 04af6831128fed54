//! Canaries: what must never come out comes out nowhere.

use futures::StreamExt as _;
use hostler_control::Actor;
use hostler_control::services::customization_spec::{
    CustomizationSpecCreate, CustomizationSpecUpdate,
};
use hostler_control::services::token::TokenCreate;
use hostler_control::services::user::UserCreate;
use hostler_control::services::vm::VmFilter;
use hostler_control::services::{
    Options, PageRequest, customization_spec, event, image, join_token, task, token, user, vm,
    watch,
};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{
    Customization, CustomizationRules, DomainJoin, GuestUser, ImageCreate, ImageSource, Labels,
    Revision, Role, SecretText, VmUpdate,
};

const CANARY: &str = "canary-7f3a";

fn root() -> Actor {
    Actor::root()
}

fn customization() -> Option<Customization> {
    let user_data = Some(SecretText::new(format!("#cloud-config\npassword: {CANARY}\n")));
    let user = GuestUser {
        name: "ada".to_owned(),
        password: Some(SecretText::new(format!("{CANARY}-password"))),
        ..GuestUser::default()
    };
    let domain_join = Some(DomainJoin {
        domain: "corp.example".to_owned(),
        user: "joiner".to_owned(),
        password: SecretText::new(format!("{CANARY}-join")),
        ou: None,
    });
    Some(Customization { users: vec![user], domain_join, user_data, ..Customization::default() })
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of all that services show")]
async fn no_secret_leaves_through_any_service() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let (world, options, page) = (&fleet.world, Options::default(), PageRequest::default());
    let mut seen = Vec::new();
    let mut look = |what: &str, text: String| seen.push((what.to_owned(), text));

    let rules =
        CustomizationRules { guest: customization().unwrap(), ..CustomizationRules::default() };
    let request = CustomizationSpecCreate {
        name: "web".parse().unwrap(),
        labels: Labels::new(),
        spec: rules.clone(),
    };
    let spec = customization_spec::create(world, &root(), request).await.unwrap();
    look("customization_spec::create", format!("{spec:?} {}", json(&*spec)));
    let reference = spec.reference();
    let update = CustomizationSpecUpdate { spec: Some(rules), labels: None };
    let spec = customization_spec::update(world, &root(), &reference, update, None).await.unwrap();
    look("customization_spec::update", json(&*spec));
    for spec in customization_spec::list(world, &root(), &page).unwrap().items {
        look("customization_spec::list", json(&*spec));
    }
    let seed = customization_spec::render(world, &root(), &reference, None).unwrap();
    look("customization_spec::render", format!("{seed:?}"));

    let mut request = vm_request("web01");
    request.customization_spec = Some(reference);
    request.customization = customization();
    let changed = vm::create(world, &root(), request, &options).await.unwrap();
    look("vm::create", serde_json::to_string(&*changed.object).unwrap());
    let created = changed.task.unwrap();
    look("the task", serde_json::to_string(&*created).unwrap());
    fleet.done(&created).await;
    let reference = changed.object.reference();
    // An update keeps the old spec in the task's input.
    let update = VmUpdate { customization: customization(), ..VmUpdate::default() };
    let changed = vm::update(world, &root(), &reference, update, None, &options).await.unwrap();
    look("vm::update", serde_json::to_string(&*changed.object).unwrap());
    fleet.done(&changed.task.unwrap()).await;
    // What a view has shown can be sent back: the secrets stay.
    let back = changed.object.spec.customization.clone();
    let update = VmUpdate { customization: back.map(|it| *it), ..VmUpdate::default() };
    let changed = vm::update(world, &root(), &reference, update, None, &options).await.unwrap();
    fleet.done(&changed.task.unwrap()).await;
    let shown = vm::show(world, &root(), &reference).unwrap();
    look("vm::show", serde_json::to_string(&*shown).unwrap());
    look("debug", format!("{shown:?}"));
    for vm in vm::list(world, &root(), &VmFilter::default(), &page).unwrap().items {
        look("vm::list", serde_json::to_string(&*vm).unwrap());
    }

    let name = "anna".parse().unwrap();
    let anna = UserCreate { name, role: Role::Admin, password: Some(format!("password {CANARY}")) };
    let anna = user::create(world, &root(), anna).await.unwrap();
    look("user::create", serde_json::to_string(&*anna).unwrap());
    let hidden: [&str; 1] = ["argon2"];
    let request = TokenCreate { name: None, user: Some(anna.reference()), role: None, life: None };
    let issued = token::create(world, &root(), request).await.unwrap();
    let secret = issued.text.rsplit_once('_').unwrap().1.to_owned();
    look("token::create", format!("{issued:?}"));
    let join = join_token::create(world, &root(), None).await.unwrap();
    let join_secret = join.text.rsplit_once('.').unwrap().1.to_owned();
    look("join_token::create", format!("{join:?}"));
    for token in token::list(world, &root(), &page).unwrap().items {
        look("token::list", serde_json::to_string(&*token).unwrap());
    }
    for token in join_token::list(world, &root(), &page).unwrap().items {
        look("join_token::list", serde_json::to_string(&*token).unwrap());
    }
    let signed = ImageCreate {
        name: "signed".parse().unwrap(),
        labels: Labels::new(),
        datastore: None,
        source: ImageSource::Url(format!("https://images.test/x?signature={CANARY}")),
        sha256: None,
    };
    let signed = image::create(world, &root(), signed, &options).await.unwrap();
    look("image::create", serde_json::to_string(&*signed.object).unwrap());
    fleet.done(&signed.task.unwrap()).await;

    for task in task::list(world, &root(), &task::TaskFilter::default(), &page).unwrap().items {
        look("task::list", serde_json::to_string(&*task).unwrap());
    }
    let query =
        event::EventQuery { after: Some(Revision(0)), limit: Some(1000), ..Default::default() };
    for event in event::list(world, &root(), &query).await.unwrap().items {
        look("event::list", format!("{event:?}"));
    }
    let watched = watch::watch(world, &root(), Some(Revision(0)), Vec::new()).unwrap();
    let count = usize::try_from(fleet.snapshot().revision.0).unwrap();
    let watched: Vec<_> = watched.take(count).collect().await;
    look("watch", format!("{watched:?}"));

    let hashes = [hash(&secret), hash(&join_secret)];
    for (what, text) in &seen {
        let secrets = [CANARY, &secret, &join_secret, &hashes[0], &hashes[1]];
        for secret in secrets.iter().chain(&hidden) {
            assert!(!text.contains(*secret), "{what} shows `{secret}`: {text}");
        }
    }
    assert!(seen.iter().any(|(_, text)| text.contains(SecretText::REDACTED)));
    // Nor does the store's file hold it, nor what it has written beside.
    for file in ["hostler.db", "hostler.db-wal"] {
        let path = fleet.store_path().with_file_name(file);
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        // The address of an image keeps its signature: it is needed again when the import is.
        let allowed = format!("signature={CANARY}");
        let text = String::from_utf8_lossy(&bytes).replace(&allowed, "");
        assert!(!found || !text.contains(CANARY), "{file} holds the canary");
    }
    // The canary is where it has to be: the agent gets it.
    let id = shown.id();
    let known = fleet.host.vm(id).unwrap().definition.vm.spec.customization.unwrap();
    assert!(known.user_data.unwrap().reveal().contains(CANARY));
    assert_eq!(known.users[0].password.as_ref().unwrap().reveal(), format!("{CANARY}-password"));
    assert_eq!(known.domain_join.unwrap().password.reveal(), format!("{CANARY}-join"));
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn hash(secret: &str) -> String {
    hostler_pki::JoinToken::hash(secret)
}
