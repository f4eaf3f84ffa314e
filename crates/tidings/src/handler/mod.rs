//! Handlers: the work of a service on events that arrive, and with effects.

mod calls;
mod effect;
mod timer;

use std::future::Future;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::envelope::{Envelope, Metadata};
use crate::error::HandlerError;
use crate::event::Event;
use crate::failure::DeadReason;
use crate::message::KEY_BYTES_MAX;
use crate::retry::HandlerOptions;
use crate::schema::{self, one_line};
use crate::store::Tx;

use calls::CallOptions;
pub(crate) use calls::HandlerFigures;
pub use effect::EffectHandler;
pub(crate) use effect::{AnyEffectHandler, Ended, ExternalCall, SettledList, TypedEffectHandler};
pub(crate) use timer::TimerEffect;
pub use timer::TimerHandler;

/// Handles one event in a transaction. Written as a function or on a type:
///
/// ```
/// # use tidings::{Envelope, Event, Handler, HandlerError, Tx};
/// async fn ship<E: Event>(event: &Envelope<E>, tx: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
///
/// struct Shipping;
/// impl<E: Event> Handler<E> for Shipping {
///     async fn handle(&self, event: &Envelope<E>, tx: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
/// }
/// ```
///
/// Everything it does through `tx` happens once per event, for ever. It must not call the network:
/// that is what [`Tx::perform`] is for.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{E}`",
    note = "a handler is a function, `async fn(&Envelope<{E}>, &mut Tx) -> Result<(), HandlerError>`, or a type that implements `Handler<{E}>`; a closure cannot say how long it borrows its arguments: make it a function, or a type with what it needs"
)]
pub trait Handler<E: Event>: Send + Sync + 'static {
    /// Handles one event.
    fn handle(
        &self,
        event: &Envelope<E>,
        tx: &mut Tx,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Handles many events in one transaction: for hot paths, where one statement can serve them all.
///
/// The events of one call have different keys, and come in the order of their keys. If a call fails, everything it did is undone and the
/// events are handled one by one, so that only the culprit is parked.
///
/// ```
/// # use tidings::prelude::*;
/// # use tidings_testkit::event::NoteTaken;
/// struct Keep;
///
/// impl BatchHandler<NoteTaken> for Keep {
///     async fn handle(&self, notes: &[Envelope<NoteTaken>], tx: &mut Tx) -> Result<(), HandlerError> {
///         let rows = notes.iter().map(|note| [note.key().into()]);
///         tx.execute_many("INSERT INTO note (key) VALUES ($1)", rows).await?;
///         Ok(())
///     }
/// }
/// let service = Service::new("keeper").tables(&["CREATE TABLE note (key TEXT)"]).on_batch(Keep);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle batches of `{E}`",
    note = "implement `BatchHandler<{E}>` for it: `async fn handle(&self, events: &[Envelope<{E}>], tx: &mut Tx) -> Result<(), HandlerError>`; one event at a time is handled by `.on(…)`"
)]
pub trait BatchHandler<E: Event>: Send + Sync + 'static {
    /// Handles the events. Name each one as the cause of what it leads to: [`Tx::caused_by`].
    fn handle(
        &self,
        events: &[Envelope<E>],
        tx: &mut Tx,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Names the future of a function that borrows its arguments.
#[doc(hidden)]
pub trait HandlerFn<'a, E: 'a>: Fn(&'a Envelope<E>, &'a mut Tx) -> Self::Future {
    type Future: Future<Output = Result<(), HandlerError>> + Send;
}

impl<'a, E, F, Fut> HandlerFn<'a, E> for F
where
    E: 'a,
    F: Fn(&'a Envelope<E>, &'a mut Tx) -> Fut,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    type Future = Fut;
}

impl<E, F> Handler<E> for F
where
    E: Event,
    F: for<'a> HandlerFn<'a, E> + Send + Sync + 'static,
{
    async fn handle(&self, event: &Envelope<E>, tx: &mut Tx) -> Result<(), HandlerError> {
        self(event, tx).await
    }
}

pub(crate) type Handling<'a> = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send + 'a>>;

/// A handler whose event type is known only to itself.
pub(crate) trait AnyHandler: Send + Sync {
    /// Returns the names of its event type and of that type's key.
    fn names(&self) -> (&'static str, &'static str);
    /// The figures of its calls and of its events.
    fn figures(&self) -> &HandlerFigures;
    /// True if a call takes many events.
    fn takes_batches(&self) -> bool {
        false
    }
    /// An empty list for events of its type, which are handled with these options.
    fn list(&self, options: &HandlerOptions) -> Box<dyn EventList>;
}

/// Decoded events of one type, and how to handle them.
pub(crate) trait EventList: Send + Sync {
    /// Decodes and validates an event, of this type or of an older one that is read as this one; gives it
    /// the payload's key if its envelope named none.
    fn push(&mut self, metadata: &mut Arc<Metadata>, event_type: &str, payload: &[u8]) -> Result<(), Broken>;
    /// Handles a range of what was pushed.
    fn handle<'a>(&'a self, range: Range<usize>, tx: &'a mut Tx) -> Handling<'a>;
}

/// The reason that an event can never be handled.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) reason: DeadReason,
    pub(crate) message: String,
}

