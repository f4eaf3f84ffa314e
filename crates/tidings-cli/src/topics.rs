//! `tidings topics` and `tidings lag`: who writes and reads what, and how much is unread.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};
use tidings_client::{Error, Format, Target, output};

use crate::draw;
use crate::list::whole;
use crate::services::Services;

/// Shows how far each group has read.
pub(crate) async fn lag(target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let rows = whole("/admin/lag", &["service", "group", "topic", "partition"], &mut services).await?;
    rows.print(format, &services, |rows| {
        let rows = &rows.iter().map(with_oldest).collect::<Vec<_>>();
        draw::table(
            &[
                ("SERVICE", &["service"]),
                ("GROUP", &["group"]),
                ("TOPIC", &["topic"]),
                ("PARTITION", &["partition"]),
                ("OFFSET", &["offset"]),
                ("END", &["end"]),
                ("LAG", &["lag"]),
                ("OLDEST", &["oldest"]),
            ],
            &[],
            rows,
            "nothing is read",
        )
    })
}

/// A row with the age of its oldest unread record in words.
fn with_oldest(row: &Value) -> Value {
    let mut row = row.clone();
    if let Some(seconds) = row["oldest_seconds"].as_u64() {
        row["oldest"] = draw::span(seconds).into();
    }
    row
}

/// Shows the topics of all services.
pub(crate) async fn list(target: &Target, format: Format) -> Result<ExitCode, Error> {
    let mut services = Services::of(target);
    let mut rows = whole("/admin/topics", &[], &mut services).await?;
    rows.items = merged(&rows.items);
    rows.print(format, &services, |topics| {
        let rows: Vec<Value> = topics.iter().map(row).collect();
        let columns: [(&str, &[&str]); 4] = [
            ("TOPIC", &["topic"]),
            ("PARTITIONS", &["partitions"]),
            ("WRITTEN BY", &["written_by"]),
            ("READ BY", &["read_by"]),
        ];
        if rows.is_empty() { "no topics".to_owned() } else { output::table(&columns, &rows) }
    })
}

/// Each topic once, with the services of all answers.
fn merged(topics: &[Value]) -> Vec<Value> {
    let mut by_name: BTreeMap<String, Value> = BTreeMap::new();
    for topic in topics {
        let name = topic["name"].as_str().unwrap_or_default().to_owned();
        let Some(known) = by_name.get_mut(&name) else {
            by_name.insert(name, topic.clone());
            continue;
        };
        let Some(services) = known["services"].as_array_mut() else { continue };
        for service in topic["services"].as_array().into_iter().flatten() {
            if !services.contains(service) {
                services.push(service.clone());
            }
        }
    }
    by_name.into_values().collect()
}

fn row(topic: &Value) -> Value {
    let who = |does: &str| -> Vec<Value> {
        let services = topic["services"].as_array().into_iter().flatten();
        services.filter(|service| is_true(&service[does])).map(|service| service["service"].clone()).collect()
    };
    json!({
        "topic": topic["name"], "partitions": topic["partitions"],
        "written_by": who("publishes"), "read_by": who("reads"),
    })
}

/// A flag, or a list of the event types.
fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_array().is_some_and(|list| !list.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_shown_once_with_all_who_use_it() {
        let order = json!({"service": "order", "publishes": true, "reads": false});
        let payment = json!({"service": "payment", "publishes": false, "reads": ["tea.made.v1"]});
        let topics = [
            json!({"name": "teas", "partitions": 6, "services": [order]}),
            json!({"name": "teas", "partitions": 6, "services": [payment, order]}),
        ];
        let merged = merged(&topics);
        assert_eq!(merged, [json!({"name": "teas", "partitions": 6, "services": [order, payment]})]);
        let shown =
            json!({"topic": "teas", "partitions": 6, "written_by": ["order"], "read_by": ["payment"]});
        assert_eq!(row(&merged[0]), shown);
    }
}
