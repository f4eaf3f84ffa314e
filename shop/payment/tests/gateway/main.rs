//! The adapter for the provider's HTTP API, against the sandbox provider, a broken one and the provider's mock.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod provider;
mod sandbox;
mod program;
mod left_open;
mod reconcile;
mod service;
mod troubles;
mod units;
mod webhook;
#[cfg(feature = "kafka")]
mod stripe_mock;
