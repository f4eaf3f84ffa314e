//! What the payment service does when orders are made and decided, and when deeds have ended.

use contracts::{
    Money, OrderCancelled, OrderConfirmed, OrderCreated, OrderId, PaymentAuthorized, PaymentCaptureFailed,
    PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided,
};
use serde::{Deserialize, Serialize};
use tidings::{BatchHandler, Effect, EffectError, Envelope, HandlerError, Performer, Settled, Tx};

use crate::domain::{Decision, Deed, Outcome, Payment, Status, transfer};
use crate::gateway::{Answer, Sandbox};
use crate::store::{self, Found};

/// Follows the order service.
pub struct Payments;

impl BatchHandler<OrderCreated> for Payments {
    async fn handle(&self, events: &[Envelope<OrderCreated>], tx: &mut Tx) -> Result<(), HandlerError> {
        for event in events {
            let order = event.payload();
            let payment_id = payment_id(&order.order_id);
            tx.caused_by(event);
            if store::insert(tx, order, &payment_id).await? {
                tx.perform(Authorize {
                    order_id: order.order_id.clone(),
                    amount: order.total.clone(),
                    method: order.payment_method.clone().unwrap_or_else(|| store::METHOD_DEFAULT.to_owned()),
                })
                .await?;
            } else if let Some(found) = store::find(tx, order.order_id.as_str()).await?
                && found.payment.status == Status::Unknown
            {
                // Cancelled before it came: nothing to undo, but the order service waits to hear so.
                store::fill_in_voided(tx, order).await?;
                tx.publish(PaymentVoided {
                    order_id: order.order_id.clone(),
                    payment_id,
                    amount: order.total.clone(),
                })
                .await?;
            }
        }
        Ok(())
    }
}

impl BatchHandler<OrderConfirmed> for Payments {
    async fn handle(&self, events: &[Envelope<OrderConfirmed>], tx: &mut Tx) -> Result<(), HandlerError> {
        for event in events {
            tx.caused_by(event);
            follow(tx, &event.payload().order_id, Decision::Confirmed).await?;
        }
        Ok(())
    }
}

impl BatchHandler<OrderCancelled> for Payments {
    async fn handle(&self, events: &[Envelope<OrderCancelled>], tx: &mut Tx) -> Result<(), HandlerError> {
        for event in events {
            tx.caused_by(event);
            follow(tx, &event.payload().order_id, Decision::Cancelled).await?;
        }
        Ok(())
    }
}

/// Takes note of a decision and does what follows from it.
async fn follow(tx: &mut Tx, order_id: &OrderId, decision: Decision) -> Result<(), HandlerError> {
    let id = order_id.as_str();
    match store::find(tx, id).await? {
        Some(mut found) => {
            let before = found.payment;
            found.payment.learn(decision);
            go_on(tx, order_id, &mut found).await?;
            if found.payment != before {
                store::update(tx, id, &found.payment, None).await?;
            }
            Ok(())
        }
        None if decision == Decision::Cancelled => {
            Ok(store::insert_cancelled(tx, id, &payment_id(order_id)).await?)
        }
        None => Err(HandlerError::Transient(format!("order {id} is confirmed but was never created"))),
    }
}

/// Asks for the next deed, if there is one.
async fn go_on(tx: &mut Tx, order_id: &OrderId, found: &mut Found) -> Result<(), HandlerError> {
    let order_id = order_id.clone();
    let method = found.method.clone();
    match found.payment.begin() {
        Some(Deed::Capture) => tx.perform(Capture { order_id, method }).await,
        Some(Deed::Void) => tx.perform(Void { order_id }).await,
        Some(Deed::Refund) => tx.perform(Refund { order_id }).await,
        Some(Deed::Authorize) | None => Ok(()),
    }
}

/// Hold the money of an order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Authorize {
    order_id: OrderId,
    amount: Money,
    method: String,
}

/// Collect it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Capture {
    order_id: OrderId,
    method: String,
}

/// Give the hold up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Void {
    order_id: OrderId,
}

/// Give the money back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refund {
    order_id: OrderId,
}

macro_rules! effects {
    ($($effect:ty, $kind:literal;)*) => {$(
        impl Effect for $effect {
            const KIND: &'static str = $kind;
            type Outcome = Answer;

            fn key(&self) -> String {
                format!("{}/{}", $kind, self.order_id)
            }
        }
    )*};
}
effects! {
    Authorize, "authorize";
    Capture, "capture";
    Void, "void";
    Refund, "refund";
}

/// Does the deeds at the provider.
#[derive(Clone)]
pub struct Deeds(pub Sandbox);

impl Performer<Authorize> for Deeds {
    async fn perform(&self, key: &str, effect: &Authorize) -> Result<Answer, EffectError> {
        self.0.authorize(key, &effect.method).await
    }

