//! What each metric of `/metrics` is, in words.

/// Metrics whose names do not end in `_total` go up and down.
const HELP: [(&str, &str); 29] = [
    (
        "consumer_conflicts_total",
        "Batches that another transaction was in the way of; they were handled again.",
    ),
    ("consumer_lag_records", "Records on the topics that the consumer group has not read."),
    ("consumer_paused_seconds", "How long the consumer has been waiting for something that is away."),
    (
        "consumer_stalled_seconds",
        "How long the consumer has made no progress although there is something to do.",
    ),
    ("dead_rows", "Events that wait for an operator."),
    ("effects_done_total", "Deeds in the outside world that were done."),
    ("effects_failed_total", "Attempts of deeds that failed."),
    ("effects_failing", "Deeds that failed and will be tried again."),
    ("effects_open", "Deeds and timers that are not done."),
    ("inbox_delivered_total", "Records that were delivered."),
    ("inbox_differing_total", "Events under a number or id that another event had before."),
    ("inbox_gaps_total", "Events that came before their turn."),
    ("inbox_records_total", "What became of delivered records."),
    ("log_lines_dropped_total", "Log lines that nobody read in time."),
    ("loop_tries", "Attempts of a loop since it last made progress."),
    ("loop_waiting_seconds", "How long a loop has been waiting, and for what."),
    ("outbox_blocked_total", "Events that the broker did not accept."),
    ("outbox_lane_lease_lost_total", "Leases of lanes that another instance took over."),
    ("outbox_oldest_pending_seconds", "Age of the oldest event that the broker has not acknowledged."),
    ("outbox_pending_rows", "Events that the broker has not acknowledged."),
    ("outbox_blocked_rows", "Events that the broker refused when it was last asked."),
    ("outbox_published_total", "Events that the broker has acknowledged."),
    ("outbox_send_failures_total", "Attempts to send an event that failed."),
    ("parked_given_up_total", "Parked events that became dead letters."),
    ("parked_recovered_total", "Parked events that were handled in the end."),
    ("parked_rows", "Events that wait for their turn again."),
    ("parked_unstorable_total", "Records that were buried without what could not be stored of them."),
    ("relay_lanes", "Lanes of the outbox that this instance relays."),
    ("store_up", "Whether the database answers: 1 or 0. Without it, rows are not counted."),
];

/// Tells the recorder in use.
pub(super) fn describe() {
    for (name, words) in HELP {
        if name.ends_with("_total") {
            metrics::describe_counter!(name, words);
        } else {
            metrics::describe_gauge!(name, words);
        }
    }
}
