//! Who asks, and whether they may.

use hostler_types::{Role, TokenId, UserId};

use crate::error::{Class, ServiceError};

/// Who asks for something. Made by [`crate::authenticate`], [`Actor::root`] or [`Actor::system`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A user's name, `root` or `system`: what tasks and the change log tell.
    pub name: String,
    /// Absent for `root` and `system`.
    pub user: Option<UserId>,
    pub role: Role,
    pub via: Via,
}

/// How the actor has proved to be who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The peer of the Unix socket is root.
    Socket,
    Token(TokenId),
    /// The server itself.
    Internal,
}

impl Actor {
    /// Root on the server's machine, over the Unix socket. The caller has checked the peer's uid.
    pub fn root() -> Self {
        Self { name: "root".to_owned(), user: None, role: Role::Admin, via: Via::Socket }
    }

    /// The server itself: controllers and first-start setup.
    pub fn system() -> Self {
        Self { name: "system".to_owned(), user: None, role: Role::Admin, via: Via::Internal }
    }
}

/// The first line of every service function: refuses an actor whose role does not include `need`.
///
/// # Errors
/// `forbidden`, which names both roles and what was tried.
pub(crate) fn authorize(
    actor: &Actor,
    need: Role,
    attempt: &'static str,
) -> Result<(), ServiceError> {
    if actor.role >= need {
        return Ok(());
    }
    let message = format!(
        "`{}` is {} and may not {attempt}: the role {need} is needed",
        actor.name,
        article(actor.role),
    );
    Err(ServiceError::new(Class::Forbidden, "forbidden", message)
        .hint("ask an admin for the role, or use another token"))
}

fn article(role: Role) -> &'static str {
    match role {
        Role::Viewer => "a viewer",
        Role::Operator => "an operator",
        Role::Admin => "an admin",
    }
}
