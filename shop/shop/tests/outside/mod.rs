//! A shop under load and its books, both seen from outside: over HTTP alone.

mod books;
mod load;

pub use books::{audit, settled};
pub use load::{Load, Random, seed};
