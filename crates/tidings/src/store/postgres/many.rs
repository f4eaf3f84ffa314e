//! One statement for many rows of parameters: what is written for one row is rewritten for all of them.
//!
//! ```text
//! UPDATE t SET a = $1 WHERE k = $2
//! UPDATE t SET a = r._1 FROM unnest($1::int8[], $2::text[]) WITH ORDINALITY AS r(_1, _2, _n)
//!     WHERE k = ANY(ARRAY[r._2]) RETURNING r._n
//! ```
//!
//! `= ANY(ARRAY[…])` because of the plan, which is made once and kept. To a table that was empty when it was
//! last analysed the planner would go once for all rows and compare each with each parameter: minutes later,
//! with the table full, a statement takes a hundred times as long. A comparison of this form can be looked up
//! in an index, but not joined in any other way, so each row of parameters is looked up, always.
//!
//! A round trip costs more than ten rows; this is what makes batches cheap. The rows of one call must
//! concern different rows of the table, and a keyword that matters here is written in capitals.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio_postgres::types::Type;

/// A statement for any number of rows.
#[derive(Debug)]
pub(super) struct RowsStatement {
    /// The statement that is run; `$n` is an array.
    pub(super) sql: String,
    /// The way to tell which rows did something.
    pub(super) changed: Changed,
    /// The statement without its `ON CONFLICT`.
    plain: Option<String>,
    /// The number of times for which the plain form is not tried.
    careful: AtomicU32,
}

/// For fewer rows the savepoint that the plain form needs costs more than it saves.
const PLAIN_MIN: usize = 16;
/// The number of times for which the plain form is not tried after rows were found there.
const CAREFUL: u32 = 100;

impl RowsStatement {
    fn new(sql: String, changed: Changed) -> Self {
        Self { sql, changed, plain: None, careful: AtomicU32::new(0) }
    }

    /// Returns the plain form if it may be tried first, since rows are seldom there already: `ON CONFLICT` costs two
    /// records of the write-ahead log and a look-up for each row, half as much again as the row.
    pub(super) fn plain(&self, rows: usize) -> Option<&str> {
        let plain = self.plain.as_deref().filter(|_| rows >= PLAIN_MIN)?;
        let is_careful = self.careful.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        (!is_careful).then_some(plain)
    }

    /// Takes note that rows were there.
    pub(super) fn be_careful(&self) {
        self.careful.store(CAREFUL, Relaxed);
    }
}

/// The way to tell which rows of parameters changed something.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Changed {
    /// All did, or the statement failed.
    All,
    /// Each that did returns its place, from 1.
    Places,
    /// Each that did returns the values of these parameters (counted from 0), as text.
    Keys(Vec<usize>),
}

/// The statement for many rows, unless it has a form that is not known here.
pub(super) fn rewrite(sql: &str, types: &[Type]) -> Option<RowsStatement> {
    let sql = sql.trim();
    match sql.split_whitespace().next()? {
        "INSERT" => insert(sql, types),
        "UPDATE" => {
            let (set, condition) = sql.rsplit_once("WHERE ").filter(|(_, c)| !c.contains(')'))?;
            let source = source(types, true);
            let (set, condition) = (columns_of_rows(set), looked_up(&columns_of_rows(condition)));
            let sql = format!("{set}FROM {source} WHERE {condition} RETURNING r._n");
            Some(RowsStatement::new(sql, Changed::Places))
        }
        "DELETE" => {
            let (table, condition) = sql.split_once("WHERE ")?;
            let source = source(types, true);
            let condition = looked_up(&columns_of_rows(condition));
            let sql = format!("{table}USING {source} WHERE {condition} RETURNING r._n");
            Some(RowsStatement::new(sql, Changed::Places))
        }
        _ => None,
    }
}

/// A query for many rows; each row of the answer begins with its place, from 1.
pub(super) fn rewrite_query(sql: &str, types: &[Type]) -> RowsStatement {
    let (source, one) = (source(types, true), columns_of_rows(sql.trim()));
    let one = match one.split_once("WHERE ") {
        Some((head, condition)) => format!("{head}WHERE {}", looked_up(condition)),
        None => one,
    };
    let sql = format!("SELECT r._n, x.* FROM {source} CROSS JOIN LATERAL ({one}) x ORDER BY r._n");
    RowsStatement::new(sql, Changed::Places)
}

fn insert(sql: &str, types: &[Type]) -> Option<RowsStatement> {
    let (head, rest) = sql.split_once("VALUES (")?;
    let (values, conflict) = split_at_closing(rest)?;
    let values = columns_of_rows(values);
    let plain = format!("{head}SELECT {values} FROM {}", source(types, false));
    if conflict.trim().is_empty() {
        return Some(RowsStatement::new(plain, Changed::All));
    }
    let target = conflict.split_once("ON CONFLICT (")?.1.split_once(')')?.0;
    let columns = head.split_once('(')?.1.rsplit_once(')')?.0;
    let columns: Vec<&str> = columns.split(',').map(str::trim).collect();
    let values: Vec<&str> = values.split(',').map(str::trim).collect();
    let mut parameters = Vec::new();
    let mut returned = Vec::new();
    for key in target.split(',').map(str::trim) {
        let index = columns.iter().position(|column| *column == key)?;
        let parameter = values.get(index)?.strip_prefix("r._");
        // A key column that is the same for every row does not tell rows apart, and bytes have no text that is certain.
        let parameter = parameter.map(|parameter| parameter.parse::<usize>()).transpose().ok()?;
        if let Some(parameter) = parameter.filter(|parameter| types[parameter - 1] != Type::BYTEA) {
            parameters.push(parameter - 1);
            returned.push(format!("{key}::text"));
        }
    }
    let (conflict, returned) = (columns_of_rows(conflict), returned.join(", "));
    let careful = format!("{plain}{conflict} RETURNING {returned}");
    (columns.len() == values.len() && !returned.is_empty()).then(|| RowsStatement {
        plain: Some(plain),
        ..RowsStatement::new(careful, Changed::Keys(parameters))
    })
}

