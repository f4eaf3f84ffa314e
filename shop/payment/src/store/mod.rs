//! Payments and their ledger in the service's database.

pub mod ledger;
pub mod provider_event;

use std::str::FromStr;

use contracts::{Money, OrderCreated, OrderId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tidings::http::PageRequest;
use tidings::{Envelope, Error, Param, Row, Store, Tx, params};

use crate::domain::{Payment, Status, Transfer};
use provider_event::ProviderEvent;

/// A payment with all that external calls need to know of it.
#[derive(Clone, Debug)]
pub struct Found {
    pub payment: Payment,
    pub payment_id: String,
    pub amount: Money,
    pub method: String,
    /// The provider's name for the hold.
    pub provider_ref: Option<String>,
}

/// A payment, as `GET /payments/{order_id}` shows it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Payment")]
pub struct View {
    /// Of which order.
    pub order_id: String,
    /// What it is called here.
    pub payment_id: String,
    /// What has happened to the money.
    pub status: Status,
    /// What the order costs.
    pub amount: Money,
    /// What was collected.
    pub captured: Money,
    /// What was given back.
    pub refunded: Money,
    /// What the provider calls it.
    pub provider_ref: Option<String>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Every transfer, both sides of it.
    pub ledger: Vec<Entry>,
    /// What the provider told of its own accord, newest first; only of a payment that is asked for alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub provider_events: Vec<ProviderEvent>,
}

/// One side of a transfer: what an account got (or gave, below 0).
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LedgerEntry")]
pub struct Entry {
    /// What for: `authorization`, `capture`, `void`, `refund`.
    pub kind: String,
    /// Whose.
    pub account: String,
    /// How much, in minor units; below 0 if it was given.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// When.
    pub at: Timestamp,
}

/// The method that pays when the customer did not choose one.
pub const METHOD_DEFAULT: &str = "pm_card_visa";

/// Opens the payments of orders; says which were new.
pub async fn insert(tx: &mut Tx, orders: &[Envelope<OrderCreated>]) -> Result<Vec<bool>, Error> {
    let now = tx.now();
    let payment_ids: Vec<_> = orders.iter().map(|order| payment_id(&order.payload().order_id)).collect();
    let rows = orders.iter().map(Envelope::payload).zip(&payment_ids).map(|(order, payment_id)| {
        [
            Param::from(order.order_id.as_str()),
            Param::from(payment_id),
            Param::from(order.total.amount),
            Param::from(&order.total.currency),
            Param::from(order.payment_method.as_ref()),
            Param::from(now),
        ]
    });
    let inserted = tx
        .execute_many(
            "INSERT INTO payment (order_id, payment_id, status, decision, amount, currency, method, created_us, updated_us)
             VALUES ($1, $2, 'authorizing', 'open', $3, $4, $5, $6, $6) ON CONFLICT (order_id) DO NOTHING",
            rows,
        )
        .await?;
    Ok(inserted.into_iter().map(|inserted| inserted == 1).collect())
}

/// Remembers that orders were cancelled before they were seen.
pub async fn insert_cancelled(tx: &mut Tx, orders: &[&OrderId]) -> Result<(), Error> {
    let now = tx.now();
    let payment_ids: Vec<_> = orders.iter().map(|order_id| payment_id(order_id)).collect();
    let rows = orders.iter().zip(&payment_ids).map(|(order_id, payment_id)| {
        [Param::from(order_id.as_str()), Param::from(payment_id), Param::from(now)]
    });
    tx.execute_many(
        "INSERT INTO payment (order_id, payment_id, status, decision, amount, currency, created_us, updated_us)
         VALUES ($1, $2, 'unknown', 'cancelled', 0, '', $3, $3)",
        rows,
    )
    .await
    .map(|_| ())
}

/// One payment an order, so one name for it.
fn payment_id(order_id: &OrderId) -> String {
    format!("pay_{order_id}")
}

/// Fills in an order that was cancelled before it was seen: nothing is charged.
pub async fn fill_in_voided(tx: &mut Tx, order: &OrderCreated) -> Result<(), Error> {
    let now = tx.now();
    tx.execute(
        "UPDATE payment SET status = 'voided', amount = $1, currency = $2, updated_us = $3 WHERE order_id = $4",
        params![order.total.amount, &order.total.currency, now, order.order_id.as_str()],
    )
    .await
    .map(|_| ())
}

/// The payments of orders, locked in the order in which they are given.
pub async fn find(tx: &mut Tx, order_ids: &[&str]) -> Result<Vec<Option<Found>>, Error> {
    let found = tx
        .query_many(
            "SELECT status, decision, payment_id, amount, currency, method, provider_ref
             FROM payment WHERE order_id = $1 FOR UPDATE",
            order_ids.iter().map(|order_id| [Param::from(*order_id)]),
        )
        .await?;
    let read = |row: &Row| {
        Ok(Found {
            payment: Payment { status: word(row, 0)?, decision: word(row, 1)? },
            payment_id: row.get(2)?,
            amount: Money { amount: row.get(3)?, currency: row.get(4)? },
            method: row.get::<Option<String>>(5)?.unwrap_or_else(|| METHOD_DEFAULT.to_owned()),
            provider_ref: row.get(6)?,
        })
    };
    found.iter().map(|rows| rows.first().map(read).transpose()).collect()
}

/// Keeps where payments stand.
pub async fn update(tx: &mut Tx, payments: &[(&str, Found)]) -> Result<(), Error> {
    let now = tx.now();
    let rows = payments.iter().map(|(order_id, found)| {
        [
            Param::from(<&str>::from(found.payment.status)),
            Param::from(<&str>::from(found.payment.decision)),
            Param::from(found.provider_ref.as_ref()),
            Param::from(now),
            Param::from(*order_id),
        ]
    });
    tx.execute_many(
        "UPDATE payment SET status = $1, decision = $2, provider_ref = $3, updated_us = $4 WHERE order_id = $5",
        rows,
    )
    .await
    .map(|_| ())
}

/// Books the same transfer for orders, each with its amount.
pub async fn book(tx: &mut Tx, transfer: Transfer, amounts: &[(&str, Money)]) -> Result<(), Error> {
    let now = tx.now();
    let rows = amounts.iter().map(|(order_id, amount)| {
        [
            Param::from(*order_id),
            Param::from(transfer.kind),
            Param::from(transfer.debit),
            Param::from(transfer.credit),
            Param::from(amount.amount),
            Param::from(&amount.currency),
            Param::from(now),
        ]
    });
    tx.execute_many(
        "INSERT INTO transfer (order_id, kind, debit, credit, amount, currency, at_us)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        rows,
    )
    .await
    .map(|_| ())
}

/// One payment with its ledger.
pub async fn view(store: &Store, order_id: &str) -> Result<Option<View>, Error> {
    let rows = store
        .query(
            "SELECT n, order_id, payment_id, status, amount, currency, provider_ref, created_us, updated_us
             FROM payment WHERE order_id = $1 AND status <> 'unknown'",
            params![order_id],
        )
        .await?;
    match rows.first() {
        Some(row) => {
            let mut view = read_view(store, row).await?;
            view.provider_events = provider_event::of_order(store, order_id).await?;
            Ok(Some(view))
        }
        None => Ok(None),
    }
}

/// Payments, newest first, each with its number.
pub async fn list(
    store: &Store,
    status: Option<Status>,
    page: &PageRequest,
) -> Result<Vec<(i64, View)>, Error> {
    let PageRequest { limit, before, .. } = *page;
    let columns = "n, order_id, payment_id, status, amount, currency, provider_ref, created_us, updated_us";
    let rows = match status.map(<&str>::from) {
        None => {
            let sql = format!(
                "SELECT {columns} FROM payment WHERE status <> 'unknown' AND n < $1 ORDER BY n DESC LIMIT $2"
            );
            store.query(&sql, params![before, limit]).await?
        }
        Some(status) => {
            let sql = format!(
                "SELECT {columns} FROM payment WHERE status = $1 AND status <> 'unknown' AND n < $2 ORDER BY n DESC LIMIT $3"
            );
            store.query(&sql, params![status, before, limit]).await?
        }
    };
    let mut views = Vec::with_capacity(rows.len());
    for row in &rows {
        views.push((row.get(0)?, read_view(store, row).await?));
    }
    Ok(views)
}

async fn read_view(store: &Store, row: &Row) -> Result<View, Error> {
    let order_id: String = row.get(1)?;
    let currency: String = row.get(5)?;
    let transfers = store
        .query(
            "SELECT kind, debit, credit, amount, currency, at_us FROM transfer WHERE order_id = $1 ORDER BY n",
            params![&order_id],
        )
        .await?;
    let mut ledger = Vec::with_capacity(2 * transfers.len());
    let (mut captured, mut refunded) = (0, 0);
    for transfer in &transfers {
        let (kind, amount): (String, i64) = (transfer.get(0)?, transfer.get(3)?);
        match kind.as_str() {
            "capture" => captured += amount,
            "refund" => refunded += amount,
            _ => {}
        }
        for (account, amount) in [(1, -amount), (2, amount)] {
            ledger.push(Entry {
                kind: kind.clone(),
                account: transfer.get(account)?,
                amount,
                currency: transfer.get(4)?,
                at: transfer.get(5)?,
            });
        }
    }
    let money = |amount| Money { amount, currency: currency.clone() };
    Ok(View {
        payment_id: row.get(2)?,
        status: word(row, 3)?,
        amount: money(row.get(4)?),
        captured: money(captured),
        refunded: money(refunded),
        provider_ref: row.get(6)?,
        created_at: row.get(7)?,
        updated_at: row.get(8)?,
        order_id,
        ledger,
        provider_events: Vec::new(),
    })
}

fn word<T: FromStr>(row: &Row, column: usize) -> Result<T, Error> {
    let word: String = row.get(column)?;
    word.parse().map_err(|_| Error::corrupt(format!("the payment table holds an unknown word: {word:?}")))
}
