//! Passwords, sessions and guessing.

use hostler_api::host;
use hostler_api::user::{
    self, Login, LoginRequest, Logout, PasswordChange, SetPassword, UserPath, Whoami,
};
use hostler_endpoint::{Client, ClientError, NoParams};
use hostler_types::{Join, Ref, Role, SecretText};

use crate::rig::{PASSWORD, Rig};

async fn login(client: &Client, user: &str, password: &str) -> Result<String, String> {
    let request = LoginRequest { user: user.to_owned(), password: SecretText::new(password) };
    match client.call::<Login>(&NoParams {}, &NoParams {}, request).await {
        Ok(answer) => Ok(answer.token.reveal().to_owned()),
        Err(ClientError::Problem(problem)) => Err(problem.code),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_session_begins_with_a_password_and_ends_with_logout() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Operator).await;
    let anyone = Client::new(rig.http(), &rig.url(""));
    let token = login(&anyone, "ann", PASSWORD).await.unwrap();
    let ann = rig.client(&token);
    let me = ann.call::<Whoami>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    assert_eq!((me.name.as_str(), me.role), ("ann", Role::Operator));
    ann.call::<Logout>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    let gone = ann.call::<Whoami>(&NoParams {}, &NoParams {}, ()).await.unwrap_err();
    assert_eq!(gone.problem().unwrap().code, "unauthenticated");
}

#[tokio::test]
async fn a_wrong_login_does_not_tell_what_is_wrong() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Operator).await;
    let anyone = Client::new(rig.http(), &rig.url(""));
    for (user, password) in [("ann", "wrong password"), ("nobody", PASSWORD), ("No!", PASSWORD)] {
        assert_eq!(login(&anyone, user, password).await.unwrap_err(), "unauthenticated");
    }
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Operator).await;
    let anyone = Client::new(rig.http(), &rig.url(""));
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(login(&anyone, "ann", "wrong password").await.unwrap_err());
    }
    assert_eq!(codes[..10], ["unauthenticated"; 10]);
    assert_eq!(codes[10..], ["rate_limited"; 2]);
    assert_eq!(login(&anyone, "ann", PASSWORD).await.unwrap_err(), "rate_limited");
    // Root at the machine is not locked out by guesses from the network.
    login(&rig.root(), "bob", "wrong password").await.unwrap_err();
}

#[tokio::test]
async fn guessing_in_parallel_gains_nothing() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Operator).await;
    let anyone = Client::new(rig.http(), &rig.url(""));
    let tries = (0..40).map(|_| login(&anyone, "ann", "wrong password"));
    let codes = futures::future::join_all(tries).await;
    let tried = codes.iter().filter(|code| code.as_ref().unwrap_err() == "unauthenticated");
    assert_eq!(tried.count(), 10);
}

#[tokio::test]
async fn join_secrets_cannot_be_guessed_either() {
    let rig = Rig::start().await;
    let anyone = Client::new(rig.http(), &rig.url(""));
    let mut codes = Vec::new();
    for _ in 0..11 {
        let join = Join {
            secret: "guess".to_owned(),
            name: "evil".parse().unwrap(),
            address: "10.0.0.1:8444".to_owned(),
            csr: String::new(),
        };
        let error = anyone.call::<host::JoinHost>(&NoParams {}, &NoParams {}, join).await;
        codes.push(error.unwrap_err().problem().unwrap().code.clone());
    }
    assert_eq!(codes[..10], ["join_refused"; 10]);
    assert_eq!(codes[10], "rate_limited");
}

#[tokio::test]
async fn a_new_password_ends_what_the_old_one_opened() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Viewer).await;
    rig.user("bob", Role::Viewer).await;
    let anyone = Client::new(rig.http(), &rig.url(""));
    let token = login(&anyone, "ann", PASSWORD).await.unwrap();
    let ann = rig.client(&token);
    let change = |user: &str, password: &str| {
        let path = UserPath { user: user.parse::<Ref>().unwrap() };
        (path, PasswordChange { password: SecretText::new(password) })
    };
    let (path, body) = change("bob", "taken over by ann");
    let error = ann.call::<SetPassword>(&path, &NoParams {}, body).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "forbidden");
    let (path, body) = change("ann", "a new long password");
    ann.call::<SetPassword>(&path, &NoParams {}, body).await.unwrap();
    assert!(ann.call::<Whoami>(&NoParams {}, &NoParams {}, ()).await.is_err());
    assert!(login(&anyone, "ann", PASSWORD).await.is_err());
    login(&anyone, "ann", "a new long password").await.unwrap();
}

#[tokio::test]
async fn no_answer_holds_a_password() {
    let rig = Rig::start().await;
    rig.user("ann", Role::Viewer).await;
    let query = user::UserListQuery::default();
    let users = rig.root().call::<user::List>(&NoParams {}, &query, ()).await.unwrap();
    let text = serde_json::to_string(&users).unwrap();
    assert!(!text.contains("argon2") && !text.contains(PASSWORD), "{text}");
}
