//! The same scripts on PostgreSQL and Kafka: not a line of them, or of a service, is another.

#![cfg(feature = "kafka")]

#[path = "scenarios.rs"]
mod scenarios;
