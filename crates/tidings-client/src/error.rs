//! Failures between the operator and a service, each in one line that says what to do.

use std::fmt;
use std::time::Duration;

use hyper::StatusCode;

/// One line for the operator, and what a caller that could try again needs to know.
///
/// ```
/// use tidings_client::Error;
///
/// assert!(Error::no_answer("nothing listens at http://127.0.0.1:8080").is_passing());
/// assert_eq!(Error::new("cannot write to stdout").label(), "other");
/// ```
#[derive(Debug)]
pub struct Error {
    message: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The request may or may not have arrived; there is no answer.
    NoAnswer,
    /// The service answered, but not with a success.
    Refused { status: StatusCode, retry_after: Option<Duration> },
    /// Asking again would change nothing.
    Final,
}

impl Error {
    /// An error that asking again does not mend.
    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into(), kind: Kind::Final }
    }

    /// The connection failed before the answer was complete.
    pub fn no_answer(message: impl Into<String>) -> Error {
        Error { message: message.into(), kind: Kind::NoAnswer }
    }

    /// The service said no.
    pub fn refused(message: String, status: StatusCode, retry_after: Option<Duration>) -> Error {
        Error { message, kind: Kind::Refused { status, retry_after } }
    }

    /// The error, said to be that of an address, unless it says so already.
    pub fn at(mut self, url: &str) -> Error {
        if !self.message.contains(url) {
            self.message = format!("{url}: {}", self.message);
        }
        self
    }

    /// True if the same request can succeed later: the service is away, busy or broken, or a first
    /// copy of the request is still running.
    pub fn is_passing(&self) -> bool {
        match self.kind {
            Kind::NoAnswer => true,
            Kind::Refused { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 429)
            }
            Kind::Final => false,
        }
    }

    /// True if the service answered that it has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind, Kind::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    /// The wait that the service asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            Kind::Refused { retry_after, .. } => retry_after,
            Kind::NoAnswer | Kind::Final => None,
        }
    }

    /// The name under which reports count this error.
    pub fn label(&self) -> String {
        match self.kind {
            Kind::NoAnswer => "no_answer".to_owned(),
            Kind::Refused { status, .. } => format!("http_{}", status.as_u16()),
            Kind::Final => "other".to_owned(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
