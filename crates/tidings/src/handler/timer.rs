//! The handler of timers of one kind.

use std::marker::PhantomData;

use super::EffectHandler;
use crate::effect::{Effect, EffectError, Settled, Timer};
use crate::error::HandlerError;
use crate::store::Tx;

/// Handles a timer that has come due, in a transaction. Written as a function,
/// `async fn(&T, &mut Tx) -> Result<(), HandlerError>`, or on a type.
///
/// ```
/// # use tidings::prelude::*;
/// # #[timer(kind = "overdue", key = id)]
/// # struct Overdue { id: String }
/// async fn overdue(timer: &Overdue, tx: &mut Tx) -> Result<(), HandlerError> {
///     tx.execute("UPDATE parcel SET state = 'overdue' WHERE id = $1", params![&timer.id]).await?;
///     Ok(())
/// }
///
/// let service = Service::new("shipping").on_timer(overdue);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the timer `{T}`",
    note = "a handler is a function, `async fn(timer: &{T}, tx: &mut Tx) -> Result<(), HandlerError>`, or a type that implements `TimerHandler<{T}>`"
)]
pub trait TimerHandler<T: Timer>: Send + Sync + 'static {
    /// Handles one timer.
    fn handle(&self, timer: &T, tx: &mut Tx) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Names the future of a function that borrows its arguments.
#[doc(hidden)]
pub trait TimerFn<'a, T: 'a>: Fn(&'a T, &'a mut Tx) -> Self::Future {
    type Future: Future<Output = Result<(), HandlerError>> + Send;
}

impl<'a, T, F, Fut> TimerFn<'a, T> for F
where
    T: 'a,
    F: Fn(&'a T, &'a mut Tx) -> Fut,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    type Future = Fut;
}

impl<T, F> TimerHandler<T> for F
where
    T: Timer,
    F: for<'a> TimerFn<'a, T> + Send + Sync + 'static,
{
    async fn handle(&self, timer: &T, tx: &mut Tx) -> Result<(), HandlerError> {
        self(timer, tx).await
    }
}

/// A timer is an effect whose external call does nothing: it is handled when its outcome is recorded.
pub(crate) struct TimerEffect<T, H>(pub(crate) H, pub(crate) PhantomData<fn(T)>);

impl<T: Timer, H: TimerHandler<T>> EffectHandler<T> for TimerEffect<T, H> {
    async fn perform(&self, _: &str, _: &T) -> Result<<T as Effect>::Outcome, EffectError> {
        Ok(())
    }

    async fn look_up(&self, _: &str, _: &T) -> Result<Option<()>, EffectError> {
        Ok(None)
    }

    async fn settle(&self, due: &[Settled<T>], tx: &mut Tx) -> Result<(), HandlerError> {
        for timer in due {
            tx.caused_by(timer);
            self.0.handle(&timer.effect, tx).await?;
        }
        Ok(())
    }
}
