//! The one way an event is handled, and the transactions that take it: all of a batch together, one by one, a parked
//! event again.

use super::decode::{Batch, HandlerBatch, Item, Task};
use super::progress::{Trouble, blame};
use super::{Pipeline, Resolution};
use crate::error::{Error, HandlerError};
use crate::store::deferred::NextEvent;
use crate::store::parked::{self, Parked};
use crate::store::{Tx, inbox};

/// The end of each event of a batch, as far as it was processed.
pub(super) type Resolutions = Vec<Option<Resolution>>;

/// The way in which the turn of events comes.
#[derive(Clone, Copy)]
pub(super) enum Turn<'a> {
    /// With their arrival.
    Arrival,
    /// With the arrival of one that is next in its stream: its transaction begins with its first statement.
    Next,
    /// Again: the batch is these parked events, of different streams.
    Parked(&'a [&'a Parked]),
}

impl Pipeline {
    /// Sees events of a batch through within a transaction: whether it is their turn, then their handlers, then what
    /// those published and asked for.
    pub(super) async fn process(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        items: &[usize],
        turn: Turn<'_>,
    ) -> Result<Resolutions, HandlerError> {
        let resolutions = match turn {
            Turn::Arrival => self.admit(tx, batch, items).await?,
            Turn::Next => vec![Some(Resolution::Handled); batch.items.len()],
            Turn::Parked(parked) => self.take_turns(tx, batch, parked).await?,
        };
        for list in &batch.lists {
            for range in list.runs(&resolutions) {
                list.events.handle(range, tx).await?;
            }
        }
        if let Turn::Parked(parked) = turn {
            parked::resolve(tx, &self.subscription.group, parked).await?;
        }
        tx.flush().await?;
        Ok(resolutions)
    }

    /// Moves the inbox onto parked events, if it is the turn of each.
    async fn take_turns(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        parked: &[&Parked],
    ) -> Result<Resolutions, HandlerError> {
        let numbered: Vec<(&str, u64, Option<&str>)> = parked
            .iter()
            .filter_map(|parked| Some((parked.stream.as_deref()?, parked.seq?, parked.event_id.as_deref())))
            .collect();
        let group = &self.subscription.group;
        let moved = inbox::move_to(tx, group, &numbered).await?;
        for (&(stream, seq, _), _) in numbered.iter().zip(moved).filter(|(_, moved)| !moved) {
            // Its stream may have gone on without it before it was brought back.
            if seq > inbox::lock(tx, group, &[stream]).await?[0].last {
                let behind = format!("it is not the turn of event {seq} of {stream}");
                return Err(HandlerError::Transient(behind));
            }
        }
        let resolution = |item: &Item| match &item.task {
            Task::Handle => Ok(Some(Resolution::Handled)),
            Task::Bury(broken) => Err(HandlerError::fatal(broken.reason.code(), &broken.message)),
            Task::Skip | Task::Ignore => Ok(Some(Resolution::Ignored)),
        };
        batch.items.iter().map(resolution).collect()
    }

    /// All of these events in one transaction. The inner error is one of theirs.
    pub(super) async fn together(
        &self,
        batch: &Batch,
        items: &[usize],
    ) -> Result<Result<Resolutions, HandlerError>, Trouble> {
        let tx = self.begin().await?;
        self.process_in(tx, batch, items, Turn::Arrival).await
    }

    /// The only event of a batch in a transaction that begins with its first statement, so that a handler that waits
    /// before it writes holds nobody up; `None` if that is not certain to be its turn. The inner error is its own.
    pub(super) async fn deferred(
        &self,
        batch: &Batch,
    ) -> Result<Option<Result<Resolutions, HandlerError>>, Trouble> {
        let [item] = &batch.items[..] else { return Ok(None) };
        let metadata = item.metadata.as_deref().filter(|_| matches!(item.task, Task::Handle));
        let Some((metadata, seq)) = metadata.and_then(|metadata| Some((metadata, metadata.seq?))) else {
            return Ok(None);
        };
        let figures = |list: &HandlerBatch| self.subscription.handlers[list.handler].figures();
        let is_slow = batch.lists.first().map(figures).is_some_and(|figures| {
            figures.is_slow() == Some(true) || figures.is_slow_key(metadata.key.as_bytes())
        });
        if !is_slow || self.subscription.is_exclusive || self.hold(item, None).is_some() {
            return Ok(None);
        }
        let (consumer, stream) = (self.subscription.group.clone(), metadata.stream.clone());
        let event = NextEvent { consumer, stream, seq, id: metadata.id.clone() };
        if !event.is_next(&self.store).await? {
            return Ok(None);
        }
        let tx = Tx::deferred(&self.store, event);
        self.process_in(tx, batch, &[0], Turn::Next).await.map(Some)
    }

