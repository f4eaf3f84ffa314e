//! Stock and reservations in the service's database.

use std::collections::BTreeSet;

use contracts::StockLine;
use contracts::catalogue::{OpeningStock, STOCK_MAX};
use schemars::JsonSchema;
use serde::Serialize;
use tidings::{Error, HandlerError, Param, Row, Store, Tx, params};

use crate::domain::{Level, Levels, Status};

/// The receipt under which the opening stock is booked.
const OPENING: &str = "opening stock";

/// A product's stock, as `GET /stock/{product_id}` shows it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "StockLevel")]
pub struct View {
    /// Of which product.
    pub product_id: String,
    /// What can be ordered.
    pub available: u64,
    /// What is set aside for orders.
    pub reserved: u64,
    /// What has gone to customers.
    pub committed: u64,
}

/// Books the opening stock, once per product.
pub async fn open(store: &Store, opening: &[OpeningStock]) -> Result<(), HandlerError> {
    store
        .transaction(async |tx: &mut Tx| {
            for product in opening {
                let booking = receive(tx, &product.product_id, product.stock, OPENING).await?;
                if booking == Booking::TooMuch {
                    let message = format!(
                        "there are too many pieces of {:?} for its opening stock",
                        product.product_id
                    );
                    return Err(HandlerError::fatal("stock_max", message));
                }
            }
            Ok(())
        })
        .await
}

/// The booking of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Booking {
    /// It is booked now.
    New,
    /// It was booked before.
    Before,
    /// It would lift the stock over [`STOCK_MAX`]; nothing has changed.
    TooMuch,
}

/// Books a delivery, once per reference.
pub async fn receive(
    tx: &mut Tx,
    product_id: &str,
    quantity: u64,
    reference: &str,
) -> Result<Booking, HandlerError> {
    let now = tx.now();
    let booked = tx
        .execute(
            "INSERT INTO receipt (product_id, reference, quantity, at_us) VALUES ($1, $2, $3, $4)
             ON CONFLICT (product_id, reference) DO NOTHING",
            params![product_id, reference, quantity, now],
        )
        .await?;
    if booked == 0 {
        return Ok(Booking::Before);
    }
    let lifted = tx
        .execute(
            "INSERT INTO stock (product_id, available, reserved, committed) VALUES ($1, $2, 0, 0)
             ON CONFLICT (product_id) DO UPDATE SET available = stock.available + excluded.available
             WHERE stock.available <= $3 - excluded.available",
            params![product_id, quantity, STOCK_MAX],
        )
        .await?;
    if lifted == 0 {
        let sql = "DELETE FROM receipt WHERE product_id = $1 AND reference = $2";
        tx.execute(sql, params![product_id, reference]).await?;
        return Ok(Booking::TooMuch);
    }
    Ok(Booking::New)
}

/// The levels of products, whose rows are locked in sorted order.
pub async fn lock_levels(tx: &mut Tx, products: BTreeSet<&str>) -> Result<Levels, Error> {
    let found = tx
        .query_many(
            "SELECT product_id, available, reserved, committed FROM stock WHERE product_id = $1 FOR UPDATE",
            products.into_iter().map(|product_id| [Param::from(product_id)]),
        )
        .await?;
    found.iter().flatten().map(|row| Ok((row.get(0)?, level(row, 1)?))).collect()
}

/// Writes the levels that have changed: one row a product, however many orders moved it.
pub async fn write_levels(tx: &mut Tx, before: &Levels, after: &Levels) -> Result<(), Error> {
    let changed = after.iter().filter(|(product_id, level)| before.get(*product_id) != Some(level));
    let rows = changed.map(|(product_id, level)| {
        [
            Param::from(level.available),
            Param::from(level.reserved),
            Param::from(level.committed),
            Param::from(product_id),
        ]
    });
    tx.execute_many(
        "UPDATE stock SET available = $1, reserved = $2, committed = $3 WHERE product_id = $4",
        rows,
    )
    .await
    .map(|_| ())
}

/// Opens the reservations of orders that have none.
pub async fn insert(tx: &mut Tx, new: &[(&str, Status, &[StockLine])]) -> Result<(), HandlerError> {
    let lines = new.iter().map(|(_, _, lines)| serde_json::to_string(lines));
    let lines = lines.collect::<Result<Vec<_>, _>>().map_err(|e| HandlerError::fatal("not_json", e))?;
    let rows = new.iter().zip(&lines).map(|((order_id, status, _), lines)| {
        [Param::from(*order_id), Param::from(<&str>::from(*status)), Param::from(lines)]
    });
    tx.execute_many("INSERT INTO reservation (order_id, status, lines) VALUES ($1, $2, $3)", rows).await?;
    Ok(())
}

/// The reservations of orders, locked in the order in which they are given.
pub async fn find(tx: &mut Tx, order_ids: &[&str]) -> Result<Vec<Option<(Status, Vec<StockLine>)>>, Error> {
    let found = tx
        .query_many(
            "SELECT status, lines FROM reservation WHERE order_id = $1 FOR UPDATE",
            order_ids.iter().map(|order_id| [Param::from(*order_id)]),
        )
        .await?;
    let read = |row: &Row| {
        let (status, lines): (String, String) = (row.get(0)?, row.get(1)?);
        let broken = || Error::corrupt(format!("a reservation cannot be read: {status} {lines}"));
        Ok((status.parse().map_err(|_| broken())?, serde_json::from_str(&lines).map_err(|_| broken())?))
    };
    found.iter().map(|rows| rows.first().map(read).transpose()).collect()
}

/// Keeps where the pieces of orders are.
pub async fn update(tx: &mut Tx, moved: &[(&str, Status)]) -> Result<(), Error> {
    let rows =
        moved.iter().map(|(order_id, status)| [Param::from(<&str>::from(*status)), Param::from(*order_id)]);
    tx.execute_many("UPDATE reservation SET status = $1 WHERE order_id = $2", rows).await.map(|_| ())
}

/// One product's stock.
pub async fn view(store: &Store, product_id: &str) -> Result<Option<View>, Error> {
    let rows = store
        .query(
            "SELECT product_id, available, reserved, committed FROM stock WHERE product_id = $1",
            params![product_id],
        )
        .await?;
    rows.first().map(read_view).transpose()
}

/// All products' stock.
pub async fn list(store: &Store) -> Result<Vec<View>, Error> {
    let rows = store
        .query("SELECT product_id, available, reserved, committed FROM stock ORDER BY product_id", &[])
        .await?;
    rows.iter().map(read_view).collect()
}

fn read_view(row: &Row) -> Result<View, Error> {
    let Level { available, reserved, committed } = level(row, 1)?;
    Ok(View { product_id: row.get(0)?, available, reserved, committed })
}

fn level(row: &Row, first: usize) -> Result<Level, Error> {
    Ok(Level { available: row.get(first)?, reserved: row.get(first + 1)?, committed: row.get(first + 2)? })
}
