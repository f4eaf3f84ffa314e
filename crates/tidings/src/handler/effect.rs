//! The handler of effects of one kind: does them, looks up what became of them, records their outcomes.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::Handling;
use crate::effect::{Effect, EffectError, EffectRequest, Settled};
use crate::error::HandlerError;
use crate::store::Tx;

/// An external call that has not ended after this time has an unknown outcome.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Makes external calls of one kind.
///
/// ```
/// # use tidings::prelude::*;
/// # #[effect(kind = "fetch", key = parcel, outcome = String)]
/// # struct Fetch { parcel: String }
/// struct Carrier; // has an HTTP client
/// # impl Carrier { async fn ask(&self, _: &str, _: &str) -> Result<Option<String>, EffectError> { Ok(None) } }
/// impl EffectHandler<Fetch> for Carrier {
///     async fn perform(&self, key: &str, fetch: &Fetch) -> Result<String, EffectError> {
///         self.ask("POST", key).await?.ok_or_else(|| EffectError::NotDone(format!("{} is lost", fetch.parcel)))
///     }
///     async fn look_up(&self, key: &str, _: &Fetch) -> Result<Option<String>, EffectError> {
///         self.ask("GET", key).await
///     }
///     async fn settle(&self, done: &[Settled<Fetch>], tx: &mut Tx) -> Result<(), HandlerError> {
///         let rows = done.iter().map(|done| [(&done.outcome).into(), (&done.effect.parcel).into()]);
///         tx.execute_many("UPDATE parcel SET tracking = $1 WHERE id = $2", rows).await?;
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not perform `{F}`",
    note = "implement `EffectHandler<{F}>` for it: `perform`, `look_up` and `settle`"
)]
pub trait EffectHandler<F: Effect>: Send + Sync + 'static {
    /// Does it, passing `key` on as the idempotency key.
    fn perform(&self, key: &str, effect: &F) -> impl Future<Output = Result<F::Outcome, EffectError>> + Send;

    /// Finds out whether it was done: `None` only if it certainly was not.
    fn look_up(
        &self,
        key: &str,
        effect: &F,
    ) -> impl Future<Output = Result<Option<F::Outcome>, EffectError>> + Send;

    /// Reads an outcome that an operator states of an effect that is unknown or in conflict: what the provider's own pages
    /// say. Refused where this is not implemented.
    ///
    /// # Errors
    /// The outcome is none of this kind: the reason.
    fn stated_outcome(&self, effect: &F, outcome: serde_json::Value) -> Result<F::Outcome, String> {
        let _ = (effect, outcome);
        Err(format!("the handler of {} takes no outcome from an operator", F::KIND))
    }

    /// Records what the outcomes mean, in a transaction. Name each one as the cause of what it leads
    /// to: [`Tx::caused_by`].
    fn settle(
        &self,
        done: &[Settled<F>],
        tx: &mut Tx,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// An effect handler whose effect type is known only to itself.
pub(crate) trait AnyEffectHandler: Send + Sync {
    /// The provider that it asks.
    fn provider(&self) -> &'static str;
    fn perform(self: Arc<Self>, asked: EffectRequest) -> ExternalCall;
    fn list(self: Arc<Self>) -> Box<dyn SettledList>;
    /// Reads an outcome that an operator states.
    fn stated(
        &self,
        asked: &EffectRequest,
        outcome: serde_json::Value,
    ) -> Result<Box<dyn Any + Send>, String>;
}

/// Settled effects of one kind, and how to settle them.
pub(crate) trait SettledList: Send + Sync {
    fn push(&mut self, settled: Box<dyn Any + Send>);
    fn len(&self) -> usize;
    fn settle<'a>(&'a self, range: Range<usize>, tx: &'a mut Tx) -> Handling<'a>;
}

pub(crate) type ExternalCall = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// An external call that has ended, well or not.
pub(crate) struct Ended {
    pub(crate) asked: EffectRequest,
    pub(crate) result: Result<Box<dyn Any + Send>, EffectError>,
}

pub(crate) struct TypedEffectHandler<F, P>(pub(crate) Arc<P>, pub(crate) PhantomData<fn(F)>);

impl<F: Effect, P: EffectHandler<F>> AnyEffectHandler for TypedEffectHandler<F, P> {
    fn provider(&self) -> &'static str {
        F::PROVIDER
    }

    fn perform(self: Arc<Self>, asked: EffectRequest) -> ExternalCall {
        Box::pin(async move {
            let result = match serde_json::from_str::<F>(&asked.payload) {
                Ok(effect) => outcome(&*self.0, effect, &asked).await,
                Err(e) => Err(EffectError::NotDone(format!("the request cannot be read: {e}"))),
            };
            let result = result.map(|settled| Box::new(settled) as Box<dyn Any + Send>);
            Ended { asked, result }
        })
    }

    fn stated(
        &self,
        asked: &EffectRequest,
        outcome: serde_json::Value,
    ) -> Result<Box<dyn Any + Send>, String> {
        let effect: F =
            serde_json::from_str(&asked.payload).map_err(|e| format!("the request cannot be read: {e}"))?;
        let outcome = self.0.stated_outcome(&effect, outcome)?;
        Ok(Box::new(Settled { effect, outcome, cause: asked.cause.clone() }))
    }

    fn list(self: Arc<Self>) -> Box<dyn SettledList> {
        Box::new(SettledEffects { handler: self.0.clone(), settled: Vec::new() })
    }
}

async fn outcome<F: Effect, P: EffectHandler<F>>(
    handler: &P,
    effect: F,
    asked: &EffectRequest,
) -> Result<Settled<F>, EffectError> {
    let call = async {
        if asked.look_up
            && let Some(outcome) = handler.look_up(&asked.key, &effect).await?
        {
            return Ok(outcome);
        }
        handler.perform(&asked.key, &effect).await
    };
    let call = AssertUnwindSafe(call).catch_unwind();
    let outcome = match tokio::time::timeout(CALL_MAX, call).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(_)) => return Err(EffectError::Unknown("the performer panicked".into())),
        Err(_) => return Err(EffectError::Unknown(format!("no answer for {CALL_MAX:?}"))),
    };
    Ok(Settled { effect, outcome, cause: asked.cause.clone() })
}

struct SettledEffects<F: Effect, P> {
    handler: Arc<P>,
    settled: Vec<Settled<F>>,
}

impl<F: Effect, P: EffectHandler<F>> SettledList for SettledEffects<F, P> {
    fn push(&mut self, settled: Box<dyn Any + Send>) {
        let settled = settled.downcast().expect("a handler settles what it performed");
        self.settled.push(*settled);
    }

    fn len(&self) -> usize {
        self.settled.len()
    }

    fn settle<'a>(&'a self, range: Range<usize>, tx: &'a mut Tx) -> Handling<'a> {
        let settled = &self.settled[range];
        if let [only] = settled {
            tx.caused_by(only);
        }
        Box::pin(self.handler.settle(settled, tx))
    }
}
