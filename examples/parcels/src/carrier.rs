//! The carrier, which fetches parcels: somebody else's HTTP API.

use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tidings::axum::http::{Request, StatusCode};
use tidings::bytes::Bytes;
use tidings::prelude::*;

/// Asks the carrier to fetch a parcel; comes to a tracking number.
#[effect(kind = "fetch", key = id, outcome = String)]
pub struct Fetch {
    pub id: String,
}

/// The carrier's API at a URL.
pub struct Carrier(pub String);

impl Carrier {
    /// Returns what the carrier says of a pickup, if it knows of it.
    async fn ask(&self, method: &str, fetch: &Fetch, key: &str) -> Result<Option<String>, EffectError> {
        let unknown = |e: &dyn std::fmt::Display| EffectError::Unknown(e.to_string());
        let request = Request::builder().method(method).uri(format!("{}/pickups/{}", self.0, fetch.id));
        let request = request.header("idempotency-key", key).body(Empty::<Bytes>::new());
        let request = request.map_err(|e| EffectError::NotDone(e.to_string()))?;
        let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(HttpConnector::new());
        let answer = client.request(request).await.map_err(|e| unknown(&e))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| unknown(&e))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(text)),
            status if status.is_client_error() => Err(EffectError::NotDone(text)),
            _ => Err(EffectError::Unknown(text)),
        }
    }
}

impl EffectHandler<Fetch> for Carrier {
    async fn perform(&self, key: &str, fetch: &Fetch) -> Result<String, EffectError> {
        let number = self.ask("POST", fetch, key).await?;
        number.ok_or_else(|| EffectError::NotDone("the carrier does not fetch there".to_owned()))
    }

    async fn look_up(&self, key: &str, fetch: &Fetch) -> Result<Option<String>, EffectError> {
        self.ask("GET", fetch, key).await
    }

    async fn settle(&self, done: &[Settled<Fetch>], tx: &mut Tx) -> Result<(), HandlerError> {
        let rows = done.iter().map(|done| [(&done.outcome).into(), (&done.effect.id).into()]);
        tx.execute_many("UPDATE parcel SET tracking = $1 WHERE id = $2", rows).await?;
        Ok(())
    }
}