    async fn process_in(
        &self,
        mut tx: Tx,
        batch: &Batch,
        items: &[usize],
        turn: Turn<'_>,
    ) -> Result<Result<Resolutions, HandlerError>, Trouble> {
        let processed = self.process(&mut tx, batch, items, turn).await;
        if let Some(trouble) = tx.trouble() {
            return Err(trouble.clone().into());
        }
        let resolutions = match processed {
            Ok(resolutions) => resolutions,
            Err(e) => return blame(e).map(Err),
        };
        let mut expected = self.flood.expect();
        if !expected.may_end(&resolutions, self.subscription.flood) {
            // One by one it is seen where the flood reaches its bound.
            return Ok(Err(HandlerError::Transient("too many events are dead letters".to_owned())));
        }
        match self.commit(tx).await {
            Ok(()) => {
                self.flood.note(resolutions.iter().copied().flatten());
                Ok(Ok(resolutions))
            }
            Err(e) if e.is_unavailable() || e.is_conflict() => Err(e.into()),
            Err(e) => Ok(Err(e.into())),
        }
    }

    /// Each of these events behind a savepoint, so that the culprit alone is parked or dead. Those behind the last dead
    /// letter that may be are left out.
    pub(super) async fn one_by_one(&self, batch: &Batch, items: &[usize]) -> Result<Resolutions, Trouble> {
        let mut tx = self.begin().await?;
        let mut resolutions = vec![None; batch.items.len()];
        let mut expected = self.flood.expect();
        for &item in items {
            let so_far = resolutions.iter().copied().flatten();
            if !expected.may_be_dead(so_far, self.subscription.flood) {
                break;
            }
            resolutions[item] = match self.try_alone(&mut tx, batch, item, Turn::Arrival).await? {
                Ok(resolutions) => resolutions[item],
                Err(e) => Some(self.fail(&mut tx, &batch.items[item], &blame(e)?).await?),
            };
            if resolutions[item] != Some(Resolution::Dead) {
                expected.is_not_dead();
            }
        }
        self.commit(tx).await?;
        self.flood.note(resolutions.iter().copied().flatten());
        Ok(resolutions)
    }

    /// Processes one event behind a savepoint, as often at once as its handler's policy says.
    pub(super) async fn try_alone(
        &self,
        tx: &mut Tx,
        batch: &Batch,
        item: usize,
        turn: Turn<'_>,
    ) -> Result<Result<Resolutions, HandlerError>, Error> {
        let mut tries_left = self.options(&batch.items[item]).retry.tries_at_once.max(1);
        loop {
            let processed = tx.attempt(async |tx| self.process(tx, batch, &[item], turn).await).await?;
            tries_left -= 1;
            match processed {
                Err(HandlerError::Transient(_)) if tries_left > 0 => {}
                processed => return Ok(processed),
            }
        }
    }

    /// Fails an event in a transaction that does nothing else.
    pub(super) async fn charge(
        &self,
        batch: &Batch,
        item: usize,
        trouble: &Trouble,
    ) -> Result<Resolutions, Trouble> {
        let mut tx = self.begin().await?;
        let mut resolutions = vec![None; batch.items.len()];
        let e = HandlerError::Transient(trouble.error.clone());
        resolutions[item] = Some(self.fail(&mut tx, &batch.items[item], &e).await?);
        self.commit(tx).await?;
        Ok(resolutions)
    }

    pub(super) async fn begin(&self) -> Result<Tx, Error> {
        match self.subscription.is_exclusive {
            true => self.store.begin_exclusive(&self.subscription.group).await,
            false => self.store.begin().await,
        }
    }
}
