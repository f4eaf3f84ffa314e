//! What services see of the library: relay, consumer, dead letters, effects, restarts.
//!
//! Real stores, a real broker, real time; only [`tidings::Clock`] is put forward. Here on the embedded pair;
//! `behaviour_postgres` and `behaviour_kafka` are the same on the real servers.

mod consumer;
mod dead_letters;
mod door;
mod declared;
mod effects;
mod evolution;
mod faults;
mod holds;
mod killed;
mod files;
mod lag;
mod lanes;
mod metrics;
mod reader;
mod operator;
mod redrive;
mod relay;
mod replay;
mod restart;
mod routes;
mod shedding;
mod timers;

use tidings_testkit::stage::Stage;

/// Where services play.
fn stage() -> Stage {
    Stage::new()
}
