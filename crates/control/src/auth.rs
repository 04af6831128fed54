//! Who a token or password belongs to.
//!
//! A token reads `hostler_<id>_<secret>`. Only SHA-256 of the secret is stored, and compared in
//! constant time. A token belongs to a user *by id*: one that is deleted takes its tokens along,
//! and one that is made anew under the same name inherits nothing.
//!
//! Passwords are hashed with Argon2id. Verifying one for a name that does not exist does the same
//! work, so that the time does not tell which names do.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use hostler_types::{Name, Ref, TokenId, TokenKind, User, UserKind};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use crate::actor::{Actor, Via};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::secret;
use crate::world::World;

const PREFIX: &str = "hostler_";
/// Longer passwords are refused: hashing them is work that a stranger can order.
pub(crate) const LONGEST_PASSWORD: usize = 1024;

/// The actor that a bearer token stands for.
///
/// # Errors
/// `unauthenticated`: malformed, unknown, wrong secret, expired, revoked, or its user is gone. The
/// answer does not tell which, except that a known token has expired.
pub fn authenticate(world: &World, token: &str) -> Result<Actor, ServiceError> {
    let (id, presented) = parse(token).ok_or_else(unauthenticated)?;
    let snapshot = world.snapshot();
    let token = snapshot.get::<TokenKind>(id).ok_or_else(unauthenticated)?;
    if !secret::matches(presented, &token.status.secret_hash) {
        return Err(unauthenticated());
    }
    actor_of(&snapshot, id)
}

/// The actor as it is now, if it may still act.
pub(crate) fn revalidate(snapshot: &Snapshot, actor: &Actor) -> Result<Actor, ServiceError> {
    match actor.via {
        Via::Socket | Via::Internal => Ok(actor.clone()),
        Via::Token(id) => actor_of(snapshot, id),
    }
}

/// The text of a token, as its owner gets it once.
pub(crate) fn token_text(id: TokenId, secret: &str) -> String {
    format!("{PREFIX}{}_{secret}", id.uuid().simple())
}

/// The user that a name and password belong to.
pub(crate) async fn verify_password(
    world: &World,
    name: &Name,
    password: String,
) -> Result<Arc<User>, ServiceError> {
    let wrong = || {
        ServiceError::new(
            Class::Unauthenticated,
            "unauthenticated",
            "the user name or password is wrong",
        )
        .hint("an admin sets passwords with `hostler user set <name> --password`")
    };
    if password.len() > LONGEST_PASSWORD {
        return Err(wrong());
    }
    let user = world.snapshot().find::<UserKind>(&Ref::Name(name.clone())).ok().cloned();
    let hash = user.as_ref().and_then(|user| user.status.password_hash.clone());
    let permit = login_permit(world).await?;
    let right = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| DUMMY.clone());
        known & verify(&password, &hash)
    });
    let right = right.await.map_err(|error| ServiceError::internal("the login failed", error))?;
    user.filter(|_| right).ok_or_else(wrong)
}

/// Passwords are expensive: only so many are hashed at once, and nobody waits for long.
pub(crate) async fn login_permit(world: &World) -> Result<OwnedSemaphorePermit, ServiceError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    match tokio::time::timeout(PATIENCE, world.logins.clone().acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(ServiceError::new(
            Class::TooMany,
            "too_many_logins",
            "too many logins are being tried at once",
        )
        .hint("try again in some seconds, or use a token")),
    }
}

/// Argon2id with its default parameters, as a PHC string. Slow on purpose: call it where blocking
/// is allowed.
pub(crate) fn hash_password(password: &str) -> Result<String, ServiceError> {
    match Argon2::default().hash_password(password.as_bytes()) {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => Err(ServiceError::new(
            Class::Internal,
            "internal",
            format!("the password cannot be hashed: {error}"),
        )),
    }
}

fn verify(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// What is verified for users who do not exist.
static DUMMY: LazyLock<String> =
    LazyLock::new(|| hash_password(&secret::generate()).unwrap_or_default());

fn parse(token: &str) -> Option<(TokenId, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    if id.len() != 32 || secret.len() > 128 {
        return None;
    }
    Some((id.parse().ok()?, secret))
}

fn actor_of(snapshot: &Snapshot, id: TokenId) -> Result<Actor, ServiceError> {
    let token = snapshot.get::<TokenKind>(id).ok_or_else(unauthenticated)?;
    let user = snapshot.get::<UserKind>(token.spec.user).ok_or_else(unauthenticated)?;
    if token.spec.expires_at.is_some_and(|expiry| expiry <= Timestamp::now()) {
        return Err(ServiceError::new(
            Class::Unauthenticated,
            "token_expired",
            format!("the token `{}` has expired", token.name()),
        )
        .hint("log in again with `hostler login`, or ask for a new token"));
    }
    Ok(Actor {
        name: user.name().to_string(),
        user: Some(user.id()),
        // A user who was made less since is less with every token.
        role: token.spec.role.min(user.spec.role),
        via: Via::Token(id),
    })
}

fn unauthenticated() -> ServiceError {
    ServiceError::new(Class::Unauthenticated, "unauthenticated", "the token is not valid")
        .hint("log in with `hostler login`, or ask an admin for a token")
}
