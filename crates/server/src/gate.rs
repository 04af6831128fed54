//! Who may come in: the first thing that happens to every request.
//!
//! An endpoint without a required role is open; every other one needs a bearer token, or root's
//! Unix socket. What the caller may *do* is decided by the service behind.

use hostler_api::code;
use hostler_control::{Actor, authenticate};
use hostler_endpoint::{Meta, Problem};
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::app::App;
use crate::peer::Peer;
use crate::problem::problem;

/// Puts the [`Actor`] among the request's extensions, or refuses.
pub(crate) async fn gate(app: App, meta: Meta, mut parts: Parts) -> Result<Parts, Problem> {
    if !meta.access.is_empty() {
        let actor = identify(&app, &parts)?;
        parts.extensions.insert(actor);
    }
    Ok(parts)
}

/// A token wins over the socket, so that root can act as someone else.
fn identify(app: &App, parts: &Parts) -> Result<Actor, Problem> {
    if let Some(value) = parts.headers.get(AUTHORIZATION) {
        let token = value.to_str().ok().and_then(bearer).ok_or_else(|| {
            code::UNAUTHENTICATED
                .problem("the `Authorization` header is not `Bearer <token>`")
                .hint("log in with `hostler login`, or ask an admin for a token")
        })?;
        return authenticate(&app.world, token).map_err(problem);
    }
    match parts.extensions.get::<Peer>() {
        Some(Peer::Root) => Ok(Actor::root()),
        Some(Peer::Network(_)) | None => Err(code::UNAUTHENTICATED
            .problem("this needs a token: send the header `Authorization: Bearer <token>`")
            .hint("log in with `hostler login`, or ask an admin for a token")),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_tokens_are_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
    }
}
