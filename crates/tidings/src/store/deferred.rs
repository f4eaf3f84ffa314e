//! Transactions that begin with their first statement: a handler that waits before it writes holds no connection and no
//! lock meanwhile.

use std::sync::Arc;

use super::database::Transaction;
use super::inbox::{self, SeqRange};
use super::{Store, Tx};
use crate::error::Error;
use crate::params;

/// The event of a deferred transaction: it was next in its stream, which is made sure of when the transaction begins.
#[derive(Clone, Debug)]
pub(crate) struct NextEvent {
    pub(crate) consumer: Arc<str>,
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) id: String,
}

impl NextEvent {
    /// True if it is next in its stream, as far as can be seen without a transaction.
    pub(crate) async fn is_next(&self, store: &Store) -> Result<bool, Error> {
        let sql = "SELECT seq, blocked FROM inbox WHERE stream = $1 AND consumer = $2";
        let rows = store.query(sql, params![&self.stream, &*self.consumer]).await?;
        let (last, is_blocked): (u64, bool) = match rows.first() {
            Some(row) => (row.get(0)?, row.get(1)?),
            None => (0, false),
        };
        Ok(self.seq == last + 1 && !is_blocked)
    }

    /// Moves the inbox onto it, in the transaction that has just begun.
    async fn take(self, tx: &mut Tx) -> Result<(), Error> {
        let range = SeqRange { stream: &self.stream, first: self.seq, last: self.seq, id: &self.id };
        match inbox::advance(tx, &self.consumer, &[range], &std::collections::HashSet::new()).await?[..] {
            [true] => Ok(()),
            _ => Err(Error::conflict(format!("event {} of {} is not next any more", self.seq, self.stream))),
        }
    }
}

impl Tx {
    /// A transaction that begins with its first statement, or with its commit.
    pub(crate) fn deferred(store: &Store, event: NextEvent) -> Self {
        let mut tx = Self::new(store.clone(), None);
        tx.next = Some(Box::new(event));
        tx
    }

    /// The transaction, begun if it has not been.
    pub(super) async fn unit(&mut self) -> Result<&mut Transaction, Error> {
        if let Some(next) = self.next.take() {
            let begun = Box::pin(self.begin(*next)).await;
            self.note(begun)?;
        }
        self.unit.as_mut().ok_or_else(|| Error::statement("the transaction did not begin"))
    }

    async fn begin(&mut self, next: NextEvent) -> Result<(), Error> {
        self.unit = Some(self.store.database().begin().await?);
        next.take(self).await
    }
}
