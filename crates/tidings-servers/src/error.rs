use std::error::Error as StdError;
use std::fmt;

/// An error of a part, told in one line.
#[derive(Debug)]
pub struct Error {
    attempt: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of working with a part.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        Self { attempt: attempt.into(), source: None }
    }
}

/// Says what was attempted when something failed.
pub(crate) trait Attempt<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error { attempt: attempt(), source: Some(e.into()) })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.attempt),
            None => f.write_str(&self.attempt),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
