//! The subscription of a service: topics, event types and their handlers, as one consumer group.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::handler::AnyHandler;
use crate::message::{Message, SUPERSEDED_BY};
use crate::retry::{HandlerOptions, RetryPolicy};

/// The events that a service handles, as one consumer group.
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
    /// The options of each handler, where they are not the default ones.
    pub(crate) options: Vec<Option<HandlerOptions>>,
    /// The policy of handlers without one.
    pub(crate) retry: RetryPolicy,
    /// The dead letters after which the service is paused.
    pub(crate) flood: FloodLimits,
    /// Transactions of its instances exclude each other.
    pub(crate) is_exclusive: bool,
    /// Transactions that may be under way at once.
    pub(crate) lanes: usize,
}

/// The transactions of a service that may be under way at once, if nothing else is said.
const LANES: usize = 1;

/// The dead letters after which a service is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloodLimits {
    /// In a row.
    pub(crate) in_a_row: u64,
    /// Of the last thousand or two events that a handler saw, in percent.
    pub(crate) percent: u8,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self { in_a_row: 1000, percent: 50 }
    }
}

/// The handler of a type, and the only topic from which the type counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    /// An index of [`Subscription::handlers`].
    pub(crate) handler: usize,
    pub(crate) topic: &'static str,
}

impl Subscription {
    /// A subscription of a group, to nothing yet.
    pub(crate) fn new(group: &str) -> Self {
        Self {
            group: group.into(),
            topics: Vec::new(),
            external_only: HashSet::new(),
            handlers: Vec::new(),
            external: HashSet::new(),
            types: HashMap::new(),
            former: HashMap::new(),
            options: Vec::new(),
            retry: RetryPolicy::default(),
            flood: FloodLimits::default(),
            is_exclusive: false,
            lanes: LANES,
        }
    }

    /// The number of transactions that may be under way at once.
    pub(crate) fn lanes(&self) -> usize {
        if self.is_exclusive { 1 } else { self.lanes }
    }

    /// The options of a handler.
    pub(crate) fn options(&self, handler: usize) -> HandlerOptions {
        let own = self.options.get(handler).copied().flatten();
        own.unwrap_or_else(|| HandlerOptions::new().retry(self.retry))
    }

    /// The options of the handler of a type; the default ones, if it has none.
    pub(crate) fn options_of(&self, event_type: &str) -> HandlerOptions {
        self.options(self.types.get(event_type).map_or(usize::MAX, |handled| handled.handler))
    }

    /// The longest pause of any handler.
    pub(crate) fn pause_max(&self) -> Duration {
        let pauses = (0..self.handlers.len()).map(|handler| self.options(handler).retry.delay_max);
        pauses.max().unwrap_or(self.retry.delay_max)
    }

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
