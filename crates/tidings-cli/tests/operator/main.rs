//! The operator's commands against processes that answer the admin API as `docs/admin-api.md` has it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod fake;

mod dlq;
mod large;
mod look;
mod mend;
mod replay;
