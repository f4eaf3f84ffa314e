//! Lists: page after page from every service, put together, each row once.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tidings_client::{Error, Format, output, percent_encoded};

use crate::services::{Service, Services};

/// Rows of one answer.
pub(crate) const PAGE: usize = 500;
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

/// A list that each service keeps of its own.
pub(crate) struct List {
    pub(crate) query: Query,
    /// The one service that is meant, or all.
    pub(crate) service: Option<String>,
    pub(crate) order: Order,
    /// The number of rows to show.
    pub(crate) limit: usize,
    /// The size of a page, if the route has pages.
    pub(crate) page: Option<usize>,
}

/// The order of rows of several services, by a time of each.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    Oldest(&'static str),
    Newest(&'static str),
}

/// Rows, and whether there are more of them.
pub(crate) struct Rows {
    pub(crate) items: Vec<Value>,
    is_cut: bool,
}

impl List {
    /// Asks every service for as much as is wanted: one may have all of the oldest.
    pub(crate) async fn read(&self, services: &mut Services) -> Result<Rows, Error> {
        let named = services.by_name().await?;
        let mut items = Vec::new();
        let mut answers = 0;
        let mut failure = None;
        for mut service in named.chosen(self.service.as_deref())? {
            let query = self.query.clone().with("service", Some(&service.name));
            match pages(&mut service, &query, self.page, self.limit).await {
                Ok(rows) => {
                    answers += 1;
                    items.extend(rows);
                }
                Err(error) => {
                    if let Some(earlier) = failure.replace(error) {
                        services.tell(&earlier);
                    }
                }
            }
        }
        match failure {
            // An empty list would be a lie.
            Some(error) if answers == 0 => return Err(error),
            Some(error) => services.tell(&error),
            None => {}
        }
        Ok(self.merged(items))
    }

    fn merged(&self, mut items: Vec<Value>) -> Rows {
        self.order.sort(&mut items);
        let is_cut = items.len() > self.limit;
        items.truncate(self.limit);
        Rows { items, is_cut }
    }
}

/// All that the addresses tell of a small list, in their order. Rows are one if they agree in the named fields, or in all
/// if none is named: instances of a service tell the same.
pub(crate) async fn whole(path: &str, identity: &[&str], services: &mut Services) -> Result<Rows, Error> {
    let query = Arc::new(Query::new(path));
    let answers = services.ask(|endpoint| {
        let query = query.clone();
        async move { pages(&mut Service::at(endpoint), &query, None, LIMIT_MAX).await }
    });
    let mut items: Vec<Value> = answers.await?.into_iter().flatten().collect();
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(identity_of(item, identity)));
    let is_cut = items.len() > LIMIT_MAX;
    items.truncate(LIMIT_MAX);
    Ok(Rows { items, is_cut })
}

fn identity_of(item: &Value, fields: &[&str]) -> String {
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
        }
    }
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    next_cursor: Option<String>,
}

/// One row more than wanted, if there is one.
async fn pages(
    service: &mut Service,
    query: &Query,
    page: Option<usize>,
    limit: usize,
) -> Result<Vec<Value>, Error> {
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let size = page.map(|page| page.min(limit + 1 - items.len()).to_string());
        let next = query.clone().with("limit", size.as_deref()).with("cursor", cursor.as_deref());
        let next: Page = service.get(next.path()).await?;
        items.extend(next.items);
        if next.next_cursor.is_none() || items.len() > limit {
            return Ok(items);
        }
        if next.next_cursor == cursor {
            let path = query.path();
            return Err(Error::new(format!("GET {path} gives the same page again and again")));
        }
        cursor = next.next_cursor;
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

    #[test]
    fn rows_of_several_services_are_in_the_order_of_time() {
        let list =
            |order, limit| List { query: Query::new("/admin/x"), service: None, order, limit, page: None };
        let items = json!([
            {"id": "a", "at": "2026-01-01T00:00:00.5Z"}, {"id": "d"}, {"id": "b", "at": "2026-01-01T00:00:00Z"},
            {"id": "c", "at": "2026-01-03T00:00:00+01:00"}, {"id": "e", "at": "2026-01-02T23:00:00Z"},
        ]);
        let merged = |order, limit| {
            let rows = list(order, limit).merged(items.as_array().unwrap().clone());
            let ids: Vec<&str> = rows.items.iter().map(|item| item["id"].as_str().unwrap()).collect();
            (ids.join(" "), rows.is_cut)
        };
        assert_eq!(merged(Order::Oldest("at"), 5), ("b a c e d".to_owned(), false));
        assert_eq!(merged(Order::Oldest("at"), 2), ("b a".to_owned(), true));
        assert_eq!(merged(Order::Newest("at"), 5), ("c e a b d".to_owned(), false));
    }

    #[test]
    fn a_query_carries_any_text() {
        let query = Query::new("/admin/x").with("a", Some("1&2")).with("b", None).with("c", Some("é"));
        assert_eq!(query.path(), "/admin/x?a=1%262&c=%C3%A9");
    }
}
