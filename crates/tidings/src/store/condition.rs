//! Conditions that are put together at run time: what an operator filters by.

use super::Param;

/// A condition on rows of a table, and its parameters.
pub(super) struct Condition<'a> {
    pub(super) sql: String,
    pub(super) values: Vec<Param<'a>>,
}

impl<'a> Condition<'a> {
    /// A condition that holds from the start, with its parameters.
    pub(super) fn new(sql: &str, values: Vec<Param<'a>>) -> Self {
        Self { sql: sql.to_owned(), values }
    }

    /// Adds a comparison.
    pub(super) fn and(&mut self, column: &str, operator: &str, value: impl Into<Param<'a>>) {
        self.values.push(value.into());
        self.sql += &format!(" AND {column} {operator} ${}", self.values.len());
    }

    /// Adds that a column has one of these values.
    pub(super) fn one_of<P: Into<Param<'a>>>(&mut self, column: &str, values: impl IntoIterator<Item = P>) {
        let from = self.values.len() + 1;
        self.values.extend(values.into_iter().map(Into::into));
        let places: Vec<String> = (from..=self.values.len()).map(|n| format!("${n}")).collect();
        self.sql += &match places.is_empty() {
            true => " AND 1 = 0".to_owned(),
            false => format!(" AND {column} IN ({})", places.join(", ")),
        };
    }

    /// Adds a parameter; returns its place.
    pub(super) fn value(&mut self, value: impl Into<Param<'a>>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }
}
