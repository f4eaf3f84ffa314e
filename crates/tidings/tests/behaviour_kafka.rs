//! What `behaviour` says of services, on PostgreSQL and Kafka.

#![cfg(feature = "kafka")]

#[path = "behaviour/cluster.rs"]
mod cluster;
#[path = "behaviour/consumer.rs"]
mod consumer;
#[path = "behaviour/dead_letters.rs"]
mod dead_letters;
#[path = "behaviour/door.rs"]
mod door;
#[path = "behaviour/fenced.rs"]
mod fenced;
#[path = "behaviour/instances.rs"]
mod instances;
#[path = "behaviour/lag.rs"]
mod lag;
#[path = "behaviour/lanes.rs"]
mod lanes;
#[path = "behaviour/mock.rs"]
mod mock;
#[path = "behaviour/reader.rs"]
mod reader;
#[path = "behaviour/refused.rs"]
mod refused;
#[path = "behaviour/relay.rs"]
mod relay;
#[path = "behaviour/replay.rs"]
mod replay;
#[path = "behaviour/restart.rs"]
mod restart;
#[path = "behaviour/sharing.rs"]
mod sharing;

use tidings_testkit::stage::Stage;

/// Where services play.
fn stage() -> Stage {
    Stage::on_postgres_and_kafka()
}
