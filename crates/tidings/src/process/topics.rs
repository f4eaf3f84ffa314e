//! `topics plan` and `topics apply`.

use super::say;
use crate::broker::Broker;
use crate::config::{Settings, Topics};
use crate::error::Error;
use crate::service::{Service, topic_specs};

/// Shows how topics differ from what they should be, or makes them so.
pub(crate) async fn command(services: &[Service], settings: &Settings, command: Topics) -> Result<(), Error> {
    let specs = topic_specs(services);
    let broker = Broker::open(&settings.broker)?;
    if command == Topics::Apply {
        for applied in broker.apply_plan(&specs, settings.partitions).await? {
            say(format_args!("done: {applied}"));
        }
    }
    let plan = broker.plan_topics(&specs, settings.partitions).await?;
    for drift in &plan {
        say(format_args!("{drift}"));
    }
    if plan.is_empty() {
        say(format_args!("{} topics are as they should be", specs.len()));
    }
    broker.close().await
}