/// A handler of one event at a time.
pub(crate) struct One<E, H>(Arc<Called<H>>, PhantomData<fn(E)>);
/// A handler of many events at once.
pub(crate) struct Many<E, H>(Arc<Called<H>>, PhantomData<fn(E)>);

/// A handler and the figures of its calls.
struct Called<H> {
    handler: H,
    figures: HandlerFigures,
}

impl<E: Event, H: Handler<E>> One<E, H> {
    pub(crate) fn new(handler: H) -> Self {
        Self(Arc::new(Called { handler, figures: HandlerFigures::of(E::TYPE) }), PhantomData)
    }
}

impl<E: Event, H: BatchHandler<E>> Many<E, H> {
    pub(crate) fn new(handler: H) -> Self {
        Self(Arc::new(Called { handler, figures: HandlerFigures::of(E::TYPE) }), PhantomData)
    }
}

impl<E: Event, H: Handler<E>> AnyHandler for One<E, H> {
    fn names(&self) -> (&'static str, &'static str) {
        (E::TYPE, E::KEY_NAME)
    }

    fn figures(&self) -> &HandlerFigures {
        &self.0.figures
    }

    fn list(&self, options: &HandlerOptions) -> Box<dyn EventList> {
        Box::new(Events {
            events: Vec::new(),
            handler: One(self.0.clone(), PhantomData),
            how: options.into(),
        })
    }
}

impl<E: Event, H: BatchHandler<E>> AnyHandler for Many<E, H> {
    fn names(&self) -> (&'static str, &'static str) {
        (E::TYPE, E::KEY_NAME)
    }

    fn figures(&self) -> &HandlerFigures {
        &self.0.figures
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn list(&self, options: &HandlerOptions) -> Box<dyn EventList> {
        Box::new(Events {
            events: Vec::new(),
            handler: Many(self.0.clone(), PhantomData),
            how: options.into(),
        })
    }
}

struct Events<E, K> {
    events: Vec<Envelope<E>>,
    handler: K,
    how: CallOptions,
}

/// One by one, or all at once.
trait CallStyle<E>: Send + Sync {
    fn handle<'a>(&'a self, events: &'a [Envelope<E>], tx: &'a mut Tx, how: CallOptions) -> Handling<'a>;
}

impl<E: Event, H: Handler<E>> CallStyle<E> for One<E, H> {
    fn handle<'a>(&'a self, events: &'a [Envelope<E>], tx: &'a mut Tx, how: CallOptions) -> Handling<'a> {
        Box::pin(async move {
            for event in events {
                tx.caused_by(event);
                let call = pin!(self.0.handler.handle(event, tx).instrument(event.metadata.span()));
                let began = Instant::now();
                let called = self.0.figures.call(call, how).await;
                self.0.figures.note_key(event.key(), began.elapsed());
                called?;
            }
            Ok(())
        })
    }
}

impl<E: Event, H: BatchHandler<E>> CallStyle<E> for Many<E, H> {
    fn handle<'a>(&'a self, events: &'a [Envelope<E>], tx: &'a mut Tx, how: CallOptions) -> Handling<'a> {
        if let [only] = events {
            tx.caused_by(only);
        }
        Box::pin(async move { self.0.figures.call(pin!(self.0.handler.handle(events, tx)), how).await })
    }
}

impl<E: Event, K: CallStyle<E>> EventList for Events<E, K> {
    fn push(&mut self, metadata: &mut Arc<Metadata>, event_type: &str, payload: &[u8]) -> Result<(), Broken> {
        let payload = E::read(event_type, payload).map_err(|e| undecodable::<E>(event_type, payload, &e))?;
        if metadata.key.is_empty() && payload.key().len() > KEY_BYTES_MAX {
            let message = format!("the key {} has more than {KEY_BYTES_MAX} bytes", E::KEY_NAME);
            return Err(Broken { reason: DeadReason::PayloadInvalid, message });
        }
        payload.validate().map_err(|report| Broken {
            reason: DeadReason::PayloadInvalid,
            message: format!("invalid {}: {}", E::TYPE, one_line(&schema::invalid(&payload, &report))),
        })?;
        if metadata.key.is_empty() {
            let metadata = Arc::make_mut(metadata);
            payload.key().clone_into(&mut metadata.key);
            metadata.stream = crate::event::stream(E::TOPIC, &metadata.key);
        }
        self.events.push(Envelope { metadata: metadata.clone(), payload });
        Ok(())
    }

    fn handle<'a>(&'a self, range: Range<usize>, tx: &'a mut Tx) -> Handling<'a> {
        self.handler.handle(&self.events[range], tx, self.how)
    }
}

/// Everything that is wrong with a payload. Of an older type, whose schema is not known here, what the
/// decoder said.
fn undecodable<E: Event>(event_type: &str, payload: &[u8], e: &serde_json::Error) -> Broken {
    let is_older = E::upcasts().iter().any(|former| former.event_type == event_type);
    let words = match schema::undecodable::<E>(payload) {
        Ok(violations) if !is_older && !violations.is_empty() => one_line(&violations),
        _ => e.to_string(),
    };
    Broken {
        reason: DeadReason::PayloadUndecodable,
        message: format!("cannot be read as {}: {words}", E::TYPE),
    }
}
