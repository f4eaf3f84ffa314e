//! Orders in the service's database.

use std::str::FromStr;

use contracts::{Item, Money, OrderCreated, Reason};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings::http::PageRequest;
use tidings::{Envelope, Error, Event, HandlerError, Param, Row, Store, Tx, params};

use crate::domain::{Payment, Progress, Status, Stock};

/// An order, as `GET /orders/{id}` shows it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub status: Status,
    /// Who ordered.
    pub customer_id: Option<String>,
    /// What.
    pub items: Vec<Item>,
    /// What it costs.
    pub total: Money,
    /// What is known of the money.
    pub payment: Payment,
    /// What is known of the stock.
    pub stock: Stock,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When it was placed.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The orders to list.
#[derive(Debug, Default)]
pub struct Filter {
    /// Only in this status.
    pub status: Option<Status>,
    /// Only of this customer.
    pub customer_id: Option<String>,
}

const COLUMNS: &str =
    "n, id, status, customer_id, items, amount, currency, payment, stock, reason, created_us, updated_us";

/// The record of an order while it is worked on: its row is locked.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Everything a decision depends on.
    pub progress: Progress,
    /// Set if the order itself is known, and not only facts about it.
    pub is_known: bool,
    /// Entries of its history so far. Each takes the next place, under the lock: whatever clocks show, a later
    /// one comes after an earlier one.
    pub entries: u64,
}

impl Kept {
    /// An order without a record yet.
    pub const NEW: Self = Self { progress: Progress::NEW, is_known: false, entries: 0 };
}

/// The program that publishes `order.created` for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// We do: the first entry of its history is our own event.
    Here,
    /// Another program does: its event is kept as a fact.
    Elsewhere,
}

/// Writes new orders, each with the time it was made; says which were new. Facts that came before an
/// order are kept.
pub async fn insert(
    tx: &mut Tx,
    orders: &[(&OrderCreated, Timestamp)],
    origin: Origin,
) -> Result<Vec<bool>, HandlerError> {
    let items = orders.iter().map(|(order, _)| text(&order.items)).collect::<Result<Vec<_>, _>>()?;
    let rows = orders.iter().zip(&items).map(|((order, created), items)| {
        [
            Param::from(order.order_id.as_str()),
            Param::from(order.customer_id.as_ref()),
            Param::from(items),
            Param::from(order.total.amount),
            Param::from(&order.total.currency),
            Param::from(*created),
            Param::from(i64::from(origin == Origin::Here)),
        ]
    });
    let inserted = tx
        .execute_many(
            "INSERT INTO orders (id, known, status, payment, stock, customer_id, items, amount, currency, created_us, updated_us, entries)
             VALUES ($1, 1, 'processing', 'unknown', 'unknown', $2, $3, $4, $5, $6, $6, $7)
             ON CONFLICT (id) DO UPDATE SET known = 1, customer_id = excluded.customer_id, items = excluded.items,
                 amount = excluded.amount, currency = excluded.currency,
                 created_us = excluded.created_us, updated_us = excluded.updated_us,
                 entries = orders.entries + excluded.entries
             WHERE orders.known = 0",
            rows,
        )
        .await?;
    Ok(inserted.into_iter().map(|inserted| inserted == 1).collect())
}

/// Returns the record of an order, which is locked; `None` if there is none yet.
pub async fn kept(tx: &mut Tx, id: &str) -> Result<Option<Kept>, Error> {
    kept_of(tx, &[id]).await.map(|mut one| one.remove(0))
}

/// Returns the records of many orders, locked in the order in which they are given.
pub async fn kept_of(tx: &mut Tx, ids: &[&str]) -> Result<Vec<Option<Kept>>, Error> {
    let found = tx
        .query_many(
            "SELECT status, payment, stock, reason, known, entries FROM orders WHERE id = $1 FOR UPDATE",
            ids.iter().map(|id| [Param::from(*id)]),
        )
        .await?;
    let read = |row: &Row| {
        let progress = Progress {
            status: word(row, 0)?,
            payment: word(row, 1)?,
            stock: word(row, 2)?,
            reason: row.get::<Option<String>>(3)?.map(|r| from_word(&r)).transpose()?,
        };
        Ok(Kept { progress, is_known: row.get(4)?, entries: row.get(5)? })
    };
    found.iter().map(|rows| rows.first().map(read).transpose()).collect()
}

/// Keeps what was worked on.
pub async fn update(tx: &mut Tx, orders: &[(&str, Kept)]) -> Result<(), Error> {
    let now = tx.now();
    let rows = orders.iter().map(|(id, Kept { progress, entries, .. })| {
        [
            Param::from(<&str>::from(progress.status)),
            Param::from(<&str>::from(progress.payment)),
            Param::from(<&str>::from(progress.stock)),
            Param::from(progress.reason.map(<&str>::from)),
            Param::from(now),
            Param::from(progress.status.is_open()),
            Param::from(*entries),
            Param::from(*id),
        ]
    });
    tx.execute_many(
        "UPDATE orders SET status = $1, payment = $2, stock = $3, reason = $4, updated_us = $5, open = $6,
             entries = $7
         WHERE id = $8",
        rows,
    )
    .await
    .map(|_| ())
}

