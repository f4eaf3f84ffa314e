//! The subscription of a service: topics, event types and their handlers, as one consumer group.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::handler::AnyHandler;
use crate::message::{Message, SUPERSEDED_BY};
use crate::retry::RetryPolicy;

/// The events that a service handles, as one consumer group.
#[derive(Default)]
pub(crate) struct Subscription {
    pub(crate) group: Arc<str>,
    pub(crate) topics: Vec<String>,
    /// Topics of which only events of programs outside count.
    pub(crate) external_only: HashSet<String>,
    pub(crate) handlers: Vec<Arc<dyn AnyHandler>>,
    /// Event types that are taken from programs outside too.
    pub(crate) external: HashSet<&'static str>,
    /// Event types and their aliases.
    pub(crate) types: HashMap<&'static str, Dispatch>,
    /// Older event types that are read as newer ones.
    pub(crate) former: HashMap<&'static str, Dispatch>,
    pub(crate) retry: RetryPolicy,
    /// Transactions of its instances exclude each other.
    pub(crate) is_exclusive: bool,
}

/// The handler of a type, and the only topic from which the type counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    /// An index of [`Subscription::handlers`].
    pub(crate) handler: usize,
    pub(crate) topic: &'static str,
}

impl Subscription {
    /// The handler of events of a type. An older type is read as the newer one, unless its fact is published as
    /// that one too.
    pub(crate) fn handled(&self, event_type: &str, message: &Message) -> Option<Dispatch> {
        if let Some(&handled) = self.types.get(event_type) {
            return Some(handled);
        }
        let former = *self.former.get(event_type)?;
        let newer = message.header(SUPERSEDED_BY);
        let reads = |newer| self.types.get(newer).or_else(|| self.former.get(newer));
        let is_published_anew = newer.and_then(reads).is_some_and(|newer| newer.handler == former.handler);
        (!is_published_anew).then_some(former)
    }

    /// Tells whether a handler takes events of programs outside.
    pub(crate) fn welcomes(&self, handler: usize) -> bool {
        self.external.contains(self.handlers[handler].names().0)
    }
}
