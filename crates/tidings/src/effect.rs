//! External calls: recorded in a transaction, made after the commit under one permanent key; their outcome is handled
//! in another transaction.
//!
//! ```text
//! tx: row «called» ── commit ── perform(key) ── tx: row «done», settle ── commit
//!                       └ crash: look_up(key) first; perform again, under the same key, if absent
//! ```
//!
//! An unknown outcome is looked up, never guessed, and never tried again under a new key. What the provider contradicts
//! waits for an operator.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::{Causal, Cause};
use crate::error::Error;
use crate::strict;

/// A request for an external call: charge this card, or (a timer) nothing at all.
///
/// ```
/// use tidings::prelude::*;
///
/// #[effect(kind = "authorize", key = order_id, outcome = String, provider = "bank")]
/// struct Authorize { order_id: String, cents: u64 }
///
/// let authorize = Authorize { order_id: "o1".into(), cents: 499 };
/// assert_eq!(authorize.key(), "authorize/o1");
/// ```
pub trait Effect: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind of external call: `authorize`.
    const KIND: &'static str;
    /// The provider that is called. When it is down, all effects that need it wait together, and one at a time asks
    /// whether it is back.
    const PROVIDER: &'static str = Self::KIND;
    /// The type of its outcomes.
    type Outcome: Send + Sync + 'static;

    /// The permanent operation key: the same external call has the same key, for ever.
    fn key(&self) -> String;
}

/// A reminder that a transaction sets for later: a value that comes back to the service at its time.
///
/// Asked for with [`Tx::schedule`](crate::Tx::schedule), handled by what [`Service::on_timer`](crate::Service::on_timer)
/// names, taken back with [`Tx::cancel_effect`](crate::Tx::cancel_effect).
///
/// ```
/// use tidings::prelude::*;
///
/// #[timer(kind = "remind", key = parcel_id)]
/// struct Remind { parcel_id: String }
///
/// let remind = Remind { parcel_id: "p1".into() };
/// assert_eq!(Timer::key(&remind), "remind/p1");
/// ```
pub trait Timer: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name of its kind, which no other timer or effect of the service has: `remind`.
    const KIND: &'static str;

    /// The permanent key: a timer that was set under it is not set twice.
    fn key(&self) -> String;
}

impl<T: Timer> Effect for T {
    const KIND: &'static str = T::KIND;
    type Outcome = ();

    fn key(&self) -> String {
        Timer::key(self)
    }
}

/// An effect whose outcome is known.
///
/// ```
/// # #[effect(kind = "fetch", key = parcel, outcome = String)]
/// # struct Fetch { parcel: String }
/// # use tidings::prelude::*;
/// async fn note(done: &Settled<Fetch>, tx: &mut Tx) -> Result<(), HandlerError> {
///     let Fetch { parcel } = &done.effect;
///     tx.execute("UPDATE parcel SET tracking = $1 WHERE id = $2", params![&done.outcome, parcel]).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Settled<F: Effect> {
    /// The effect that was asked for.
    pub effect: F,
    /// The outcome of the effect.
    pub outcome: F::Outcome,
    pub(crate) cause: Cause,
}

impl<F: Effect> Causal for Settled<F> {
    fn cause(&self) -> Cause {
        self.cause.clone()
    }
}

/// The reason that an external call has no outcome yet. The call is tried again, later and later, for as long as it
/// takes; after a conflict, only once an operator has decided.
///
/// ```
/// use tidings::EffectError;
///
/// /// The meaning of a carrier's answer.
/// fn tracking_number(status: u16, body: &str) -> Result<String, EffectError> {
///     match status {
///         200 => Ok(body.to_owned()),
///         400..=499 => Err(EffectError::NotDone(body.to_owned())),
///         _ => Err(EffectError::Unknown(format!("status {status}"))),
///     }
/// }
///
/// assert_eq!(tracking_number(503, "").unwrap_err().to_string(), "outcome unknown: status 503");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EffectError {
    /// Certainly not done: try again under the same key.
    #[error("not done: {0}")]
    NotDone(String),
    /// Perhaps done: look it up before anything else.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The provider was not asked: too many other calls were before this one. No attempt is charged.
    #[error("not its turn: {0}")]
    NoTurn(String),
    /// The provider contradicts what was asked for: another amount under the key, two charges for one order. Nobody
    /// tries it again or guesses: it waits for an operator.
    #[error("conflict: {0}")]
    Conflict(String),
}

/// An effect as it is asked for: a row of its table.
#[derive(Clone, Debug)]
pub(crate) struct EffectRequest {
    pub(crate) key: String,
    pub(crate) kind: String,
    /// The effect as JSON.
    pub(crate) payload: String,
    pub(crate) cause: Cause,
    pub(crate) due: Timestamp,
    pub(crate) attempts: u32,
    /// It may have been done already: by a process that died.
    pub(crate) look_up: bool,
}

impl EffectRequest {
    pub(crate) fn new<F: Effect>(effect: &F, cause: &Cause, due: Timestamp) -> Result<Self, Error> {
        Ok(Self {
            key: effect.key(),
            kind: F::KIND.to_owned(),
            payload: strict::to_text(effect)?,
            cause: cause.clone(),
            due,
            attempts: 0,
            look_up: false,
        })
    }
}
