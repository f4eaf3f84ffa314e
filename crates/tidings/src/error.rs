//! Errors: one opaque [`Error`] for the library, one decision for handlers.

use std::fmt;
use std::sync::Arc;

/// An error of the library. Ask it with the `is_…` predicates; print it for the operator.
///
/// ```
/// use tidings::Broker;
///
/// let error = Broker::open("amqp://localhost").err().expect("no such broker");
/// assert!(error.is_config() && !error.is_unavailable());
/// assert!(error.to_string().contains("use --broker sqlite:DIRECTORY"));
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    attempted: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    in_doubt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Unavailable,
    Conflict,
    Statement,
    Invalid,
    Refused,
    Unacceptable,
    Corrupt,
}

impl Error {
    /// The set-up is wrong and has to be changed: a flag, a directory, a port, a version.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.0.kind == Kind::Config
    }

    /// A database or broker cannot be used at the moment; the same call may succeed later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.0.kind == Kind::Unavailable
    }

    /// True if another transaction was in the way (a deadlock, a lock not got in time): no event is at fault, and the
    /// same work can be done again at once.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.0.kind == Kind::Conflict
    }

    /// True if it is not known whether the attempt took effect: the connection died in the commit. A caller that
    /// tries again must recognise what is there already.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.0.in_doubt
    }

    /// True if the event or value to be published or stored breaks its own rules.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.0.kind == Kind::Invalid
    }

    /// The broker does not accept this message: a topic, a right or a limit has to be changed first.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.0.kind, Kind::Refused | Kind::Unacceptable)
    }

    /// No broker will ever accept this message, whatever is changed.
    #[must_use]
    pub fn is_unacceptable(&self) -> bool {
        self.0.kind == Kind::Unacceptable
    }

    /// Stored data cannot be read: it was damaged, or written by something else. Trying again cannot help; an
    /// operator has to look.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.0.kind == Kind::Corrupt
    }

    /// An error about stored data that cannot be read: which, and what is wrong with it.
    ///
    /// ```
    /// use tidings::{Error, HandlerError};
    ///
    /// /// The state in a column of our own.
    /// fn state(word: &str) -> Result<bool, Error> {
    ///     match word {
    ///         "open" => Ok(true),
    ///         "closed" => Ok(false),
    ///         other => Err(Error::corrupt(format!("a parcel has the state {other:?}"))),
    ///     }
    /// }
    ///
    /// assert!(state("oepn").unwrap_err().is_corrupt());
    /// ```
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message, None)
    }

    /// A set-up error, in one line that says what to do.
    ///
    /// ```
    /// use tidings::Error;
    ///
    /// let deadline = "soon";
    /// let seconds = deadline.parse::<u64>().map_err(|_| Error::config("--deadline takes a number of seconds"));
    /// assert!(seconds.unwrap_err().is_config());
    /// ```
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message, None)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message, None)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message, None)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message, None)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message, None)
    }

    pub(crate) fn unacceptable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unacceptable, message, None)
    }

    pub(crate) fn store(attempted: impl Into<String>, e: rusqlite::Error) -> Self {
        let kind = if is_trouble(&e) { Kind::Unavailable } else { Kind::Statement };
        Self::new(kind, attempted, Some(Box::new(e)))
    }

    /// A statement that cannot work, or that comes too late in its transaction.
    pub(crate) fn statement(message: impl Into<String>) -> Self {
        Self::new(Kind::Statement, message, None)
    }

    pub(crate) fn postgres(attempted: impl Into<String>, e: tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        // The driver's own words leave the reason out.
        let reason = e.source().map_or_else(|| e.to_string(), ToString::to_string);
        Self::new(kind_of_postgres(&e), format!("{}: {reason}", attempted.into()), None)
    }

    fn new(
        kind: Kind,
        attempted: impl Into<String>,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, attempted: attempted.into(), source, in_doubt: false }))
    }

    /// Returns this error as that of a commit that may have been done all the same.
    pub(crate) fn in_doubt(self) -> Self {
        let attempted = self.to_string();
        Self(Arc::new(Inner { kind: self.0.kind, attempted, source: None, in_doubt: true }))
    }
}

/// Trouble of the machine (full disk, failing disk, foreign lock), as opposed to a wrong statement.
fn is_trouble(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, OutOfMemory,
        ReadOnly, SystemIoFailure,
    };
    matches!(
        e.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseCorrupt
                | DatabaseLocked
                | DiskFull
                | NotADatabase
                | OutOfMemory
                | ReadOnly
                | SystemIoFailure
        )
    )
}

