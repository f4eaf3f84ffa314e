//! Payments with the sums of their ledger, to be compared with the provider's book.

use contracts::Money;
use jiff::Timestamp;
use tidings::{Error, Param, Row, Store};

use super::word;
use crate::domain::Status;

/// A payment and what the ledger says has moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerPayment {
    /// Its number.
    pub n: i64,
    pub order_id: String,
    pub status: Status,
    /// The price of the order.
    pub amount: Money,
    /// The sum that was collected, in minor units.
    pub captured: i64,
    /// The sum that was given back.
    pub refunded: i64,
    /// The provider's name for it.
    pub provider_ref: Option<String>,
    pub created: Timestamp,
    pub updated: Timestamp,
}

const COLUMNS: &str = "n, order_id, status, amount, currency, provider_ref, created_us, updated_us,
    (SELECT amount FROM transfer AS t WHERE t.order_id = p.order_id AND t.kind = 'capture'),
    (SELECT amount FROM transfer AS t WHERE t.order_id = p.order_id AND t.kind = 'refund')";

/// The payment of an order.
pub async fn of_order(store: &Store, order_id: &str) -> Result<Option<LedgerPayment>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM payment AS p WHERE order_id = $1");
    store.query(&sql, &[Param::from(order_id)]).await?.first().map(read).transpose()
}

/// Payments before a number and a time, newest first.
pub async fn before(
    store: &Store,
    n: i64,
    until: Timestamp,
    limit: u32,
) -> Result<Vec<LedgerPayment>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM payment AS p WHERE n < $1 AND created_us < $2 ORDER BY n DESC LIMIT $3"
    );
    let params = [Param::from(n), Param::from(until), Param::from(limit)];
    store.query(&sql, &params).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<LedgerPayment, Error> {
    Ok(LedgerPayment {
        n: row.get(0)?,
        order_id: row.get(1)?,
        status: word(row, 2)?,
        amount: Money { amount: row.get(3)?, currency: row.get(4)? },
        provider_ref: row.get(5)?,
        created: row.get(6)?,
        updated: row.get(7)?,
        captured: row.get::<Option<i64>>(8)?.unwrap_or(0),
        refunded: row.get::<Option<i64>>(9)?.unwrap_or(0),
    })
}
