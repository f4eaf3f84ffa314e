//! The handlers of the payment service: what it does when orders are made and decided, and when external calls
//! have ended.

use contracts::{
    OrderCancelled, OrderConfirmed, OrderCreated, OrderId, PaymentAuthorized, PaymentCaptureFailed,
    PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided,
};
use serde::{Deserialize, Serialize};
use tidings::{BatchHandler, Effect, EffectError, EffectHandler, Envelope, HandlerError, Settled, Tx};

use crate::domain::{Decision, Operation, Outcome, Payment, Status, transfer};
use crate::gateway::{Answer, Charge, PROVIDER, PaymentGateway};
use crate::store::{self, Found};

/// Follows the order service.
pub struct Payments;

impl BatchHandler<OrderCreated> for Payments {
    async fn handle(&self, events: &[Envelope<OrderCreated>], tx: &mut Tx) -> Result<(), HandlerError> {
        let new = store::insert(tx, events).await?;
        for (event, new) in events.iter().zip(new) {
            let order = event.payload();
            tx.caused_by(event);
            if new {
                tx.perform(Authorize(Charge {
                    order_id: order.order_id.clone(),
                    amount: order.total.clone(),
                    method: order.payment_method.clone().unwrap_or_else(|| store::METHOD_DEFAULT.to_owned()),
                    provider_ref: None,
                    asked_at: Some(tx.now()),
                }))
                .await?;
            } else if let [Some(found)] = &store::find(tx, &[order.order_id.as_str()]).await?[..]
                && found.payment.status == Status::Unknown
            {
                // Cancelled before it came: nothing to undo, but the order service waits to hear so.
                store::fill_in_voided(tx, order).await?;
                tx.publish(PaymentVoided {
                    order_id: order.order_id.clone(),
                    payment_id: found.payment_id.clone(),
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
        let orders: Vec<_> = events.iter().map(|event| &event.payload().order_id).collect();
        follow(tx, events, &orders, Decision::Confirmed).await
    }
}

impl BatchHandler<OrderCancelled> for Payments {
    async fn handle(&self, events: &[Envelope<OrderCancelled>], tx: &mut Tx) -> Result<(), HandlerError> {
        let orders: Vec<_> = events.iter().map(|event| &event.payload().order_id).collect();
        follow(tx, events, &orders, Decision::Cancelled).await
    }
}

/// Takes note of decisions about orders and does what follows from them.
async fn follow<E: Send + Sync>(
    tx: &mut Tx,
    events: &[Envelope<E>],
    orders: &[&OrderId],
    decision: Decision,
) -> Result<(), HandlerError> {
    let ids: Vec<&str> = orders.iter().map(|order_id| order_id.as_str()).collect();
    let mut changed = Vec::with_capacity(events.len());
    let mut unseen = Vec::new();
    for ((event, order_id), found) in events.iter().zip(orders).zip(store::find(tx, &ids).await?) {
        match found {
            Some(mut found) => {
                let before = found.payment;
                found.payment.learn(decision);
                start_next(tx.caused_by(event), order_id, &mut found).await?;
                if found.payment != before {
                    changed.push((order_id.as_str(), found));
                }
            }
            None if decision == Decision::Cancelled => unseen.push(*order_id),
            None => {
                let message = format!("order {order_id} is confirmed but was never created");
                return Err(HandlerError::Transient(message));
            }
        }
    }
    store::insert_cancelled(tx, &unseen).await?;
    Ok(store::update(tx, &changed).await?)
}

/// Asks for the next external call, if there is one.
async fn start_next(tx: &mut Tx, order_id: &OrderId, found: &mut Found) -> Result<(), HandlerError> {
    let Some(operation) = found.payment.begin() else { return Ok(()) };
    let charge = Charge {
        order_id: order_id.clone(),
        amount: found.amount.clone(),
        method: found.method.clone(),
        provider_ref: found.provider_ref.clone(),
        asked_at: Some(tx.now()),
    };
    match operation {
        Operation::Authorize => tx.perform(Authorize(charge)).await,
        Operation::Capture => tx.perform(Capture(charge)).await,
        Operation::Void => tx.perform(Void(charge)).await,
        Operation::Refund => tx.perform(Refund(charge)).await,
    }
}

/// Makes the external calls at the provider.
#[derive(Clone)]
pub struct Operations<G>(pub G);

macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $operation(Charge);

        impl Effect for $operation {
            const KIND: &'static str = $kind;
            const PROVIDER: &'static str = PROVIDER;
            type Outcome = Answer;

            fn key(&self) -> String {
                format!("{}/{}", $kind, self.0.order_id)
            }
        }

        impl<G: PaymentGateway> EffectHandler<$operation> for Operations<G> {
            async fn perform(&self, key: &str, effect: &$operation) -> Result<Answer, EffectError> {
                self.0.perform(Operation::$operation, key, &effect.0).await
            }

            async fn look_up(&self, key: &str, effect: &$operation) -> Result<Option<Answer>, EffectError> {
                if self.0.remembers(&effect.0) {
                    return Ok(None);
                }
                self.0.look_up(Operation::$operation, key, &effect.0).await
            }

            fn stated_outcome(
                &self,
                _: &$operation,
                outcome: serde_json::Value,
            ) -> Result<Answer, String> {
                Answer::stated(Operation::$operation, outcome)
            }

            async fn settle(&self, done: &[Settled<$operation>], tx: &mut Tx) -> Result<(), HandlerError> {
                let orders: Vec<_> = done.iter().map(|settled| &settled.effect.0.order_id).collect();
                let answers: Vec<_> = done.iter().map(|settled| &settled.outcome).collect();
                record(tx, done, &orders, &answers, Operation::$operation).await
            }
        }
    )*};
}
operations! {
    /// Hold the money of an order.
    Authorize = "authorize";
    /// Collect it.
    Capture = "capture";
    /// Give the hold up.
    Void = "void";
    /// Give the money back.
    Refund = "refund";
}

/// Books the outcomes of external calls, publishes them, and goes on with decisions that came meanwhile.
async fn record<F: Effect>(
    tx: &mut Tx,
    done: &[Settled<F>],
    orders: &[&OrderId],
    answers: &[&Answer],
    operation: Operation,
) -> Result<(), HandlerError> {
    let ids: Vec<&str> = orders.iter().map(|order_id| order_id.as_str()).collect();
    let found = store::find(tx, &ids).await?;
    let mut changed = Vec::with_capacity(done.len());
    let mut booked = Vec::with_capacity(done.len());
    for (((settled, order_id), answer), found) in done.iter().zip(orders).zip(answers).zip(found) {
        let Some(mut found) = found else {
            let message = format!("{operation:?} has ended for {order_id}, which has no payment");
            return Err(HandlerError::fatal("no_payment", message));
        };
        let outcome = match answer {
            Answer::Done(_) => Outcome::Done(operation),
            Answer::Refused { .. } => Outcome::Refused(operation),
        };
        if !found.payment.settle(outcome) {
            let message = format!("{outcome:?} for {order_id}, whose payment is {:?}", found.payment.status);
            return Err(HandlerError::fatal("unexpected_outcome", message));
        }
        if let Answer::Done(reference) = answer {
            booked.push((order_id.as_str(), found.amount.clone()));
            if operation == Operation::Authorize {
                found.provider_ref = Some(reference.clone());
            }
        }
        state(tx.caused_by(settled), order_id, &found, answer).await?;
        start_next(tx, order_id, &mut found).await?;
        changed.push((order_id.as_str(), found));
    }
    store::book(tx, transfer(operation), &booked).await?;
    Ok(store::update(tx, &changed).await?)
}

/// States what has become of a payment.
async fn state(tx: &mut Tx, order_id: &OrderId, found: &Found, answer: &Answer) -> Result<(), HandlerError> {
    let order_id = order_id.clone();
    let (payment_id, amount) = (found.payment_id.clone(), found.amount.clone());
    let (code, reason) = match answer {
        Answer::Refused { code, reason } => (code.clone(), reason.clone()),
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
