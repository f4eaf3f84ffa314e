//! What services see of the library: relay, consumer, dead letters, effects, restarts.
//!
//! Real stores, a real broker, real time; only [`tidings::Clock`] is put forward.

mod consumer;
mod dead_letters;
mod effects;
mod reader;
mod relay;
mod restart;
