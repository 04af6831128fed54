//! Users and how they log in.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    Labels, Name, Ref, Revision, Role, TokenKind, User, UserKind, UserSpec, UserStatus,
};
use jiff::{SignedDuration, Timestamp};

use super::token::{IssuedToken, issue};
use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::auth::{LONGEST_PASSWORD, hash_password, verify_password};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

const SHORTEST_PASSWORD: usize = 10;
/// How long a login lasts.
const SESSION: SignedDuration = SignedDuration::from_hours(12);

/// A user to be made. Without a password, only tokens made by an admin let them in.
#[derive(Clone)]
pub struct UserCreate {
    pub name: Name,
    pub role: Role,
    pub password: Option<String>,
}

/// What is to change; absent fields stay.
#[derive(Clone, Default)]
pub struct UserUpdate {
    pub role: Option<Role>,
    pub password: Option<String>,
}

/// Logs in with a password: a token that lasts 12 hours.
///
/// # Errors
/// `unauthenticated` (whether the name or the password is wrong is not told), `too_many_logins`.
pub async fn login(
    world: &World,
    name: &Name,
    password: String,
) -> Result<IssuedToken, ServiceError> {
    let user = verify_password(world, name, password).await?;
    let actor = Actor {
        name: user.name().to_string(),
        user: Some(user.id()),
        role: user.spec.role,
        via: crate::actor::Via::Internal,
    };
    issue(world, &actor, &user, user.spec.role, Some(SESSION), None, "user.login").await
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<User>, ServiceError> {
    authorize(actor, Role::Admin, "list users")?;
    page::<UserKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`. Everyone may see themselves.
pub fn show(world: &World, actor: &Actor, user: &Ref) -> Result<Arc<User>, ServiceError> {
    let need = if is_self(world, actor, user) { Role::Viewer } else { Role::Admin };
    authorize(actor, need, "see users")?;
    Ok(UserKind::shown(world.snapshot().find(user)?))
}

/// # Errors
/// `forbidden`, `invalid`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: UserCreate,
) -> Result<Arc<User>, ServiceError> {
    authorize(actor, Role::Admin, "create users")?;
    if ["root", "system"].contains(&request.name.as_str()) {
        let reason = format!("`{}` is what the server calls itself and root", request.name);
        return Err(ServiceError::invalid("name", reason).hint("choose another name"));
    }
    let password_hash = hashed(world, request.password).await?;
    let (spec, status) = (UserSpec { role: request.role }, UserStatus { password_hash });
    let user = User::new(request.name, Labels::new(), Timestamp::now(), spec, status);
    let batch = Core::batch(actor, "user.create").with(Write::create(&user));
    let snapshot = world.commit(batch).await?;
    Ok(UserKind::shown(snapshot.find(&user.reference())?))
}

/// Changes a user's role (admins only) or password (also one's own).
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    user: &Ref,
    request: UserUpdate,
    expected: Option<Revision>,
) -> Result<Arc<User>, ServiceError> {
    let found = world.snapshot().find::<UserKind>(user).cloned();
    // A token that is less than its user must not become more by setting the password.
    let whole = found
        .as_ref()
        .is_ok_and(|user| actor.user == Some(user.id()) && actor.role == user.spec.role);
    let need = if whole && request.role.is_none() { Role::Viewer } else { Role::Admin };
    authorize(actor, need, "change users")?;
    let old = found?;
    require_revision::<UserKind>(&old, expected)?;
    let mut new = User::clone(&old);
    new.spec.role = request.role.unwrap_or(old.spec.role);
    let mut batch = Core::batch(actor, "user.update");
    if let Some(hash) = hashed(world, request.password).await? {
        new.status.password_hash = Some(hash);
        // A new password ends all that the old one opened.
        batch = batch.with_all(tokens_of(world, &old));
    }
    let snapshot = world.commit(batch.with(Write::update(&new))).await?;
    Ok(UserKind::shown(snapshot.find(&new.reference())?))
}

/// Deletes a user with all tokens.
///
/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, user: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete users")?;
    // Alone: no token is made meanwhile that would be left behind.
    let _references = world.references.write().await;
    let user = world.snapshot().find::<UserKind>(user).cloned()?;
    let batch = Core::batch(actor, "user.delete").with_all(tokens_of(world, &user));
    world.commit(batch.with(Write::delete(&user))).await?;
    Ok(())
}

fn tokens_of(world: &World, user: &User) -> Vec<Write> {
    let snapshot = world.snapshot();
    let tokens = snapshot.all::<TokenKind>().iter();
    tokens.filter(|token| token.spec.user == user.id()).map(|token| Write::delete(token)).collect()
}

fn is_self(world: &World, actor: &Actor, user: &Ref) -> bool {
    let snapshot = world.snapshot();
    let user = snapshot.find::<UserKind>(user).ok();
    user.is_some_and(|user| actor.user == Some(user.id()))
}

async fn hashed(world: &World, password: Option<String>) -> Result<Option<String>, ServiceError> {
    let Some(password) = password else { return Ok(None) };
    if !(SHORTEST_PASSWORD..=LONGEST_PASSWORD).contains(&password.len()) {
        let reason = format!("a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} bytes");
        return Err(ServiceError::invalid("password", reason));
    }
    let permit = crate::auth::login_permit(world).await?;
    let hash = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        hash_password(&password)
    });
    let hash = hash.await.map_err(|error| ServiceError::internal("hashing failed", error))??;
    Ok(Some(hash))
}

impl std::fmt::Debug for UserCreate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserCreate")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}
impl std::fmt::Debug for UserUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserUpdate").field("role", &self.role).finish_non_exhaustive()
    }
}