/// Classifies trouble of the server or on the way to it, conflicts with other transactions, wrong statements.
fn kind_of_postgres(e: &tokio_postgres::Error) -> Kind {
    let Some(code) = e.code() else {
        // The driver's own: a parameter or column of the wrong type is a wrong statement.
        let words = e.to_string();
        let wrong = ["error serializing", "error deserializing", "expected"];
        let is_wrong = wrong.iter().any(|w| words.starts_with(w));
        return if is_wrong { Kind::Statement } else { Kind::Unavailable };
    };
    kind_of_sqlstate(code.code())
}

fn kind_of_sqlstate(code: &str) -> Kind {
    // Transaction rollback (serialization, deadlock), a lock not got, a statement that took too long.
    if code.starts_with("40") || ["55P03", "57014"].contains(&code) {
        return Kind::Conflict;
    }
    // Connection, a transaction that the server ended, resources, operator, system; a standby after a failover.
    let away = ["08", "25P03", "25P04", "53", "57P", "58", "XX", "25006"];
    if away.iter().any(|class| code.starts_with(class)) { Kind::Unavailable } else { Kind::Statement }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.attempted)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| &**e as _)
    }
}

/// The code of an event or request for which stored data would be needed that cannot be read.
pub(crate) const CORRUPT_DATA: &str = "corrupt_data";
/// The codes of events and effects that a service has not declared: mistakes of the program.
pub(crate) const UNDECLARED_EVENT: &str = "undeclared_event";
pub(crate) const UNDECLARED_EFFECT: &str = "undeclared_effect";

/// The dependency that a store is.
pub(crate) const THE_DATABASE: &str = "the database";

/// The one decision a handler makes when it cannot do its work.
///
/// A business "no" is not an error but an event.
///
/// ```
/// use tidings::HandlerError;
///
/// fn weight(text: &str) -> Result<u32, HandlerError> {
///     if text == "?" {
///         return Err(HandlerError::Transient("it is on the scales".to_owned())); // tried again
///     }
///     text.parse().map_err(|e| HandlerError::fatal("no_weight", e)) // a dead letter
/// }
///
/// assert_eq!(weight("heavy").unwrap_err().to_string(), "no_weight: invalid digit found in string");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// Try this event again, later and later; the other keys go on.
    #[error("{0}")]
    Transient(String),
    /// Another transaction was in the way: not the event's fault, tried again at once.
    #[error("{0}")]
    Conflict(String),
    /// A dependency of this handler is away: its events wait, no attempt is charged, one at a time asks for it.
    #[error("{0} is unavailable")]
    Dependency(&'static str),
    /// The connection died in the commit: it is not known whether it was done. Tried again as after `Dependency`.
    #[error("{0}")]
    InDoubt(String),
    /// Trying again cannot help: dead letter at once, under this code.
    #[error("{code}: {message}")]
    Fatal {
        /// Stable, in `snake_case`; every code has a page in the docs.
        code: &'static str,
        /// The fault in words, for the operator.
        message: String,
    },
}

impl HandlerError {
    /// A [`HandlerError::Fatal`] in one call.
    pub fn fatal(code: &'static str, message: impl fmt::Display) -> Self {
        Self::Fatal { code, message: message.to_string() }
    }
}

impl From<Error> for HandlerError {
    fn from(e: Error) -> Self {
        match e.0.kind {
            _ if e.is_in_doubt() => Self::InDoubt(e.to_string()),
            Kind::Unavailable => Self::Dependency(THE_DATABASE),
            Kind::Conflict => Self::Conflict(e.to_string()),
            Kind::Invalid => Self::fatal("invalid_event", e),
            Kind::Corrupt => Self::fatal(CORRUPT_DATA, e),
            _ => Self::Transient(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind_of_sqlstate};

    #[test]
    fn what_postgresql_refuses_has_a_kind() {
        let table = [
            ("40P01", Kind::Conflict),    // deadlock
            ("40001", Kind::Conflict),    // serialization
            ("55P03", Kind::Conflict),    // lock not available
            ("57014", Kind::Conflict),    // statement time-out
            ("25P03", Kind::Unavailable), // idle in transaction for too long
            ("57P01", Kind::Unavailable), // shut down
            ("53300", Kind::Unavailable), // too many connections
            ("08006", Kind::Unavailable), // connection lost
            ("25006", Kind::Unavailable), // read-only
            ("22021", Kind::Statement),   // a zero byte in text
            ("54000", Kind::Statement),   // an index row that is too large
            ("23505", Kind::Statement),   // a key that is there
            ("42601", Kind::Statement),   // a wrong statement
        ];
        for (code, kind) in table {
            assert_eq!(kind_of_sqlstate(code), kind, "{code}");
        }
    }
}
