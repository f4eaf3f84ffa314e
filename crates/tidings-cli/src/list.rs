//! Lists: page after page from every address, put together, each thing once.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tidings_client::{Client, Endpoint, Error, Format, output, percent_encoded};

use crate::services::{Services, read};

/// Rows of one answer.
const PAGE: usize = 100;
/// Bound of what is held in memory, and of what anybody reads.
const LIMIT_MAX: usize = 100_000;

/// The number of rows wanted.
#[derive(clap::Args)]
pub(crate) struct Limit {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = limit)]
    pub(crate) limit: usize,
}

fn limit(text: &str) -> Result<usize, String> {
    let wrong = || format!("expected a number from 1 to {LIMIT_MAX}");
    text.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n)).ok_or_else(wrong)
}

/// A path with a query.
#[derive(Clone)]
pub(crate) struct Query(String);

impl Query {
    pub(crate) fn new(path: &str) -> Query {
        Query(path.to_owned())
    }

    pub(crate) fn with(mut self, name: &str, value: Option<&str>) -> Query {
        if let Some(value) = value {
            let sign = if self.0.contains('?') { '&' } else { '?' };
            let _ = write!(self.0, "{sign}{name}={}", percent_encoded(value));
        }
        self
    }

    pub(crate) fn path(&self) -> &str {
        &self.0
    }
}

/// A list that services keep.
pub(crate) struct List {
    pub(crate) query: Query,
    /// Fields that tell one row from another; all, if none is named.
    pub(crate) identity: &'static [&'static str],
    pub(crate) order: Order,
    pub(crate) limit: usize,
}

/// The order of rows from several addresses, by a time of each.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    Oldest(&'static str),
    Newest(&'static str),
    /// Address after address.
    Given,
}

/// Rows, and whether there are more of them.
pub(crate) struct Rows {
    pub(crate) items: Vec<Value>,
    is_cut: bool,
}

impl List {
    /// A list of which everything is wanted.
    pub(crate) fn whole(query: Query, identity: &'static [&'static str]) -> List {
        List { query, identity, order: Order::Given, limit: LIMIT_MAX }
    }

    /// Asks every address for as much as is wanted.
    pub(crate) async fn read(&self, services: &mut Services) -> Result<Rows, Error> {
        let limit = self.limit;
        let query = Arc::new(self.query.clone());
        let answers = services.ask(|endpoint| pages(endpoint, query.clone(), limit)).await?;
        Ok(self.merged(answers))
    }

    fn merged(&self, answers: Vec<Rows>) -> Rows {
        let is_one = answers.len() == 1;
        let mut is_cut = answers.iter().any(|rows| rows.is_cut);
        let mut seen = HashSet::new();
        let mut items: Vec<Value> = answers.into_iter().flat_map(|rows| rows.items).collect();
        items.retain(|item| seen.insert(identity(item, self.identity)));
        // One service's own order is the better one: it has ties.
        if !is_one {
            self.order.sort(&mut items);
        }
        is_cut |= items.len() > self.limit;
        items.truncate(self.limit);
        Rows { items, is_cut }
    }
}

fn identity(item: &Value, fields: &[&str]) -> String {
    if fields.is_empty() {
        return item.to_string();
    }
    fields.iter().map(|field| format!("{}\n", item[field])).collect()
}

impl Order {
    pub(crate) fn sort(self, items: &mut [Value]) {
        let time =
            |item: &Value, field: &str| item[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        match self {
            // What has no time comes last.
            Order::Oldest(field) => items.sort_by_key(|item| time(item, field).unwrap_or(Timestamp::MAX)),
            Order::Newest(field) => {
                items.sort_by_key(|item| std::cmp::Reverse(time(item, field).unwrap_or(Timestamp::MIN)));
            }
            Order::Given => {}
        }
    }
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    next_cursor: Option<String>,
}

async fn pages(endpoint: Endpoint, query: Arc<Query>, limit: usize) -> Result<Rows, Error> {
    let mut client = Client::to(endpoint);
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let size = PAGE.min(limit - items.len()).to_string();
        let page = Query::clone(&query).with("limit", Some(&size)).with("cursor", cursor.as_deref());
        let page: Page = read(page.path(), &client.get(page.path()).await?)?;
        items.extend(page.items);
        if page.next_cursor.is_none() || items.len() >= limit {
            let is_cut = page.next_cursor.is_some() || items.len() > limit;
            items.truncate(limit);
            return Ok(Rows { items, is_cut });
        }
        if page.next_cursor == cursor {
            let path = query.path();
            return Err(Error::new(format!("GET {path} gives the same page again and again")));
        }
        cursor = page.next_cursor;
    }
}

impl Rows {
    /// Prints an array for programs, or what `draw` makes of the rows for people. That there are more is said on stderr.
    pub(crate) fn print(
        &self,
        format: Format,
        services: &Services,
        draw: impl FnOnce(&[Value]) -> String,
    ) -> Result<ExitCode, Error> {
        output::print(match format {
            Format::Json => serde_json::to_string(&self.items)
                .map_err(|error| Error::new(format!("cannot write JSON: {error}")))?,
            Format::Text => draw(&self.items),
        })?;
        if self.is_cut {
            let shown = self.items.len();
            eprintln!("tidings: there are more than these {shown}; show more with --limit");
        }
        Ok(services.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(limit: usize) -> List {
        List { query: Query::new("/admin/x"), identity: &["id"], order: Order::Oldest("at"), limit }
    }

    fn rows(items: Value, is_cut: bool) -> Rows {
        Rows { items: items.as_array().unwrap().clone(), is_cut }
    }

    fn ids(rows: &Rows) -> String {
        rows.items.iter().map(|item| item["id"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_two_instances_tell_is_shown_once_and_by_its_time() {
        let first =
            json!([{"id": "a", "at": "2026-01-01T00:00:00.5Z"}, {"id": "c", "at": "2026-01-03T00:00:00Z"}]);
        let second = json!([{"id": "b", "at": "2026-01-01T00:00:00Z"}, {"id": "c", "at": "2026-01-03T00:00:00Z"}, {"id": "d"}]);
        let merged = list(10).merged(vec![rows(first.clone(), false), rows(second.clone(), false)]);
        assert_eq!((ids(&merged).as_str(), merged.is_cut), ("b a c d", false));
        let cut = list(3).merged(vec![rows(first.clone(), false), rows(second, false)]);
        assert_eq!((ids(&cut).as_str(), cut.is_cut), ("b a c", true));
        let mut items = first.as_array().unwrap().clone();
        Order::Newest("at").sort(&mut items);
        assert_eq!(items[0]["id"], "c");
    }

    #[test]
    fn one_services_order_is_kept() {
        let rows = rows(
            json!([{"id": "b", "at": "2026-01-02T00:00:00Z"}, {"id": "a", "at": "2026-01-01T00:00:00Z"}]),
            true,
        );
        let merged = list(10).merged(vec![rows]);
        assert_eq!((ids(&merged).as_str(), merged.is_cut), ("b a", true));
    }

    #[test]
    fn a_query_carries_any_text() {
        let query = Query::new("/admin/x").with("a", Some("1&2")).with("b", None).with("c", Some("é"));
        assert_eq!(query.path(), "/admin/x?a=1%262&c=%C3%A9");
    }
}
