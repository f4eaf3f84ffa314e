//! What the order service does when facts arrive or time runs out.

use std::time::Duration;

use contracts::{
    OrderCancelled, OrderCompleted, OrderConfirmed, OrderCreated, OrderId, PaymentAuthorized,
    PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided, Reason,
    StockCommitted, StockRejected, StockReleased, StockReserved,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidings::{BatchHandler, Effect, EffectError, Envelope, Event, HandlerError, Performer, Settled, Tx};

use crate::domain::{Decision, Fact, Payment, Progress, Stock};
use crate::http::Changes;
use crate::store;

/// Learns facts and decides.
#[derive(Clone)]
pub struct Decide {
    pub changed: Changes,
}

/// An event that is a fact about an order.
pub trait StatesFact: Event {
    /// The fact.
    const FACT: Fact;
}

macro_rules! facts {
    ($($event:ty => $fact:expr;)*) => {$(
        impl StatesFact for $event {
            const FACT: Fact = $fact;
        }
    )*};
}
facts! {
    PaymentAuthorized => Fact::Payment(Payment::Authorized);
    PaymentDeclined => Fact::Payment(Payment::Declined);
    PaymentCaptured => Fact::Payment(Payment::Captured);
    PaymentCaptureFailed => Fact::Payment(Payment::CaptureFailed);
    PaymentVoided => Fact::Payment(Payment::Voided);
    PaymentRefunded => Fact::Payment(Payment::Refunded);
    StockReserved => Fact::Stock(Stock::Reserved);
    StockRejected => Fact::Stock(Stock::Rejected);
    StockCommitted => Fact::Stock(Stock::Committed);
    StockReleased => Fact::Stock(Stock::Released);
}

impl<E: StatesFact> BatchHandler<E> for Decide {
    async fn handle(&self, events: &[Envelope<E>], tx: &mut Tx) -> Result<(), HandlerError> {
        for event in events {
            let id = event.key();
            store::insert_fact(tx, event).await?;
            let (mut order, known) = match store::progress(tx, id).await? {
                Some(found) => found,
                None => {
                    store::insert_unknown(tx, id).await?;
                    (Progress::NEW, false)
                }
            };
            let before = order;
            order.learn(E::FACT);
            if known {
                decide(tx.caused_by(event), id, &mut order).await?;
            }
            if order != before {
                store::update(tx, id, &order).await?;
            }
            self.changed.announce(tx, id);
        }
        Ok(())
    }
}

/// Records orders that other programs put on our topic, and decides them like our own.
pub struct Adopt {
    pub changed: Changes,
    pub deadline: Duration,
}

impl BatchHandler<OrderCreated> for Adopt {
    async fn handle(&self, events: &[Envelope<OrderCreated>], tx: &mut Tx) -> Result<(), HandlerError> {
        for event in events {
            let order = event.payload();
            let created = event.time().unwrap_or_else(|| tx.now());
            store::insert_fact(tx, event).await?;
            tx.caused_by(event);
            if open(tx, order, created, self.deadline).await? {
                let id = order.order_id.as_str();
                if let Some((mut order, _)) = store::progress(tx, id).await? {
                    decide(tx, id, &mut order).await?;
                    store::update(tx, id, &order).await?;
                }
            }
            self.changed.announce(tx, order.order_id.as_str());
        }
        Ok(())
    }
}

/// Records an order and sets its deadline; says whether it was new.
pub async fn open(
    tx: &mut Tx,
    order: &OrderCreated,
    created: Timestamp,
    deadline: Duration,
) -> Result<bool, HandlerError> {
    if !store::insert(tx, order, created).await? {
        return Ok(false);
    }
    let order_id = order.order_id.clone();
    let due = tx.now() + deadline;
    tx.perform_at(Deadline { order_id }, due).await?;
    Ok(true)
}

/// Takes every decision that follows from what is known, and tells the others.
pub async fn decide(tx: &mut Tx, id: &str, order: &mut Progress) -> Result<(), HandlerError> {
    while let Some(decision) = order.decide() {
        take(tx, id, order, decision).await?;
    }
    Ok(())
}

/// Takes one decision and tells the others.
pub async fn take(
    tx: &mut Tx,
    id: &str,
    order: &mut Progress,
    decision: Decision,
) -> Result<(), HandlerError> {
    order.take(decision);
    let order_id = OrderId::from(id);
    match decision {
        Decision::Confirm => tx.publish(OrderConfirmed { order_id: order_id.clone() }).await?,
        Decision::Cancel(reason) => {
            let order_id = order_id.clone();
            tx.publish(OrderCancelled { order_id, reason }).await?;
        }
        Decision::Complete => return tx.publish(OrderCompleted { order_id }).await,
        Decision::Settle => return Ok(()),
    }
    tx.withdraw(&Deadline { order_id }).await
}

/// A timer: the order must have been decided by then.
#[derive(Debug, Serialize, Deserialize)]
pub struct Deadline {
    order_id: OrderId,
}

impl Effect for Deadline {
    const KIND: &'static str = "deadline";
    type Outcome = ();

    fn key(&self) -> String {
        format!("deadline/{}", self.order_id)
    }
}

/// Cancels orders that were not decided in time.
pub struct Deadlines(pub Decide);

impl Performer<Deadline> for Deadlines {
    async fn perform(&self, _: &str, _: &Deadline) -> Result<(), EffectError> {
        Ok(())
    }

    async fn look_up(&self, _: &str, _: &Deadline) -> Result<Option<()>, EffectError> {
        Ok(Some(()))
    }

    async fn settle(&self, due: &[Settled<Deadline>], tx: &mut Tx) -> Result<(), HandlerError> {
        for settled in due {
            let id = settled.effect.order_id.as_str();
            tx.caused_by(settled);
            if let Some((mut order, true)) = store::progress(tx, id).await?
                && order.status == crate::domain::Status::Processing
            {
                take(tx, id, &mut order, Decision::Cancel(Reason::Deadline)).await?;
                decide(tx, id, &mut order).await?;
                store::update(tx, id, &order).await?;
                self.0.changed.announce(tx, id);
            }
        }
        Ok(())
    }
}
