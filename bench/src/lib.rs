//! The measurements: the steps of the pipeline beside the raw client, and the whole shop.

pub mod events;
pub mod faults;
pub mod instructions;
#[cfg(feature = "kafka")]
pub mod servers;
pub mod raw;
pub mod shop;
pub mod steps;
