//! `/metrics`: the status of each service in Prometheus' text format, gathered when asked for, so that counting costs
//! nothing.

use metrics::with_local_recorder;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::runtime::RunningService;
use crate::status::{Loop, Status, Stopped};
use crate::telemetry;

/// A metric of a service: its name, what it is in words, and its value if that is known.
type Metric = (&'static str, &'static str, fn(&Status) -> Option<u64>);

/// Metrics whose names end in `_total` count; others go up and down.
#[rustfmt::skip]
const METRICS: [Metric; 25] = [
    ("consumer_conflicts_total", "Batches that another transaction was in the way of; they were handled again.", |s| Some(s.consumer.conflicts)),
    ("consumer_lag_records", "Records on the topics that the consumer group has not read.", |s| s.consumer.lag),
    ("consumer_paused_seconds", "How long the consumer has been waiting for something that is away.", |s| Some(consumer_loop(s).map_or(0, |stopped| stopped.seconds))),
    ("consumer_stalled_seconds", "How long the consumer has made no progress although there is something to do.", |s| Some(consumer_loop(s).filter(|stopped| stopped.is_unready()).map_or(0, |stopped| stopped.seconds))),
    ("dead_rows", "Events that wait for an operator.", |s| Some(s.parked.as_ref()?.dead)),
    ("effects_done_total", "Effects that were done.", |s| Some(s.effects.done)),
    ("effects_failed_total", "Attempts of effects that failed.", |s| Some(s.effects.failed)),
    ("effects_failing", "Effects that failed and will be tried again.", |s| Some(s.effects.rows.as_ref()?.failing)),
    ("effects_open", "Effects and timers that are not done.", |s| Some(s.effects.rows.as_ref()?.open)),
    ("inbox_delivered_total", "Records that were delivered.", |s| Some(s.consumer.delivered)),
    ("inbox_differing_total", "Events under a number or id that another event had before.", |s| Some(s.consumer.differing)),
    ("inbox_gaps_total", "Events that came before their turn.", |s| Some(s.consumer.gaps)),
    ("outbox_blocked_total", "Events that the broker did not accept.", |s| Some(s.outbox.refused)),
    ("outbox_lane_lease_lost_total", "Leases of lanes that another instance took over.", |s| Some(s.outbox.lanes_lost)),
    ("outbox_oldest_pending_seconds", "Age of the oldest event that the broker has not acknowledged.", |s| Some(s.outbox.rows.as_ref()?.oldest_seconds.unwrap_or(0))),
    ("outbox_pending_rows", "Events that the broker has not acknowledged.", |s| Some(s.outbox.rows.as_ref()?.pending)),
    ("outbox_blocked_rows", "Events that the broker refused when it was last asked.", |s| Some(s.outbox.rows.as_ref()?.blocked)),
    ("outbox_published_total", "Events that the broker has acknowledged.", |s| Some(s.outbox.published)),
    ("outbox_send_failures_total", "Attempts to send an event that failed.", |s| Some(s.outbox.failed)),
    ("parked_given_up_total", "Parked events that became dead letters.", |s| Some(s.consumer.given_up)),
    ("parked_recovered_total", "Parked events that were handled in the end.", |s| Some(s.consumer.recovered)),
    ("parked_rows", "Events that wait for their turn again.", |s| Some(s.parked.as_ref()?.waiting)),
    ("parked_unstorable_total", "Records that were buried without what could not be stored of them.", |s| Some(s.consumer.unstorable)),
    ("relay_lanes", "Lanes of the outbox that this instance relays.", |s| Some(s.outbox.lanes)),
    ("store_up", "Whether the database answers: 1 or 0. Without it, rows are not counted.", |s| Some(u64::from(s.parked.is_some()))),
];

/// Metrics with labels of their own.
const LABELLED: [(&str, &str); 4] = [
    ("inbox_records_total", "What became of delivered records."),
    ("log_lines_dropped_total", "Log lines that nobody read in time."),
    ("loop_tries", "Attempts of a loop since it last made progress."),
    ("loop_waiting_seconds", "How long a loop has been waiting, and for what."),
];

/// Renders the metrics of services.
pub(super) async fn render(services: &[RunningService]) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, describe);
    for service in services {
        let status = service.counted().await;
        with_local_recorder(&recorder, || record(service.name(), &status));
    }
    with_local_recorder(&recorder, || {
        metrics::counter!("log_lines_dropped_total").absolute(telemetry::dropped_lines());
    });
    recorder.handle().render()
}

fn describe() {
    let named = METRICS.iter().map(|(name, words, _)| (*name, *words));
    for (name, words) in named.chain(LABELLED) {
        if is_counter(name) {
            metrics::describe_counter!(name, words);
        } else {
            metrics::describe_gauge!(name, words);
        }
    }
}

fn is_counter(name: &str) -> bool {
    name.ends_with("_total")
}

fn record(service: &str, status: &Status) {
    let service = service.to_owned();
    for (name, _, read) in METRICS {
        let Some(value) = read(status) else { continue };
        if is_counter(name) {
            metrics::counter!(name, "service" => service.clone()).absolute(value);
        } else {
            metrics::gauge!(name, "service" => service.clone()).set(value as f64);
        }
    }
    for stopped in &status.waiting {
        let (of, reason) = stopped.names();
        let gauge = |metric: &'static str, value: u64| {
            metrics::gauge!(metric, "service" => service.clone(), "loop" => of, "reason" => reason)
                .set(value as f64);
        };
        gauge("loop_waiting_seconds", stopped.seconds);
        gauge("loop_tries", stopped.tries);
    }
    let consumer = &status.consumer;
    for (result, value) in [
        ("handled", consumer.handled),
        ("duplicate", consumer.duplicate),
        ("ignored", consumer.ignored),
        ("parked", consumer.parked),
        ("dead", consumer.dead),
    ] {
        metrics::counter!("inbox_records_total", "service" => service.clone(), "result" => result)
            .absolute(value);
    }
}

/// The loop that handles what was read, if it does not go on.
fn consumer_loop(status: &Status) -> Option<&Stopped> {
    status.waiting.iter().find(|stopped| stopped.of == Loop::Consume)
}
