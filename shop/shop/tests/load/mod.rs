//! A shop under load and its books, both seen from outside: over HTTP alone.

#![allow(dead_code, reason = "each test program uses its own part of this")]

mod books;
mod customers;

#[allow(unused_imports, reason = "each test program takes what it needs")]
pub use books::{Clients, all, audit, settled};
pub use customers::{Load, Random, seed};
