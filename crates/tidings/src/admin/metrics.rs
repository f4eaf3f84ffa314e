//! `/metrics`: the status of each service in Prometheus' text format, gathered when asked for, so that counting costs
//! nothing. `docs/metrics.md` lists the names.

use std::collections::BTreeMap;

use metrics::with_local_recorder;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::histograms;
use crate::runtime::RunningService;
use crate::status::{Loop, Status, Stopped};
use crate::store::pauses::{Pauses, Scope};
use crate::telemetry;

/// A metric of a service: its name, what it is in words, and its value if that is known.
type Metric = (&'static str, &'static str, fn(&Status) -> Option<u64>);

/// Metrics whose names end in `_total` count; others go up and down.
#[rustfmt::skip]
const METRICS: [Metric; 35] = [
    ("consumer_conflicts_total", "Batches that another transaction was in the way of; they were handled again.", |s| Some(s.consumer.conflicts)),
    ("consumer_lag_records", "Records on the topics that the consumer group has not read.", |s| s.consumer.lag),
    ("consumer_lag_seconds", "Time since the broker took the oldest record that the consumer group has not read.", oldest_unread),
    ("consumer_lanes", "Transactions of a consumer that may be under way at once, where that is more than one.", |s| Some(s.consumer.lanes?.all)),
    ("consumer_lanes_busy", "Transactions of a consumer with lanes that are under way.", |s| Some(s.consumer.lanes?.busy)),
    ("consumer_paused_seconds", "How long the consumer has been waiting for something that is away.", |s| Some(consumer_loop(s).map_or(0, |stopped| stopped.seconds))),
    ("consumer_stalled_seconds", "How long the consumer has made no progress although there is something to do.", |s| Some(consumer_loop(s).filter(|stopped| stopped.is_unready()).map_or(0, |stopped| stopped.seconds))),
    ("dead_oldest_seconds", "Time since the first failure of the oldest dead letter.", |s| Some(s.parked.as_ref()?.dead_oldest_seconds.unwrap_or(0))),
    ("dead_rows", "Events that wait for an operator.", |s| Some(s.parked.as_ref()?.dead)),
    ("effects_done_total", "Effects that were done.", |s| Some(s.effects.done)),
    ("effects_failed_total", "Attempts of effects that failed.", |s| Some(s.effects.failed)),
    ("effects_failing", "Effects that failed and will be tried again.", |s| Some(s.effects.rows.as_ref()?.failing)),
    ("effects_open", "Effects and timers that are not done.", |s| Some(s.effects.rows.as_ref()?.open)),
    ("inbox_blocked_keys", "Keys whose later events wait for a dead letter.", |s| Some(s.parked.as_ref()?.blocked_keys)),
    ("inbox_blocked_oldest_seconds", "Time since the first failure of the oldest dead letter that blocks a key.", |s| Some(s.parked.as_ref()?.blocked_oldest_seconds.unwrap_or(0))),
    ("inbox_delivered_total", "Records that were delivered.", |s| Some(s.consumer.delivered)),
    ("inbox_differing_total", "Events under a number or id that another event had before.", |s| Some(s.consumer.differing)),
    ("inbox_gap_streams", "Streams that wait for events that have not arrived.", |s| Some(s.parked.as_ref()?.gap_streams)),
    ("inbox_gaps_total", "Events that came before their turn.", |s| Some(s.consumer.gaps)),
    ("outbox_blocked_total", "Events that the broker did not accept.", |s| Some(s.outbox.refused)),
    ("outbox_lane_lease_lost_total", "Leases of lanes that another instance took over.", |s| Some(s.outbox.lanes_lost)),
    ("outbox_oldest_pending_seconds", "Age of the oldest event that the broker has not acknowledged.", |s| Some(s.outbox.rows.as_ref()?.oldest_seconds.unwrap_or(0))),
    ("outbox_pending_rows", "Events that the broker has not acknowledged.", |s| Some(s.outbox.rows.as_ref()?.pending)),
    ("outbox_blocked_rows", "Events that the broker refused when it was last asked.", |s| Some(s.outbox.rows.as_ref()?.blocked)),
    ("outbox_published_total", "Events that the broker has acknowledged.", |s| Some(s.outbox.published)),
    ("outbox_send_failures_total", "Attempts to send an event that failed.", |s| Some(s.outbox.failed)),
    ("parked_failed_again_total", "Tries of parked events that failed again.", |s| Some(s.consumer.failed_again)),
    ("parked_given_up_total", "Parked events that became dead letters.", |s| Some(s.consumer.given_up)),
    ("parked_oldest_seconds", "Time since the first failure of the oldest event that waits for its turn again.", |s| Some(s.parked.as_ref()?.oldest_seconds.unwrap_or(0))),
    ("parked_recovered_total", "Parked events that were handled in the end.", |s| Some(s.consumer.recovered)),
    ("parked_rows", "Events that wait for their turn again.", |s| Some(s.parked.as_ref()?.waiting)),
    ("parked_unstorable_total", "Records that were buried without what could not be stored of them.", |s| Some(s.consumer.unstorable)),
    ("relay_lanes", "Lanes of the outbox that this instance relays.", |s| Some(s.outbox.lanes)),
    ("retries_left", "Failed retries that may still come at once; 0 while one event is tried each second.", |s| Some(s.consumer.retries_left)),
    ("store_up", "Whether the database answers: 1 or 0. Without it, rows are not counted.", |s| Some(u64::from(s.parked.is_some()))),
];

