//! Join tokens: what an operator carries to a new host.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    JoinToken, JoinTokenKind, JoinTokenSpec, JoinTokenStatus, Labels, Name, Ref, Role,
};
use jiff::{SignedDuration, Timestamp};

use super::{Page, PageRequest, page};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 7);

/// A new join token and its text, which is told once.
#[derive(Clone)]
pub struct IssuedJoinToken {
    pub token: Arc<JoinToken>,
    pub text: String,
}

/// Makes a token that lets one host join. Absent: it lives for an hour.
///
/// # Errors
/// `forbidden`, `invalid`.
pub async fn create(
    world: &World,
    actor: &Actor,
    life: Option<SignedDuration>,
) -> Result<IssuedJoinToken, ServiceError> {
    authorize(actor, Role::Admin, "let hosts join")?;
    let life = life.unwrap_or(SignedDuration::from_hours(1));
    if life < SignedDuration::from_secs(1) || life > LONGEST_LIFE {
        return Err(ServiceError::invalid("expires_in", "1 second to 7 days"));
    }
    let carried = hostler_pki::JoinToken::generate(world.ca.fingerprint(), &world.server_address);
    let now = Timestamp::now();
    let spec = JoinTokenSpec { expires_at: now + life };
    let status = JoinTokenStatus { secret_hash: carried.secret_hash(), used_by: None };
    let simple = hostler_types::JoinTokenId::generate().uuid().simple().to_string();
    let name: Name =
        format!("join-{}", &simple[20..]).parse().expect("hexadecimal digits make a name");
    let token = JoinToken::new(name, Labels::new(), now, spec, status);
    let batch = Core::batch(actor, "join-token.create").with(Write::create(&token));
    let snapshot = world.commit(batch).await?;
    let token = JoinTokenKind::shown(snapshot.find(&token.reference())?);
    Ok(IssuedJoinToken { token, text: carried.to_string() })
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<JoinToken>, ServiceError> {
    authorize(actor, Role::Admin, "list join tokens")?;
    page::<JoinTokenKind>(&world.snapshot(), request, |_| true)
}

/// Takes a join token back.
///
/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, token: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "take join tokens back")?;
    let token = world.snapshot().find::<JoinTokenKind>(token).cloned()?;
    let batch = Core::batch(actor, "join-token.delete").with(Write::delete(&token));
    world.commit(batch).await?;
    Ok(())
}

impl std::fmt::Debug for IssuedJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedJoinToken").field("token", &self.token).finish_non_exhaustive()
    }
}
