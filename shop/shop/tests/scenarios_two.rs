//! The same scripts with two instances of each service, of which the second joins late and has a clock of its own.

#![cfg(feature = "kafka")]

#[path = "scenarios.rs"]
mod scenarios;
