//! Events that the provider told, in the service's database.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tidings::{Error, Store, Tx, params};

use super::word;
use crate::domain::Status;
use crate::gateway::{Standing, agrees};

/// Events of a payment that are shown, newest first: far more than happen to one.
const SHOWN_MAX: u64 = 100;

/// Something that the provider told of its own accord.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProviderEvent {
    /// What the provider calls the event.
    pub id: String,
    /// What happened: `charge.dispute.created`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it happened.
    pub at: Timestamp,
    /// How the payment stood at the provider when it was looked at, in its words.
    pub standing: String,
    /// Whether that agreed with the status here at the time.
    pub agrees: bool,
}

/// Keeps an event; says whether it is news.
pub async fn keep(
    tx: &mut Tx,
    event_id: &str,
    event_type: &str,
    hold: &str,
    at: Timestamp,
) -> Result<bool, Error> {
    let kept = tx
        .execute(
            "INSERT INTO provider_event (event_id, type, hold, happened_us) VALUES ($1, $2, $3, $4)
             ON CONFLICT (event_id) DO NOTHING",
            params![event_id, event_type, hold, at],
        )
        .await?;
    Ok(kept == 1)
}

/// The status here of the payment that the provider calls `hold`; `None` if it is none of ours. Nothing is locked: it is
/// only compared with.
pub async fn status_of(tx: &mut Tx, order_id: &str, hold: &str) -> Result<Option<Status>, Error> {
    let rows = tx
        .query(
            "SELECT status FROM payment WHERE order_id = $1 AND (provider_ref IS NULL OR provider_ref = $2)",
            params![order_id, hold],
        )
        .await?;
    rows.first().map(|row| word(row, 0)).transpose()
}

/// Notes how the payment stood when it was looked at.
pub async fn note(
    tx: &mut Tx,
    event_id: &str,
    order_id: &str,
    standing: &Standing,
    status: Status,
) -> Result<(), Error> {
    let now = tx.now();
    tx.execute(
        "UPDATE provider_event SET order_id = $1, standing = $2, status = $3, looked_us = $4 WHERE event_id = $5",
        params![order_id, &standing.words, <&str>::from(status), now, event_id],
    )
    .await
    .map(|_| ())
}

/// Forgets an event that is not about an order of ours.
pub async fn forget(tx: &mut Tx, event_id: &str) -> Result<(), Error> {
    tx.execute("DELETE FROM provider_event WHERE event_id = $1", params![event_id]).await.map(|_| ())
}

/// The events of an order's payment, newest first.
pub async fn of_order(store: &Store, order_id: &str) -> Result<Vec<ProviderEvent>, Error> {
    let rows = store
        .query(
            "SELECT event_id, type, happened_us, standing, status FROM provider_event
             WHERE order_id = $1 ORDER BY n DESC LIMIT $2",
            params![order_id, SHOWN_MAX],
        )
        .await?;
    let events = rows.iter().map(|row| {
        let (standing, status): (String, String) = (row.get(3)?, row.get(4)?);
        let agrees = status.parse().is_ok_and(|status| agrees(status, &standing));
        Ok(ProviderEvent { id: row.get(0)?, event_type: row.get(1)?, at: row.get(2)?, standing, agrees })
    });
    events.collect()
}
