//! The handlers of the inventory service: what it does when orders are made and decided.

use std::collections::BTreeSet;

use contracts::{
    OrderCancelled, OrderConfirmed, OrderCreated, OrderId, StockCommitted, StockLine, StockRejected,
    StockReleased, StockReserved,
};
use tidings::{BatchHandler, Envelope, Handler, HandlerError, Tx};

use crate::domain::{Decision, Status, follow, lines, reserve, shift};
use crate::store;

/// Follows the order service.
pub struct Inventory;

impl BatchHandler<OrderCreated> for Inventory {
    async fn handle(&self, events: &[Envelope<OrderCreated>], tx: &mut Tx) -> Result<(), HandlerError> {
        let wanted: Vec<Vec<StockLine>> = events.iter().map(|e| lines(&e.payload().items)).collect();
        let products = wanted.iter().flatten().map(|line| line.product_id.as_str()).collect();
        let before = store::lock_levels(tx, products).await?;
        let mut levels = before.clone();
        // Not its key: a stranger may have chosen another.
        let ids: Vec<&str> = events.iter().map(|e| e.payload().order_id.as_str()).collect();
        let known = store::find(tx, &ids).await?;
        let mut new = Vec::with_capacity(events.len());
        let mut released = Vec::new();
        for ((event, lines), known) in events.iter().zip(&wanted).zip(known) {
            let order_id = event.payload().order_id.clone();
            tx.caused_by(event);
            if let Some((status, _)) = known {
                if status == Status::Unknown {
                    // Cancelled before it came: nothing to put back, but the order service waits to hear so.
                    released.push((event.payload().order_id.as_str(), Status::Released));
                    tx.publish(StockReleased { order_id, items: lines.clone() }).await?;
                }
                continue;
            }
            match reserve(&mut levels, lines) {
                Ok(()) => {
                    new.push((event.payload().order_id.as_str(), Status::Reserved, &lines[..]));
                    tx.publish(StockReserved { order_id, items: lines.clone() }).await?;
                }
                Err(missing) => {
                    new.push((event.payload().order_id.as_str(), Status::Rejected, &lines[..]));
                    tx.publish(StockRejected { order_id, missing }).await?;
                }
            }
        }
        store::insert(tx, &new).await?;
        store::update(tx, &released).await?;
        Ok(store::write_levels(tx, &before, &levels).await?)
    }
}

impl BatchHandler<OrderConfirmed> for Inventory {
    async fn handle(&self, events: &[Envelope<OrderConfirmed>], tx: &mut Tx) -> Result<(), HandlerError> {
        let decided: Vec<_> = events.iter().map(|e| (e, &e.payload().order_id)).collect();
        move_pieces(tx, &decided, Decision::Confirmed).await
    }
}

/// Cancellations are few: they are handled one by one, the calm way to write a handler.
impl Handler<OrderCancelled> for Inventory {
    async fn handle(&self, event: &Envelope<OrderCancelled>, tx: &mut Tx) -> Result<(), HandlerError> {
        move_pieces(tx, &[(event, &event.payload().order_id)], Decision::Cancelled).await
    }
}

/// Moves the pieces of decided orders, each product's row written once.
async fn move_pieces<E: Send + Sync>(
    tx: &mut Tx,
    decided: &[(&Envelope<E>, &OrderId)],
    decision: Decision,
) -> Result<(), HandlerError> {
    let mut moves = Vec::with_capacity(decided.len());
    let mut unknown = Vec::new();
    let ids: Vec<&str> = decided.iter().map(|(_, order_id)| order_id.as_str()).collect();
    let found = store::find(tx, &ids).await?;
    for ((event, order_id), found) in decided.iter().zip(found) {
        match found {
            Some((status, lines)) => {
                if let Some(next) = follow(status, decision) {
                    moves.push((event, order_id, lines, status, next));
                }
            }
            None if decision == Decision::Cancelled => {
                unknown.push((order_id.as_str(), Status::Unknown, &[][..]));
            }
            None => {
                let message = format!("order {order_id} is confirmed but was never created");
                return Err(HandlerError::Transient(message));
            }
        }
    }
    let products: BTreeSet<&str> = moves
        .iter()
        .flat_map(|(_, _, lines, ..)| lines.iter().map(|line| line.product_id.as_str()))
        .collect();
    let before = store::lock_levels(tx, products).await?;
    let mut levels = before.clone();
    store::insert(tx, &unknown).await?;
    let moved: Vec<_> = moves.iter().map(|(_, order_id, _, _, to)| (order_id.as_str(), *to)).collect();
    store::update(tx, &moved).await?;
    for (event, order_id, lines, from, to) in moves {
        shift(&mut levels, &lines, from, to);
        tx.caused_by(*event);
        let order_id = (*order_id).clone();
        match to {
            Status::Committed => tx.publish(StockCommitted { order_id, items: lines }).await?,
            _ => tx.publish(StockReleased { order_id, items: lines }).await?,
        }
    }
    Ok(store::write_levels(tx, &before, &levels).await?)
}
