//! The shop's command: it lists, shows and cancels orders, compares their payments with the provider's book, and puts
//! load on a running shop. It speaks HTTP only, so it works on any shop that keeps to the contract.
//!
//! # Layout
//!
//! One module a command: a `clap` struct and a `run`. `tidings_client` has what all commands share. A library beside
//! the program, because `tidings` still takes the old names of `orders` and `load`.

pub mod orders;
pub mod load;
pub mod reconcile;
