//! The walk through both books: first the provider's, then the ledger, a page at a time.

use std::borrow::Cow;
use std::collections::HashMap;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use tidings::{EffectError, Error, Store};

use super::compare::{Comparison, compare, missing_there};
use super::{ReconciliationLine, ReconciliationPage};
use crate::domain::Status;
use crate::gateway::PaymentGateway;
use crate::gateway::book::{BookSpan, ProviderPayment};
use crate::store::ledger::{self, LedgerPayment};

/// Payments that are asked for at the provider at once: few, so that those of customers go first.
const ASKED_AT_ONCE: usize = 8;
/// Pages of the provider's book that are read to find the payments of a page of the ledger; those that are not on
/// them are asked for one by one.
const PAGES_MAX: usize = 3;
/// Most payments on a page of the provider's book.
const PAGE: u32 = 100;
/// The largest time by which payments are made at the provider after they are opened here, mostly.
const DELAY: SignedDuration = SignedDuration::from_secs(5);
/// The largest time by which payments are out of order in the ledger: several processes write it.
const DISORDER: SignedDuration = SignedDuration::from_mins(10);
/// The longest name of a payment that a cursor has.
const NAME_CHARS_MAX: usize = 255;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum WalkCursor {
    /// In the provider's book, after this payment.
    Provider(String),
    /// In the ledger, before the payment of this number.
    Ledger(i64),
}

impl TryFrom<String> for WalkCursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_name = |name: &&str| {
            (1..=NAME_CHARS_MAX).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        let provider =
            text.strip_prefix("provider.").filter(is_name).map(|name| Self::Provider(name.to_owned()));
        let ledger = || text.strip_prefix("ledger.")?.parse().ok().filter(|n| *n >= 0).map(Self::Ledger);
        provider.or_else(ledger).ok_or("the cursor is not one that a reconciliation gave out")
    }
}

impl std::fmt::Display for WalkCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider(name) => write!(f, "provider.{name}"),
            Self::Ledger(n) => write!(f, "ledger.{n}"),
        }
    }
}

impl JsonSchema for WalkCursor {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "WalkCursor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(provider\\.[A-Za-z0-9_-]{1,255}|ledger\\.[0-9]{1,19})$",
            "description": "Where the page begins: `next_cursor` of the page before",
        })
    }
}

/// The reason that a page could not be compared.
pub enum WalkError {
    /// The provider did not answer.
    Provider(EffectError),
    /// The provider keeps no book.
    NoBook,
    Store(Error),
}

impl From<Error> for WalkError {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

impl From<EffectError> for WalkError {
    fn from(e: EffectError) -> Self {
        Self::Provider(e)
    }
}

/// A payment that seems to differ: its order, and the provider's name for it.
type Doubtful = (String, String);

/// Both books, and the period of which they are compared: whole seconds.
pub struct BookWalk<'a, G> {
    pub store: &'a Store,
    pub gateway: &'a G,
    pub since: Timestamp,
    pub until: Timestamp,
    pub limit: u32,
}

