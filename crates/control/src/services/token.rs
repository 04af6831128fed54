//! Tokens: what programs and logged-in people act with.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    Labels, Name, Ref, Role, Token, TokenKind, TokenSpec, TokenStatus, User, UserKind,
};
use jiff::{SignedDuration, Timestamp};

use super::{Page, PageRequest, page};
use crate::actor::{Actor, authorize};
use crate::auth::token_text;
use crate::error::{Class, ServiceError};
use crate::redact::Shown;
use crate::secret;
use crate::world::{Core, World};

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCreate {
    /// Absent: a name is made.
    pub name: Option<Name>,
    /// Whose it will be; absent: one's own. Only admins make tokens for others.
    pub user: Option<Ref>,
    /// Absent: the user's role; never more.
    pub role: Option<Role>,
    /// Absent: it does not expire.
    pub life: Option<SignedDuration>,
}

/// A new token and its text, which is told once.
#[derive(Clone)]
pub struct IssuedToken {
    pub token: Arc<Token>,
    /// `hostler_<id>_<secret>`
    pub text: String,
}

/// # Errors
/// `forbidden`, `not_found`, `invalid`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: TokenCreate,
) -> Result<IssuedToken, ServiceError> {
    authorize(actor, Role::Viewer, "create tokens")?;
    let _references = world.references.read().await;
    let own = actor.user.map(Ref::by_id);
    let reference = request.user.or(own).ok_or_else(|| {
        ServiceError::invalid("user", "root has no tokens of its own; say whose it is to be")
            .hint("make a user first, with `hostler user create`")
    })?;
    let snapshot = world.snapshot();
    let user = snapshot.find::<UserKind>(&reference);
    let user = match user {
        Ok(user) if Some(user.id()) == actor.user => user,
        other => {
            authorize(actor, Role::Admin, "create tokens for others")?;
            other?
        }
    };
    let most = match actor.user {
        // A weak token makes no stronger one.
        Some(id) if id == user.id() => actor.role.min(user.spec.role),
        _ => user.spec.role,
    };
    let role = request.role.unwrap_or(most);
    if role > most {
        let reason = format!("{role} is more than {most}, which is the most it can be");
        return Err(ServiceError::invalid("role", reason));
    }
    if request.life.is_some_and(|life| life < SignedDuration::from_secs(1)) {
        return Err(ServiceError::invalid("expires_in", "at least a second"));
    }
    issue(world, actor, user, role, request.life, request.name, "token.create").await
}

/// The caller has authorised it.
pub(super) async fn issue(
    world: &World,
    actor: &Actor,
    user: &User,
    role: Role,
    life: Option<SignedDuration>,
    name: Option<Name>,
    reason: &str,
) -> Result<IssuedToken, ServiceError> {
    let secret = secret::generate();
    let now = Timestamp::now();
    let expires_at = life.map(|life| now.saturating_add(life).unwrap_or(Timestamp::MAX));
    let spec = TokenSpec { user: user.id(), role, expires_at };
    let status = TokenStatus { secret_hash: secret::hash(&secret) };
    let made: Name = "token".parse().expect("`token` is a name");
    let mut token = Token::new(name.clone().unwrap_or(made), Labels::new(), now, spec, status);
    if name.is_none() {
        let simple = token.id().uuid().simple().to_string();
        token.metadata.name =
            format!("token-{}", &simple[20..]).parse().expect("hexadecimal digits make a name");
    }
    // The user is still there, or there is no token.
    let expect = Write::Expect {
        kind: hostler_types::KindName::User,
        id: user.id().untyped(),
        revision: None,
    };
    let batch = Core::batch(actor, reason).with(expect).with(Write::create(&token));
    let snapshot = world.commit(batch).await?;
    let text = token_text(token.id(), &secret);
    Ok(IssuedToken { token: TokenKind::shown(snapshot.find(&token.reference())?), text })
}

/// One's own tokens; an admin sees all.
///
/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Token>, ServiceError> {
    authorize(actor, Role::Viewer, "list tokens")?;
    page::<TokenKind>(&world.snapshot(), request, |token| {
        actor.role == Role::Admin || Some(token.spec.user) == actor.user
    })
}

/// Revokes a token: one's own, or as an admin any.
///
/// # Errors
/// `forbidden`, `not_found` (also for another's, if one is no admin).
pub async fn delete(world: &World, actor: &Actor, token: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Viewer, "revoke tokens")?;
    let token = world.snapshot().find::<TokenKind>(token).cloned()?;
    if actor.role < Role::Admin && Some(token.spec.user) != actor.user {
        return Err(ServiceError::new(
            Class::NotFound,
            "not_found",
            format!("there is no token `{}` of yours", token.name()),
        ));
    }
    let batch = Core::batch(actor, "token.delete").with(Write::delete(&token));
    world.commit(batch).await?;
    Ok(())
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("token", &self.token).finish_non_exhaustive()
    }
}