    async fn look_up(&self, key: &str, effect: &Authorize) -> Result<Option<Answer>, EffectError> {
        self.0.find_authorization(key, &effect.method).await
    }

    async fn settle(&self, done: &[Settled<Authorize>], tx: &mut Tx) -> Result<(), HandlerError> {
        for settled in done {
            tx.caused_by(settled);
            record(tx, &settled.effect.order_id, Deed::Authorize, &settled.outcome).await?;
        }
        Ok(())
    }
}

impl Performer<Capture> for Deeds {
    async fn perform(&self, key: &str, effect: &Capture) -> Result<Answer, EffectError> {
        self.0.capture(key, &effect.method).await
    }

    /// The provider answers a repeated key as it did at first: doing it again is looking it up.
    async fn look_up(&self, key: &str, effect: &Capture) -> Result<Option<Answer>, EffectError> {
        self.0.capture(key, &effect.method).await.map(Some)
    }

    async fn settle(&self, done: &[Settled<Capture>], tx: &mut Tx) -> Result<(), HandlerError> {
        for settled in done {
            tx.caused_by(settled);
            record(tx, &settled.effect.order_id, Deed::Capture, &settled.outcome).await?;
        }
        Ok(())
    }
}

macro_rules! undoing {
    ($($effect:ty => $deed:expr;)*) => {$(
        impl Performer<$effect> for Deeds {
            async fn perform(&self, key: &str, _: &$effect) -> Result<Answer, EffectError> {
                self.0.undo(key).await
            }

            /// As for a capture.
            async fn look_up(&self, key: &str, _: &$effect) -> Result<Option<Answer>, EffectError> {
                self.0.undo(key).await.map(Some)
            }

            async fn settle(&self, done: &[Settled<$effect>], tx: &mut Tx) -> Result<(), HandlerError> {
                for settled in done {
                    tx.caused_by(settled);
                    record(tx, &settled.effect.order_id, $deed, &settled.outcome).await?;
                }
                Ok(())
            }
        }
    )*};
}
undoing! {
    Void => Deed::Void;
    Refund => Deed::Refund;
}

/// Books what came of a deed, states it, and goes on with what was decided meanwhile.
async fn record(tx: &mut Tx, order_id: &OrderId, deed: Deed, answer: &Answer) -> Result<(), HandlerError> {
    let id = order_id.as_str();
    let Some(mut found) = store::find(tx, id).await? else {
        return Err(HandlerError::fatal(
            "no_payment",
            format!("{deed:?} has ended for {id}, which has no payment"),
        ));
    };
    let outcome = match answer {
        Answer::Done(_) => Outcome::Done(deed),
        Answer::Refused(..) => Outcome::Refused(deed),
    };
    if !found.payment.settle(outcome) {
        return Err(HandlerError::fatal(
            "unexpected_outcome",
            format!("{outcome:?} for {id}, whose payment is {:?}", found.payment.status),
        ));
    }
    let mut provider_ref = None;
    if let Answer::Done(reference) = answer {
        store::book(tx, id, transfer(deed), &found.amount).await?;
        provider_ref = (deed == Deed::Authorize).then_some(reference.as_str());
    }
    state(tx, order_id, &found, answer).await?;
    go_on(tx, order_id, &mut found).await?;
    store::update(tx, id, &found.payment, provider_ref).await?;
    Ok(())
}

/// States what has become of a payment.
async fn state(tx: &mut Tx, order_id: &OrderId, found: &Found, answer: &Answer) -> Result<(), HandlerError> {
    let order_id = order_id.clone();
    let (payment_id, amount) = (found.payment_id.clone(), found.amount.clone());
    let (code, reason) = match answer {
        Answer::Refused(code, reason) => ((*code).to_owned(), (*reason).to_owned()),
        Answer::Done(_) => Default::default(),
    };
    let Payment { status, .. } = found.payment;
    match status {
        Status::Authorized => tx.publish(PaymentAuthorized { order_id, payment_id, amount }).await,
        Status::Declined => tx.publish(PaymentDeclined { order_id, code, reason }).await,
        Status::Captured => tx.publish(PaymentCaptured { order_id, payment_id, amount }).await,
        Status::CaptureFailed => {
            tx.publish(PaymentCaptureFailed { order_id, payment_id, code, reason }).await
        }
        Status::Voided => tx.publish(PaymentVoided { order_id, payment_id, amount }).await,
        Status::Refunded => tx.publish(PaymentRefunded { order_id, payment_id, amount }).await,
        Status::Unknown | Status::Authorizing | Status::Capturing | Status::Voiding | Status::Refunding => {
            Ok(())
        }
    }
}

/// One payment an order, so one name for it.
fn payment_id(order_id: &OrderId) -> String {
    format!("pay_{order_id}")
}
