//! JSON Schemas (2020-12) of events, without anything running: what a document breaks, what a change of a
//! schema breaks, and which revisions were released before.
//!
//! A crate of its own because services, the operator's command and the chores all need it, and only services
//! need the rest of the library.
//!
//! # Layout
//!
//! A *writer schema* says exactly what is published: it is [`closed`]. Its *reader schema* takes what is not
//! known yet: it is [`opened`]. [`check`] finds what a document breaks, [`changes`] how two writer schemas
//! differ and whom that harms, [`Baseline`] keeps every released revision, [`gate`] puts all of it together.
//! Beside it, [`moment`] reads times as people write them, in queries of services as in flags of the command.

mod form;
mod check;
mod change;
mod contract;
mod baseline;
mod gate;
mod sample;
mod moment;

pub use baseline::{Baseline, Error, Revision};
pub use change::{Breaks, Change, Remedy, changes};
pub use check::{Violation, check};
pub use contract::{Contract, EventContract, merge};
pub use form::{closed, listed, opened, resolve, written};
pub use gate::{Finding, Report, gate};
pub use moment::moment;
pub use sample::sample;

/// The mark of an open enum: property values that are not among those listed are still accepted.
pub const OPEN_ENUM: &str = "x-open-enum";
/// The value that readers give a required property which older events do not have.
pub const UPCAST: &str = "x-upcast";
/// Other names of a property that are understood on input, and never written.
pub const ALIASES: &str = "x-aliases";
/// The pattern of text that every store can hold: without U+0000 (`\x00` is understood by every dialect).
pub const TEXT_PATTERN: &str = r"^[^\x00]*$";
