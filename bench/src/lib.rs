//! The measurements: the steps of the pipeline beside the raw client, the whole shop, and all of it for two builds.

pub mod against;
pub mod events;
pub mod faults;
pub mod instructions;
pub mod lanes;
pub mod machine;
pub mod programs;
pub mod raw;
#[cfg(feature = "kafka")]
pub mod servers;
pub mod shop;
pub mod steps;
