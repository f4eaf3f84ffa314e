//! What the inventory service does when orders are made and decided.

use std::collections::BTreeSet;

use contracts::{
    OrderCancelled, OrderConfirmed, OrderCreated, OrderId, StockCommitted, StockLine, StockRejected,
    StockReleased, StockReserved,
};
use tidings::{BatchHandler, Envelope, HandlerError, Tx};

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
        for (event, lines) in events.iter().zip(wanted) {
            let order_id = event.payload().order_id.clone();
            tx.caused_by(event);
            let mut tried = levels.clone();
            let reserved = reserve(&mut tried, &lines);
            let status = if reserved.is_ok() { Status::Reserved } else { Status::Rejected };
            if !store::insert(tx, order_id.as_str(), status, &lines).await? {
                release_unseen(tx, order_id, lines).await?;
                continue;
            }
            levels = tried;
            match reserved {
                Ok(()) => tx.publish(StockReserved { order_id, items: lines }).await?,
                Err(missing) => tx.publish(StockRejected { order_id, missing }).await?,
            }
        }
        Ok(store::write_levels(tx, &before, &levels).await?)
    }
}

/// Cancelled before it came: nothing to put back, but the order service waits to hear so.
async fn release_unseen(tx: &mut Tx, order_id: OrderId, items: Vec<StockLine>) -> Result<(), HandlerError> {
    if let Some((Status::Unknown, _)) = store::find(tx, order_id.as_str()).await? {
        store::update(tx, order_id.as_str(), Status::Released).await?;
        tx.publish(StockReleased { order_id, items }).await?;
    }
    Ok(())
}

impl BatchHandler<OrderConfirmed> for Inventory {
    async fn handle(&self, events: &[Envelope<OrderConfirmed>], tx: &mut Tx) -> Result<(), HandlerError> {
        let decided: Vec<_> = events.iter().map(|e| (e, &e.payload().order_id)).collect();
        move_pieces(tx, &decided, Decision::Confirmed).await
    }
}

impl BatchHandler<OrderCancelled> for Inventory {
    async fn handle(&self, events: &[Envelope<OrderCancelled>], tx: &mut Tx) -> Result<(), HandlerError> {
        let decided: Vec<_> = events.iter().map(|e| (e, &e.payload().order_id)).collect();
        move_pieces(tx, &decided, Decision::Cancelled).await
    }
}

/// Moves the pieces of decided orders, each product's row written once.
async fn move_pieces<E: Send + Sync>(
    tx: &mut Tx,
    decided: &[(&Envelope<E>, &OrderId)],
    decision: Decision,
) -> Result<(), HandlerError> {
    let mut moves = Vec::with_capacity(decided.len());
    for (event, order_id) in decided {
        match store::find(tx, order_id.as_str()).await? {
            Some((status, lines)) => {
                if let Some(next) = follow(status, decision) {
                    moves.push((event, order_id, lines, status, next));
                }
            }
            None if decision == Decision::Cancelled => {
                store::insert(tx, order_id.as_str(), Status::Unknown, &[]).await?;
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
    for (event, order_id, lines, from, to) in moves {
        shift(&mut levels, &lines, from, to);
        store::update(tx, order_id.as_str(), to).await?;
        tx.caused_by(*event);
        let order_id = (*order_id).clone();
        match to {
            Status::Committed => tx.publish(StockCommitted { order_id, items: lines }).await?,
            _ => tx.publish(StockReleased { order_id, items: lines }).await?,
        }
    }
    Ok(store::write_levels(tx, &before, &levels).await?)
}
