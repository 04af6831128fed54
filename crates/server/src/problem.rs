//! From a service's error to the problem that a client gets. The only place that does it.

use std::error::Error;
use std::time::Duration;

use hostler_api::code;
use hostler_control::{Class, ServiceError};
use hostler_endpoint::{FieldProblem, Problem};

/// What the client is told; what is beneath goes to the log, under the request's id.
pub(crate) fn problem(error: ServiceError) -> Problem {
    let status = status(error.class);
    if status >= 500 {
        let cause = chain(&error);
        match error.class {
            Class::Internal => tracing::error!(code = error.code, cause, "{}", error.message),
            _ => tracing::warn!(code = error.code, cause, "{}", error.message),
        }
    }
    let mut problem = Problem::new(status, error.code, error.message);
    problem.hint = error.hint;
    let fields = error.fields.into_iter();
    problem.errors = fields.map(|f| FieldProblem { field: f.field, detail: f.reason }).collect();
    problem
}

/// Too many wrong attempts.
pub(crate) fn rate_limited(wait: Duration) -> Problem {
    let seconds = wait.as_secs() + 1;
    code::RATE_LIMITED
        .problem(format!("too many wrong attempts; the next one is possible in {seconds} s"))
        .hint("wait, or use a token")
}

const fn status(class: Class) -> u16 {
    match class {
        Class::Invalid => 400,
        Class::Unauthenticated => 401,
        Class::Forbidden => 403,
        Class::NotFound => 404,
        Class::Conflict => 409,
        Class::Refused => 422,
        Class::TooMany => 429,
        Class::Internal => 500,
        Class::HostFailed => 502,
        Class::Unavailable => 503,
        Class::Timeout => 504,
        Class::NoCapacity => 507,
    }
}

/// The causes beneath an error, outermost first.
fn chain(error: &ServiceError) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_the_service_said_and_not_why() {
        let secret = std::io::Error::other("/secret/path");
        let error =
            ServiceError::new(Class::Unavailable, "store_unavailable", "it is not writable")
                .hint("try again")
                .caused_by(secret);
        assert_eq!(chain(&error), "/secret/path");
        let problem = problem(error);
        assert_eq!((problem.status, problem.code.as_str()), (503, "store_unavailable"));
        assert_eq!(problem.hint.as_deref(), Some("try again"));
        assert!(!serde_json::to_string(&problem).unwrap().contains("secret"));
    }

    #[test]
    fn fields_are_named() {
        let problem = problem(ServiceError::invalid("disks[0].size", "too small"));
        assert_eq!(problem.status, 400);
        assert_eq!(problem.errors[0].field, "disks[0].size");
    }
}