/// `unnest($1::int8[], …) AS r(_1, …)`, with `_n`, the place of each row, if wanted.
fn source(types: &[Type], with_index: bool) -> String {
    let arrays: Vec<String> =
        types.iter().enumerate().map(|(i, ty)| format!("${}::{}[]", i + 1, ty.name())).collect();
    let mut columns: Vec<String> = (1..=types.len()).map(|n| format!("_{n}")).collect();
    let ordinality = if with_index {
        columns.push("_n".to_owned());
        "WITH ORDINALITY "
    } else {
        ""
    };
    format!("unnest({}) {ordinality}AS r({})", arrays.join(", "), columns.join(", "))
}

/// `$3` as `r._3`, outside of text in quotes.
fn columns_of_rows(sql: &str) -> String {
    let mut quoted = false;
    let mut rewritten = String::with_capacity(sql.len() + 16);
    for c in sql.chars() {
        quoted ^= c == '\'';
        match c {
            '$' if !quoted => rewritten.push_str("r._"),
            c => rewritten.push(c),
        }
    }
    rewritten
}

/// A condition whose first comparison with a parameter can only be looked up in an index.
fn looked_up(condition: &str) -> String {
    let Some((before, rest)) = condition.split_once(" = r._") else { return condition.to_owned() };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (parameter, after) = rest.split_at(end);
    format!("{before} = ANY(ARRAY[r._{parameter}]){after}")
}

/// Splits after the parenthesis that closes what was opened before.
fn split_at_closing(sql: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (at, c) in sql.char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some((&sql[..at], &sql[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(sql: &str, types: &[Type], expected: Expect) {
        let many = rewrite(sql, types).expect("a form that is known");
        let plain = many.plain.iter().map(|plain| format!("{plain}\n")).collect::<String>();
        expected.assert_eq(&format!("{plain}{}\n{:?}\n", many.sql, many.changed));
    }

    #[test]
    fn an_update_says_which_rows_it_changed() {
        check(
            "UPDATE inbox SET seq = $1 WHERE stream = $2 AND seq = $1 - 1 AND note <> '$1'",
            &[Type::INT8, Type::TEXT],
            expect![[r#"
                UPDATE inbox SET seq = r._1 FROM unnest($1::int8[], $2::text[]) WITH ORDINALITY AS r(_1, _2, _n) WHERE stream = ANY(ARRAY[r._2]) AND seq = r._1 - 1 AND note <> '$1' RETURNING r._n
                Places
            "#]],
        );
    }

    #[test]
    fn an_insert_that_may_find_its_row_there_returns_what_tells_rows_apart() {
        check(
            "INSERT INTO inbox (stream, consumer, seq) VALUES ($1, 'x', 1) ON CONFLICT (stream, consumer) DO NOTHING",
            &[Type::TEXT],
            expect![[r#"
                INSERT INTO inbox (stream, consumer, seq) SELECT r._1, 'x', 1 FROM unnest($1::text[]) AS r(_1)
                INSERT INTO inbox (stream, consumer, seq) SELECT r._1, 'x', 1 FROM unnest($1::text[]) AS r(_1) ON CONFLICT (stream, consumer) DO NOTHING RETURNING stream::text
                Keys([0])
            "#]],
        );
    }

    #[test]
    fn a_plain_insert_and_a_delete() {
        check(
            "INSERT INTO t (a, b) VALUES ($1, coalesce($2, 'x'))",
            &[Type::INT8, Type::TEXT],
            expect![[r#"
                INSERT INTO t (a, b) SELECT r._1, coalesce(r._2, 'x') FROM unnest($1::int8[], $2::text[]) AS r(_1, _2)
                All
            "#]],
        );
        check(
            "DELETE FROM effect WHERE key = $1 AND state = 'new'",
            &[Type::TEXT],
            expect![[r#"
                DELETE FROM effect USING unnest($1::text[]) WITH ORDINALITY AS r(_1, _n) WHERE key = ANY(ARRAY[r._1]) AND state = 'new' RETURNING r._n
                Places
            "#]],
        );
    }

    #[test]
    fn what_is_not_known_is_left_alone() {
        assert!(rewrite("INSERT INTO t (a) VALUES ($1) ON CONFLICT DO NOTHING", &[Type::INT8]).is_none());
        assert!(rewrite("WITH x AS (SELECT 1) SELECT * FROM x", &[]).is_none());
    }
}