/// Metrics with labels of their own, or that no status has.
const LABELLED: [(&str, &str); 12] = [
    ("breaker_open", "Whether a provider of effects counts as down: 1 or 0."),
    ("dependency_away_seconds", "How long a dependency that handlers have named has been away."),
    ("effects_conflict", "Effects that their provider contradicts; they wait for an operator."),
    (
        "handler_blocking_total",
        "Calls of a handler that held their thread for half a second or longer without yielding, by type.",
    ),
    (
        "handler_failures_total",
        "Calls of a handler that failed, by the type of its events and the kind of failure.",
    ),
    ("http_shed_total", "Requests that were refused since too much waits, by the bound that was reached."),
    (
        "inbox_conservation_difference",
        "Delivered records less those handled, duplicate, ignored, parked or dead: always 0.",
    ),
    ("inbox_records_total", "What became of delivered records."),
    ("log_lines_dropped_total", "Log lines that nobody read in time."),
    ("loop_tries", "Attempts of a loop since it last made progress."),
    ("loop_waiting_seconds", "How long a loop has been waiting, and for what."),
    (
        "paused",
        "Whether a service, a topic, a type or a kind of effects is paused: 1 or 0; of keys, how many.",
    ),
];

/// Renders the metrics of services.
pub(super) async fn render(services: &[RunningService]) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, describe);
    for service in services {
        let status = service.counted().await;
        let conflicts = match status.effects.rows {
            Some(_) => service.effects_in_conflict().await,
            None => None,
        };
        with_local_recorder(&recorder, || {
            record(service.name(), &status);
            record_failures(service);
            record_holds(service, &status);
            if let Some(count) = conflicts {
                metrics::gauge!("effects_conflict", "service" => service.name().to_owned()).set(count as f64);
            }
        });
    }
    with_local_recorder(&recorder, || {
        metrics::counter!("log_lines_dropped_total").absolute(telemetry::dropped_lines());
    });
    let mut text = recorder.handle().render();
    histograms::render(services, &mut text);
    text
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
    for (reason, count) in &status.intake.refused {
        metrics::counter!("http_shed_total", "service" => service.clone(), "reason" => *reason)
            .absolute(*count);
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

/// Counts of failures of handlers, and of records that are not accounted for.
fn record_failures(service: &RunningService) {
    let name = service.name().to_owned();
    for (event_type, kind, count) in service.failed_calls() {
        metrics::counter!("handler_failures_total", "service" => name.clone(), "type" => event_type, "kind" => kind)
            .absolute(count);
    }
    for (event_type, count) in service.blocking_calls() {
        metrics::counter!("handler_blocking_total", "service" => name.clone(), "type" => event_type)
            .absolute(count);
    }
    metrics::gauge!("inbox_conservation_difference", "service" => name)
        .set(service.inbox_difference() as f64);
}

/// Gauges of everything that is held back, by an operator or by a breaker.
fn record_holds(service: &RunningService, status: &Status) {
    let name = service.name().to_owned();
    for ((scope, held), count) in paused(&service.store().pauses()) {
        metrics::gauge!("paused", "service" => name.clone(), "scope" => <&str>::from(scope), "name" => held.to_owned())
            .set(count as f64);
    }
    for away in &status.dependencies {
        metrics::gauge!("dependency_away_seconds", "service" => name.clone(), "name" => away.name)
            .set(away.seconds as f64);
    }
    for (provider, is_down) in service.providers_down() {
        metrics::gauge!("breaker_open", "service" => name.clone(), "provider" => provider)
            .set(f64::from(u8::from(is_down)));
    }
}

/// Pauses by scope and name; keys are counted and not named, since they may be many. Each scope is there, so that a
/// pause that ends is seen to end.
fn paused(pauses: &Pauses) -> BTreeMap<(Scope, &str), u64> {
    let scopes = [Scope::Service, Scope::Topic, Scope::Type, Scope::Key, Scope::Effects];
    let mut paused: BTreeMap<(Scope, &str), u64> = scopes.map(|scope| ((scope, ""), 0)).into();
    for pause in pauses.iter() {
        let name = if pause.scope == Scope::Key { "" } else { &*pause.name };
        *paused.entry((pause.scope, name)).or_default() += 1;
    }
    paused
}

/// The age of the oldest unread record; 0 if there is none, unknown if it could not be read.
fn oldest_unread(status: &Status) -> Option<u64> {
    match status.consumer.lag? {
        0 => Some(0),
        _ => status.consumer.oldest_unread_seconds,
    }
}

/// The loop that handles what was read, if it does not go on.
fn consumer_loop(status: &Status) -> Option<&Stopped> {
    status.waiting.iter().find(|stopped| stopped.of == Loop::Consume)
}
