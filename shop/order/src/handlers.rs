//! The handlers of the order service: what it does when facts arrive or time runs out.

use std::time::Duration;

use contracts::{
    OrderCancelled, OrderCompleted, OrderConfirmed, OrderCreated, OrderId, PaymentAuthorized,
    PaymentCaptureFailed, PaymentCaptured, PaymentDeclined, PaymentRefunded, PaymentVoided, Reason,
    StockCommitted, StockRejected, StockReleased, StockReserved,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidings::{BatchHandler, Effect, EffectError, EffectHandler, Envelope, Event, HandlerError, Settled, Tx};

use crate::domain::{Decision, Fact, Payment, Stock};
use crate::live::Changes;
use crate::store::{self, Kept, Origin};

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
        let ids: Vec<&str> = events.iter().map(Envelope::key).collect();
        let found = store::kept_of(tx, &ids).await?;
        let unknown = ids.iter().zip(&found).filter(|(_, found)| found.is_none());
        store::insert_unknown(tx, &unknown.map(|(id, _)| *id).collect::<Vec<_>>()).await?;
        let mut changed = Vec::with_capacity(events.len());
        let mut positions = Vec::with_capacity(events.len());
        for (event, found) in events.iter().zip(found) {
            let id = event.key();
            let mut order = found.unwrap_or(Kept::NEW);
            order.entries += 1;
            positions.push(order.entries);
            order.progress.learn(E::FACT);
            if order.is_known {
                decide(tx.caused_by(event), id, &mut order).await?;
            }
            changed.push((id, order));
            self.changed.announce(tx, id);
        }
        store::insert_facts(tx, events, &positions).await?;
        Ok(store::update(tx, &changed).await?)
    }
}

/// Records orders that other programs put on our topic, and decides them like our own.
pub struct Adopt {
    pub changed: Changes,
    pub deadline: Duration,
}

impl BatchHandler<OrderCreated> for Adopt {
    async fn handle(&self, events: &[Envelope<OrderCreated>], tx: &mut Tx) -> Result<(), HandlerError> {
        let orders: Vec<_> =
            events.iter().map(|e| (e.payload(), e.time().unwrap_or_else(|| tx.now()))).collect();
        let new = open(tx, &orders, Origin::Elsewhere, self.deadline).await?;
        let ids: Vec<&str> = events.iter().map(|event| event.payload().order_id.as_str()).collect();
        let found = store::kept_of(tx, &ids).await?;
        let mut changed = Vec::with_capacity(events.len());
        let mut positions = Vec::with_capacity(events.len());
        for ((event, found), new) in events.iter().zip(found).zip(new) {
            let id = event.payload().order_id.as_str();
            let mut order = found.unwrap_or(Kept::NEW);
            order.entries += 1;
            positions.push(order.entries);
            if new {
                decide(tx.caused_by(event), id, &mut order).await?;
            }
            changed.push((id, order));
            self.changed.announce(tx, id);
        }
        store::insert_facts(tx, events, &positions).await?;
        Ok(store::update(tx, &changed).await?)
    }
}

/// Records orders, each with the time it was made, and sets their deadlines; says which were new.
pub async fn open(
    tx: &mut Tx,
    orders: &[(&OrderCreated, Timestamp)],
    origin: Origin,
    deadline: Duration,
) -> Result<Vec<bool>, HandlerError> {
    let new = store::insert(tx, orders, origin).await?;
    let due = tx.now() + deadline;
    for ((order, _), _) in orders.iter().zip(&new).filter(|(_, new)| **new) {
        let order_id = order.order_id.clone();
        tx.perform_at(Deadline { order_id }, due).await?;
    }
    Ok(new)
}

/// Takes every decision that follows from what is known, and tells the others.
pub async fn decide(tx: &mut Tx, id: &str, order: &mut Kept) -> Result<(), HandlerError> {
    while let Some(decision) = order.progress.decide() {
        take(tx, id, order, decision).await?;
    }
    Ok(())
}

/// Takes one decision and tells the others.
pub async fn take(tx: &mut Tx, id: &str, order: &mut Kept, decision: Decision) -> Result<(), HandlerError> {
    order.progress.take(decision);
    if decision != Decision::Settle {
        order.entries += 1;
    }
    let order_id = OrderId::from(id);
    match decision {
        Decision::Confirm => tx.publish(OrderConfirmed { order_id: order_id.clone() }).await?,
        Decision::Cancel(reason) => {
            let order_id = order_id.clone();
            tx.publish(OrderCancelled { order_id, reason: reason.into() }).await?;
        }
        Decision::Complete => return tx.publish(OrderCompleted { order_id }).await,
        Decision::Settle => return Ok(()),
    }
    tx.cancel_effect(&Deadline { order_id }).await
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

impl EffectHandler<Deadline> for Deadlines {
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
            if let Some(mut order) = store::kept(tx, id).await?
                && order.is_known
                && order.progress.status == crate::domain::Status::Processing
            {
                take(tx, id, &mut order, Decision::Cancel(Reason::Deadline)).await?;
                decide(tx, id, &mut order).await?;
                store::update(tx, &[(id, order)]).await?;
                self.0.changed.announce(tx, id);
            }
        }
        Ok(())
    }
}
