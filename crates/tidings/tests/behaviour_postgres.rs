//! What `behaviour` says of services, with their stores in PostgreSQL; the broker is the embedded log, which can be made to fail.

#![cfg(feature = "kafka")]

#[path = "behaviour/consumer.rs"]
mod consumer;
#[path = "behaviour/dead_letters.rs"]
mod dead_letters;
#[path = "behaviour/door.rs"]
mod door;
#[path = "behaviour/declared.rs"]
mod declared;
#[path = "behaviour/effects.rs"]
mod effects;
#[path = "behaviour/faults.rs"]
mod faults;
#[path = "behaviour/holds.rs"]
mod holds;
#[path = "behaviour/instances.rs"]
mod instances;
#[path = "behaviour/lag.rs"]
mod lag;
#[path = "behaviour/lanes.rs"]
mod lanes;
#[path = "behaviour/operator.rs"]
mod operator;
#[path = "behaviour/metrics.rs"]
mod metrics;
#[path = "behaviour/plans.rs"]
mod plans;
#[path = "behaviour/reader.rs"]
mod reader;
#[path = "behaviour/redrive.rs"]
mod redrive;
#[path = "behaviour/relay.rs"]
mod relay;
#[path = "behaviour/replay.rs"]
mod replay;
#[path = "behaviour/restart.rs"]
mod restart;
#[path = "behaviour/routes.rs"]
mod routes;
#[path = "behaviour/shedding.rs"]
mod shedding;
#[path = "behaviour/starting.rs"]
mod starting;
#[path = "behaviour/takeover.rs"]
mod takeover;
#[path = "behaviour/timers.rs"]
mod timers;

use tidings_testkit::stage::Stage;

/// Where services play.
fn stage() -> Stage {
    Stage::on_postgres()
}
