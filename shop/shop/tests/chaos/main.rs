//! Chaos: the three programs on Apache Kafka and PostgreSQL, while brokers, databases, processes and
//! topics come to grief under load. Afterwards the books are checked from outside: every accepted order is
//! there once and has ended, ledgers sum up to 0, no piece of stock appears or vanishes, every stream is
//! complete and in order on its topic, and there is no dead letter.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../load/mod.rs"]
mod load;
#[path = "../process/mod.rs"]
mod process;
#[path = "../programs/mod.rs"]
mod programs;

mod broker;
mod commits;
mod cutter;
mod database;
mod instances;
mod provider;
mod starts;
mod stops;
mod streams;
mod topics;
mod deployment;
