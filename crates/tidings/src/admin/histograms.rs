//! Histograms of services in Prometheus' text format: the recorder keeps single values, and ours are counted already.

use std::fmt::{self, Write as _};

use crate::buckets::{BOUNDS_US, BucketCounts};
use crate::runtime::{RunningService, TimedFigure};

/// Histograms: their names and what they are in words.
const HISTOGRAMS: [(&str, &str); 5] = [
    ("commit_seconds", "Commits of transactions in which events were handled."),
    ("event_end_to_end_seconds", "From the time of a fact, by its source, until it was handled."),
    ("event_wait_seconds", "From the broker's time of a record until it was handled."),
    ("handle_seconds", "Calls of a handler: one event, or many where it handles batches."),
    ("outbox_seconds", "From the record of an event in the outbox until the broker acknowledged it."),
];

/// Adds the histograms of services to a text of metrics.
pub(super) fn render(services: &[RunningService], text: &mut String) {
    let timed: Vec<(&str, TimedFigure<'_>)> = services
        .iter()
        .flat_map(|service| service.timed().into_iter().map(|figure| (service.name(), figure)))
        .collect();
    for (name, words) in HISTOGRAMS {
        let mut of_name = timed.iter().filter(|(_, figure)| figure.name == name).peekable();
        if of_name.peek().is_none() {
            continue;
        }
        // Writing into a string does not fail.
        let _ = writeln!(text, "# HELP {name} {words}\n# TYPE {name} histogram");
        for (service, figure) in of_name {
            let _ = write_one(text, service, figure);
        }
        text.push('\n');
    }
}

fn write_one(text: &mut String, service: &str, figure: &TimedFigure<'_>) -> fmt::Result {
    let TimedFigure { name, label, counts: BucketCounts { up_to, sum_us } } = figure;
    // Names of services, topics and types have no character that would have to be escaped.
    let label = label.map_or(String::new(), |(name, value)| format!(",{name}=\"{value}\""));
    let labels = format!("service=\"{service}\"{label}");
    let bounds = BOUNDS_US.iter().map(|us| seconds(*us).to_string()).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(up_to) {
        writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
    }
    writeln!(text, "{name}_sum{{{labels}}} {}", seconds(*sum_us))?;
    writeln!(text, "{name}_count{{{labels}}} {}", up_to.last().unwrap_or(&0))
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
