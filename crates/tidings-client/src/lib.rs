//! Connections, targets and output that commands share.
//!
//! A command is a program for operators that talks to running services over HTTP: `tidings` serves services of any
//! kind, and a domain may have a command of its own.
//!
//! # Layout
//!
//! [`Target`] holds the addresses given with `--url`. [`Client`] is a connection to one of them. [`output`] draws
//! answers for people. [`Error`] is the one line an operator reads when something fails.

pub mod error;
pub mod client;
pub mod target;
pub mod output;

pub use client::{Answer, Client, Endpoint, percent_encoded};
pub use error::Error;
pub use output::Format;
pub use target::Target;
