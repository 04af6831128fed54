//! The stable codes of problems: what programs look at. Codes are added, never changed.

/// A code, the HTTP status it comes with, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub name: &'static str,
    pub status: u16,
    pub meaning: &'static str,
}

const fn code(name: &'static str, status: u16, meaning: &'static str) -> Code {
    Code { name, status, meaning }
}

pub const INVALID: Code = code("invalid", 400, "The request is wrong in itself.");
pub const UNAUTHENTICATED: Code =
    code("unauthenticated", 401, "No token, or one that is unknown or has expired.");
pub const FORBIDDEN: Code = code("forbidden", 403, "The role does not allow it.");
pub const NOT_FOUND: Code =
    code("not_found", 404, "There is no such object, or one may not see it.");
pub const UNKNOWN_PATH: Code = code("unknown_path", 404, "The API has nothing at this path.");
pub const WRONG_METHOD: Code = code("wrong_method", 405, "The path has other methods.");
pub const TIMEOUT: Code = code("timeout", 408, "The request took too long to arrive.");
pub const TOO_LARGE: Code = code("too_large", 413, "The body is too long.");
pub const UNSUPPORTED_MEDIA_TYPE: Code =
    code("unsupported_media_type", 415, "The body must be JSON and say so.");
pub const WEBSOCKET_EXPECTED: Code =
    code("websocket_expected", 426, "The path is for WebSocket clients.");
pub const RATE_LIMITED: Code = code("rate_limited", 429, "Too many attempts; wait.");
pub const INTERNAL: Code = code("internal", 500, "A bug; the server's log has the request id.");
pub const UNAVAILABLE: Code =
    code("unavailable", 503, "The server cannot do this now; try again later.");
pub const STREAM_LOST: Code =
    code("stream_lost", 503, "An event stream broke; go on after the last event.");

/// The codes of what every endpoint may answer. Operations add their own, such as `name_taken`.
pub const COMMON: [Code; 14] = [
    INVALID,
    UNAUTHENTICATED,
    FORBIDDEN,
    NOT_FOUND,
    UNKNOWN_PATH,
    WRONG_METHOD,
    TIMEOUT,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    WEBSOCKET_EXPECTED,
    RATE_LIMITED,
    INTERNAL,
    UNAVAILABLE,
    STREAM_LOST,
];

impl Code {
    /// A problem with this code.
    pub fn problem(self, detail: impl Into<String>) -> hostler_endpoint::Problem {
        hostler_endpoint::Problem::new(self.status, self.name, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        let mut names: Vec<_> = COMMON.iter().map(|code| code.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMMON.len());
        for code in COMMON {
            assert!(code.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{code:?}");
            assert!((400..600).contains(&code.status), "{code:?}");
        }
    }
}
