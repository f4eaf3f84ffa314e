//! The building blocks of tests of `tidings`, and of services built on it.
//!
//! # Layout
//!
//! | Module | Is |
//! |---|---|
//! | [`TestApp`] | services under test: requests, typed events, time |
//! | [`conformance`] | what every broker and every store promises, one function per promise |
//! | [`fault`] | a store or an embedded broker that fails, and what a crash leaves behind |
//! | [`servers`] | a corner of a real PostgreSQL or Kafka for one test alone |
//! | [`stage`] | a broker, topics and running services of one test alone |
//! | [`wire`] | messages as other programs write them |
//! | [`event`] | an event type to test with |
//!
//! Nothing here sleeps to wait for something: [`eventually`] asks for a condition until a deadline.

mod app;
pub mod conformance;
pub mod event;
pub mod fault;
pub mod servers;
pub mod stage;
pub mod wire;
mod eventually;
mod scratch;

pub use app::{Answer, TestApp};
pub use eventually::{DEADLINE, eventually, within};
pub use scratch::Scratch;

/// Pages of `docs/` whose code is compiled and run by the tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/handlers.md")]
    struct Handlers;

    #[doc = include_str!("../../../docs/effects-and-timers.md")]
    struct EffectsAndTimers;

    #[doc = include_str!("../../../docs/testing.md")]
    struct Testing;

    #[doc = include_str!("../../../docs/transactions.md")]
    struct Transactions;
}