/// Keeps that there are facts about orders that are not known themselves yet: another program's orders, on their way.
pub async fn insert_unknown(tx: &mut Tx, ids: &[&str]) -> Result<(), Error> {
    let now = tx.now();
    tx.execute_many(
        "INSERT INTO orders (id, known, status, payment, stock, items, amount, currency, created_us, updated_us)
         VALUES ($1, 0, 'processing', 'unknown', 'unknown', '[]', 0, '', $2, $2)",
        ids.iter().map(|id| [Param::from(*id), Param::from(now)]),
    )
    .await
    .map(|_| ())
}

/// Keeps facts for the histories of their orders, each with its place there.
pub async fn insert_facts<E: Event>(
    tx: &mut Tx,
    events: &[Envelope<E>],
    positions: &[u64],
) -> Result<(), HandlerError> {
    let payloads = events.iter().map(|event| text(event.payload())).collect::<Result<Vec<_>, _>>()?;
    let now = tx.now();
    let rows = events.iter().zip(&payloads).zip(positions).map(|((event, payload), position)| {
        [
            Param::from(event.payload().key()),
            Param::from(now),
            Param::from(event.id()),
            Param::from(event.stream()),
            Param::from(event.seq()),
            Param::from(E::TYPE),
            Param::from(event.time()),
            Param::from(event.causation_id()),
            Param::from(payload),
            Param::from(*position),
        ]
    });
    tx.execute_many(
        "INSERT INTO fact (order_id, recorded_us, event_id, stream, seq, event_type, time_us, causation_id, payload, place)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        rows,
    )
    .await?;
    Ok(())
}

/// One order.
pub async fn find(store: &Store, id: &str) -> Result<Option<Order>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM orders WHERE id = $1 AND known = 1");
    let rows = store.query(&sql, params![id]).await?;
    rows.first().map(read).transpose()
}

/// One order, within a transaction.
pub async fn find_in(tx: &mut Tx, id: &str) -> Result<Option<Order>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM orders WHERE id = $1 AND known = 1");
    let rows = tx.query(&sql, params![id]).await?;
    rows.first().map(read).transpose()
}

/// Orders, newest first, each with its number.
pub async fn list(store: &Store, filter: &Filter, page: &PageRequest) -> Result<Vec<(i64, Order)>, Error> {
    let PageRequest { limit, before, .. } = *page;
    let status = filter.status.map(<&str>::from);
    let open = if filter.status.is_some_and(Status::is_open) { "AND open = 1" } else { "" };
    // One statement for each combination: an index serves only a condition that it can see.
    let rows = match (status, &filter.customer_id) {
        (None, None) => {
            let sql =
                format!("SELECT {COLUMNS} FROM orders WHERE known = 1 AND n < $1 ORDER BY n DESC LIMIT $2");
            store.query(&sql, params![before, limit]).await?
        }
        (Some(status), None) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM orders WHERE known = 1 {open} AND status = $1 AND n < $2 ORDER BY n DESC LIMIT $3"
            );
            store.query(&sql, params![status, before, limit]).await?
        }
        (None, Some(customer)) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM orders WHERE known = 1 AND customer_id = $1 AND n < $2 ORDER BY n DESC LIMIT $3"
            );
            store.query(&sql, params![customer, before, limit]).await?
        }
        (Some(status), Some(customer)) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM orders WHERE known = 1 AND customer_id = $1 AND status = $2 AND n < $3 ORDER BY n DESC LIMIT $4"
            );
            store.query(&sql, params![customer, status, before, limit]).await?
        }
    };
    rows.iter().map(|row| Ok((row.get(0)?, read(row)?))).collect()
}

/// Orders that are not settled, by status.
pub async fn open_orders(store: &Store) -> Result<Value, Error> {
    let mut counts = json!({"processing": 0, "confirmed": 0, "cancelling": 0});
    let sql = "SELECT status, count(*) FROM orders WHERE open = 1 AND known = 1 GROUP BY status";
    for row in store.query(sql, &[]).await? {
        counts[row.get::<String>(0)?] = row.get::<u64>(1)?.into();
    }
    Ok(counts)
}

fn read(row: &Row) -> Result<Order, Error> {
    Ok(Order {
        id: row.get(1)?,
        status: word(row, 2)?,
        customer_id: row.get(3)?,
        items: from_text(&row.get::<String>(4)?)?,
        total: Money { amount: row.get(5)?, currency: row.get(6)? },
        payment: word(row, 7)?,
        stock: word(row, 8)?,
        reason: row.get::<Option<String>>(9)?.map(|r| from_word(&r)).transpose()?,
        created_at: row.get(10)?,
        updated_at: row.get(11)?,
    })
}

fn word<T: FromStr>(row: &Row, column: usize) -> Result<T, Error> {
    from_word(&row.get::<String>(column)?)
}

fn from_word<T: FromStr>(word: &str) -> Result<T, Error> {
    let unknown = |_| Error::corrupt(format!("the orders table holds an unknown word: {word:?}"));
    word.parse().map_err(unknown)
}

fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| Error::corrupt(format!("the orders table holds broken JSON: {e}")))
}

fn text(value: &impl Serialize) -> Result<String, HandlerError> {
    serde_json::to_string(value).map_err(|e| HandlerError::fatal("not_json", e))
}