impl<G: PaymentGateway> BookWalk<'_, G> {
    /// Compares a page.
    ///
    /// # Errors
    /// One of the books cannot be read.
    pub async fn page(&self, cursor: Option<WalkCursor>) -> Result<ReconciliationPage, WalkError> {
        match cursor {
            None => self.provider(None).await,
            Some(WalkCursor::Provider(after)) => self.provider(Some(after)).await,
            Some(WalkCursor::Ledger(n)) => self.ledger(n).await,
        }
    }

    /// Looks each payment of the provider's book up in the ledger.
    async fn provider(&self, after: Option<String>) -> Result<ReconciliationPage, WalkError> {
        let span = BookSpan { since: self.since, until: self.until, after, limit: self.limit };
        let Some(book) = self.gateway.book(&span).await? else { return Err(WalkError::NoBook) };
        let mut page = ReconciliationPage::new(self.since, self.until);
        let mut doubtful = Vec::new();
        for there in &book.payments {
            let Some(order_id) = &there.order_id else { continue };
            page.seen_at_provider += 1;
            let here = ledger::of_order(self.store, order_id).await?;
            if let Comparison::Differ(..) = compare(here.as_ref(), there) {
                doubtful.push((order_id.clone(), there.reference.clone()));
            }
        }
        page.items = self.confirm(doubtful).await?;
        let last = book.payments.last().filter(|_| book.has_more);
        let next =
            last.map_or(WalkCursor::Ledger(i64::MAX), |last| WalkCursor::Provider(last.reference.clone()));
        page.next_cursor = Some(next.to_string());
        Ok(page)
    }

    /// Looks each payment of the ledger up in the provider's book.
    async fn ledger(&self, n: i64) -> Result<ReconciliationPage, WalkError> {
        let mut page = ReconciliationPage::new(self.since, self.until);
        let rows = ledger::before(self.store, n, self.until, self.limit).await?;
        let is_last = rows.len() < self.limit as usize;
        let next = rows.last().filter(|row| !is_last && row.created + DISORDER >= self.since);
        page.next_cursor = next.map(|row| WalkCursor::Ledger(row.n).to_string());
        let rows: Vec<LedgerPayment> = rows.into_iter().filter(|row| row.created >= self.since).collect();
        page.seen_here = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let known = self.made_about_then(&rows).await?;
        let (mut doubtful, mut unseen) = (Vec::new(), Vec::new());
        for row in rows {
            if let Some(operation) = row.status.under_way() {
                let key = format!("{}/{}", operation.name(), row.order_id);
                match self.store.is_effect_in_conflict(&key).await? {
                    true => page.items.push(self.in_conflict(row, &key).await?),
                    false => page.under_way.push(key),
                }
                continue;
            }
            match (row.status, row.provider_ref.clone()) {
                (_, Some(reference)) => match known.get(&reference) {
                    Some(there) => doubtful.extend(self.differs(&row, there)),
                    None => unseen.push((row, reference)),
                },
                // Refused, or over before it began.
                (Status::Declined | Status::Voided | Status::Unknown, None) => {}
                (_, None) => page.items.push(ReconciliationLine::nameless(row)),
            }
        }
        let asked = stream::iter(unseen).map(|(row, reference)| self.ask(row, reference));
        let asked: Vec<_> = asked.buffered(ASKED_AT_ONCE).try_collect().await?;
        doubtful.extend(asked.into_iter().flatten());
        page.items.extend(self.confirm(doubtful).await?);
        Ok(page)
    }

    /// The line of a payment that does not go on: the provider contradicts the effect of this key.
    async fn in_conflict(&self, row: LedgerPayment, key: &str) -> Result<ReconciliationLine, WalkError> {
        let there = match &row.provider_ref {
            Some(reference) => self.gateway.payment(reference).await?,
            None => None,
        };
        Ok(ReconciliationLine::in_conflict(row, key, there))
    }

    /// Asks the provider for one payment; the payment, if there is doubt about it.
    async fn ask(&self, row: LedgerPayment, reference: String) -> Result<Option<Doubtful>, WalkError> {
        Ok(match self.gateway.payment(&reference).await? {
            Some(there) => self.differs(&row, &there),
            None => Some((row.order_id, reference)),
        })
    }

    /// The payment, if it differs and the provider's book of the period does not have it: else it was seen there.
    fn differs(&self, row: &LedgerPayment, there: &ProviderPayment) -> Option<Doubtful> {
        let is_seen = (self.since..self.until).contains(&there.created) && there.order_id.is_some();
        let differs = matches!(compare(Some(row), there), Comparison::Differ(..));
        (differs && !is_seen).then(|| (row.order_id.clone(), there.reference.clone()))
    }

    /// The payments that the provider made when these were opened, by its names for them; not all, if they are many.
    async fn made_about_then(
        &self,
        rows: &[LedgerPayment],
    ) -> Result<HashMap<String, ProviderPayment>, WalkError> {
        let mut known = HashMap::new();
        let times = rows.iter().filter(|row| row.provider_ref.is_some()).map(|row| row.created);
        let Some((first, last)) = times.clone().min().zip(times.max()) else { return Ok(known) };
        let mut span = BookSpan { since: first, until: last + DELAY, after: None, limit: PAGE };
        for _ in 0..PAGES_MAX {
            let Some(book) = self.gateway.book(&span).await? else { return Err(WalkError::NoBook) };
            span.after = book.payments.last().map(|last| last.reference.clone());
            known.extend(book.payments.into_iter().map(|there| (there.reference.clone(), there)));
            if !book.has_more {
                break;
            }
        }
        Ok(known)
    }

    /// The lines of payments that seem to differ.
    async fn confirm(&self, doubtful: Vec<Doubtful>) -> Result<Vec<ReconciliationLine>, WalkError> {
        let looks = stream::iter(doubtful).map(|(order_id, reference)| self.look_again(order_id, reference));
        let lines: Vec<_> = looks.buffered(ASKED_AT_ONCE).try_collect().await?;
        Ok(lines.into_iter().flatten().collect())
    }

    /// Looks once more, since either book may have moved on between the first two looks.
    async fn look_again(
        &self,
        order_id: String,
        reference: String,
    ) -> Result<Option<ReconciliationLine>, WalkError> {
        let before = ledger::of_order(self.store, &order_id).await?;
        let there = self.gateway.payment(&reference).await?;
        let here = ledger::of_order(self.store, &order_id).await?;
        // An external call began or ended meanwhile: it is compared when this is asked for again.
        if before != here {
            return Ok(None);
        }
        let comparison = match (&here, &there) {
            (here, Some(there)) => compare(here.as_ref(), there),
            (Some(here), None) => missing_there(here, &reference),
            (None, None) => Comparison::Agree,
        };
        let Comparison::Differ(difference, todo) = comparison else { return Ok(None) };
        Ok(Some(ReconciliationLine::new(difference, todo, order_id, reference, here, there)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_one_that_was_given_out() {
        for cursor in
            [WalkCursor::Provider("pi_1".to_owned()), WalkCursor::Ledger(17), WalkCursor::Ledger(i64::MAX)]
        {
            assert_eq!(WalkCursor::try_from(cursor.to_string()), Ok(cursor));
        }
        for wrong in
            ["", "provider.", "provider.a b", "provider.../x", "ledger.", "ledger.-1", "ledger.x", "17"]
        {
            assert!(WalkCursor::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
