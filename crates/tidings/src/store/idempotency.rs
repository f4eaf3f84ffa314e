//! Answers to requests that may be repeated, kept with what the request did.

use super::{Param, Tx};
use crate::error::Error;
use crate::params;

/// A request's claim to be handled once.
///
/// ```
/// # use tidings::{Idempotency, StoredResponse, prelude::*};
/// /// A route that is made by hand. One that `Service::post` names does all of it.
/// async fn pay(tx: &mut Tx, claim: &Idempotency) -> Result<String, HandlerError> {
///     let answer = r#"{"paid": true}"#;
///     match tx.save_response(claim, 201, answer).await? {
///         None => Ok(answer.to_owned()), // new: now do it
///         Some(StoredResponse::Replay { answer, .. }) => Ok(answer),
///         Some(_) => Err(HandlerError::fatal("key_reused", &claim.key)),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// Method and path.
    pub route: &'static str,
    /// The `Idempotency-Key` that the client sent.
    pub key: String,
    /// SHA-256 of the body: another body under the same key is another request.
    pub fingerprint: [u8; 32],
}

/// The record of a key that was used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredResponse {
    /// The same request: this was the answer.
    Replay {
        /// HTTP status.
        status: u16,
        /// JSON body.
        answer: String,
    },
    /// Another request.
    Mismatch,
}

impl Tx {
    /// Keeps the answer to a request under its key. If the key was used before, keeps nothing and
    /// says what is known; the caller must then do nothing else for this request.
    ///
    /// # Errors
    /// An unusable database.
    pub async fn save_response(
        &mut self,
        request: &Idempotency,
        status: u16,
        answer: &str,
    ) -> Result<Option<StoredResponse>, Error> {
        self.save_responses(status, &[(request, answer)]).await.map(|mut one| one.remove(0))
    }

    /// Keeps the answers to many requests, in one round trip; returns what is known of each.
    ///
    /// # Errors
    /// An unusable database.
    pub async fn save_responses(
        &mut self,
        status: u16,
        answers: &[(&Idempotency, &str)],
    ) -> Result<Vec<Option<StoredResponse>>, Error> {
        let now = self.now();
        let rows = answers.iter().map(|(request, answer)| {
            [
                Param::from(request.route),
                Param::from(&request.key),
                Param::from(&request.fingerprint[..]),
                Param::from(status),
                Param::from(*answer),
                Param::from(now),
            ]
        });
        let inserted = self
            .execute_many(
                "INSERT INTO idempotency_key (route, key, fingerprint, status, answer, created_us)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (route, key) DO NOTHING",
                rows,
            )
            .await?;
        let mut before = Vec::with_capacity(answers.len());
        for ((request, _), inserted) in answers.iter().zip(inserted) {
            before.push(if inserted == 1 { None } else { self.find_response(request).await? });
        }
        Ok(before)
    }

    /// Returns what is known of a key.
    ///
    /// # Errors
    /// An unusable database.
    pub async fn find_response(&mut self, request: &Idempotency) -> Result<Option<StoredResponse>, Error> {
        let rows = self
            .query(
                "SELECT fingerprint, status, answer FROM idempotency_key WHERE route = $1 AND key = $2",
                params![request.route, &request.key],
            )
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let fingerprint: Vec<u8> = row.get(0)?;
        if fingerprint != request.fingerprint {
            return Ok(Some(StoredResponse::Mismatch));
        }
        Ok(Some(StoredResponse::Replay { status: row.get(1)?, answer: row.get(2)? }))
    }
}
