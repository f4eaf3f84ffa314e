//! Filters of dead letters: a query for looking, an object for changing.

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tidings_schema::moment;

use crate::list::Query;

/// Marks of dead letters.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Filter {
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Only of this consumer group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only with this code, such as attempts_exhausted
    #[arg(long)]
    code: Option<String>,
    /// Only with this key
    #[arg(long, allow_hyphen_values = true)]
    key: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only from this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only failures of this kind, as `dlq summary` shows them
    #[arg(long)]
    fingerprint: Option<String>,
    /// Only the event of this id
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// Only if the last failure was at or after this: a time (2026-01-02T03:04:05Z) or how long ago (15m)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only if the last failure was before this
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// A state to look at.
#[derive(clap::Args)]
pub(crate) struct Stage {
    /// Those of a state: dead if nothing is said, waiting, discarded
    #[arg(long)]
    state: Option<State>,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum State {
    Dead,
    Waiting,
    Discarded,
}

impl Stage {
    pub(crate) fn of(&self, query: Query) -> Query {
        let state = self.state.as_ref().and_then(State::to_possible_value);
        query.with("state", state.as_ref().map(|state| state.get_name()))
    }
}

/// A time, or how long ago.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    moment(text, Timestamp::now())
        .ok_or_else(|| "expected a time (2026-01-02T03:04:05Z) or how long ago (15m)".to_owned())
}

impl Filter {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let text = [
            ("service", &self.service),
            ("group", &self.group),
            ("code", &self.code),
            ("key", &self.key),
            ("type", &self.event_type),
            ("topic", &self.topic),
            ("fingerprint", &self.fingerprint),
            ("event_id", &self.event_id),
        ];
        let times = [("since", &self.since), ("until", &self.until)];
        let text = text.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let times = times.into_iter().filter_map(|(name, time)| Some((name, time.as_ref()?.to_string())));
        text.chain(times).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }

    pub(crate) fn query(&self, path: &str) -> Query {
        self.pairs().iter().fold(Query::new(path), |query, (name, value)| query.with(name, Some(value)))
    }

    pub(crate) fn json(&self) -> Value {
        let pairs = self.pairs().into_iter().map(|(name, value)| (name.to_owned(), Value::String(value)));
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    /// The filter, of one service.
    pub(crate) fn of(&self, service: &str) -> Filter {
        Filter { service: Some(service.to_owned()), ..self.clone() }
    }

    /// The filter, without what failed at or after a time.
    pub(crate) fn before(&self, time: Timestamp) -> Filter {
        Filter { until: Some(self.until.map_or(time, |until| until.min(time))), ..self.clone() }
    }

    /// Everything that a redrive of this filter may make dead again since a time: for other reasons, perhaps.
    pub(crate) fn dead_again(&self, since: Timestamp) -> Filter {
        Filter { code: None, fingerprint: None, until: None, since: Some(since), ..self.clone() }
    }

    /// The same whenever it failed.
    pub(crate) fn at_any_time(&self) -> Filter {
        Filter { since: None, ..self.dead_again(Timestamp::UNIX_EPOCH) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_filter_is_a_query_and_an_object() {
        let filter = Filter {
            key: Some("o&1".into()),
            code: Some("attempts_exhausted".into()),
            until: Some(time("2026-01-02T03:04:05+01:00").unwrap()),
            ..Filter::default()
        };
        expect![[r#"/admin/dead-letters?code=attempts_exhausted&key=o%261&until=2026-01-02T02%3A04%3A05Z"#]]
            .assert_eq(filter.query("/admin/dead-letters").path());
        let early = filter.of("payment").before(Timestamp::UNIX_EPOCH);
        expect![[
            r#"{"code":"attempts_exhausted","key":"o&1","service":"payment","until":"1970-01-01T00:00:00Z"}"#
        ]]
        .assert_eq(&early.json().to_string());
        expect![[r#"{"key":"o&1","since":"1970-01-01T00:00:00Z"}"#]]
            .assert_eq(&filter.dead_again(Timestamp::UNIX_EPOCH).json().to_string());
        expect![[r#"{"key":"o&1"}"#]].assert_eq(&filter.at_any_time().json().to_string());
        assert_eq!(Stage { state: Some(State::Waiting) }.of(Query::new("/x")).path(), "/x?state=waiting");
        assert!(Filter::default().is_empty() && !filter.is_empty());
    }
}
