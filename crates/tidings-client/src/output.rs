//! Answers on a terminal: tables, trees and readable numbers.

use std::io::{self, Write as _};

use serde_json::Value;

use crate::error::Error;

/// The reader of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// People.
    Text,
    /// Programs.
    Json,
}

impl Format {
    /// The format that the `--json` flag stands for.
    pub fn chosen(json: bool) -> Format {
        if json { Format::Json } else { Format::Text }
    }
}

/// The reader at the other end of stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Reads on.
    There,
    /// Has seen enough (`| head`).
    Gone,
}

/// Writes to stdout and ends the line. A reader that has seen enough is not an error.
pub fn print(text: impl AsRef<[u8]>) -> Result<Reader, Error> {
    let text = text.as_ref();
    let end: &[u8] = if text.ends_with(b"\n") { b"" } else { b"\n" };
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.write_all(end));
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Error::new(format!("cannot write to stdout: {error}"))),
    }
}

/// Writes an error to stderr, in one line that begins with the name of the command.
pub fn report_error(command: &str, error: &Error, rest: &str) {
    eprintln!("{command}: {}{rest}", printable(&error.to_string()));
}

/// Text as people may be shown it: any program may have written it, so it must not talk to the terminal, break the line
/// or turn its direction. Everything that is drawn for people goes through here.
///
/// ```
/// assert_eq!(tidings_client::output::printable("a\u{1b}[2J"), r"a\u{1b}[2J");
/// ```
pub fn printable(text: &str) -> String {
    let escaped = |c: char| if is_command(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Several lines as people may be shown them; they stay lines.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Controls, marks and embeddings of writing direction, separators of lines and paragraphs.
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One object per row, one column per heading; a column that is empty throughout is left out.
/// Each column names the fields that may hold its cell; the first one present is shown.
///
/// ```
/// use serde_json::json;
///
/// let rows = [json!({"id": "p1", "grams": 250}), json!({"id": "p20"})];
/// let drawn = tidings_client::output::table(&[("ID", &["id"]), ("WEIGHT", &["grams"])], &rows);
/// assert_eq!(drawn, "ID   WEIGHT\np1   250\np20\n");
/// ```
pub fn table(columns: &[(&str, &[&str])], objects: &[Value]) -> String {
    let rows = objects
        .iter()
        .map(|object| columns.iter().map(|(_, fields)| first_present(object, fields)).collect::<Vec<_>>());
    let headings = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    aligned(&without_empty_columns(std::iter::once(headings).chain(rows).collect()))
}

fn first_present(object: &Value, fields: &[&str]) -> String {
    fields.iter().find_map(|field| object.get(field)).map(cell).unwrap_or_default()
}

/// The first row is the heading and does not count.
fn without_empty_columns(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let used = |column: usize| rows[1..].iter().any(|row| !row[column].is_empty());
    let columns: Vec<usize> = (0..rows[0].len()).filter(|column| used(*column)).collect();
    rows.iter().map(|row| columns.iter().map(|column| row[*column].clone()).collect()).collect()
}

/// Rows of equally many cells, in columns two spaces apart.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A value of any shape, indented, one field a line.
///
/// ```
/// let status = serde_json::json!({"outbox": {"pending": 0}});
/// assert_eq!(tidings_client::output::tree(&status, 0), "outbox\n  pending  0\n");
/// ```
pub fn tree(value: &Value, indent: usize) -> String {
    match value {
        Value::Object(fields) => {
            let width = fields.keys().map(|name| printable(name).chars().count()).max().unwrap_or(0);
            fields.iter().map(|(name, value)| field(&printable(name), value, width, indent)).collect()
        }
        Value::Array(values) => values.iter().map(|value| tree(value, indent)).collect(),
        scalar => format!("{:indent$}{}\n", "", cell(scalar)),
    }
}

fn field(name: &str, value: &Value, width: usize, indent: usize) -> String {
    if is_nested(value) {
        format!("{:indent$}{name}\n{}", "", tree(value, indent + 2))
    } else {
        let line = format!("{:indent$}{name:width$}  {}", "", cell(value));
        format!("{}\n", line.trim_end())
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => money(value).is_none(),
        Value::Array(values) => values.iter().any(Value::is_object),
        _ => false,
    }
}

/// A value in one cell: text bare, money as people write it, lists with commas.
///
/// ```
/// let total = serde_json::json!({"amount": 1299, "currency": "EUR"});
/// assert_eq!(tidings_client::output::cell(&total), "12.99 EUR");
/// ```
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(_) => printable(&money(value).unwrap_or_else(|| value.to_string())),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// `{"amount": 1299, "currency": "EUR"}` as `12.99 EUR`.
fn money(value: &Value) -> Option<String> {
    let (amount, currency) = (value.get("amount")?.as_i64()?, value.get("currency")?.as_str()?);
    let decimals = minor_digits(currency);
    let unit = 10_u64.pow(decimals as u32);
    let (sign, minor) = (if amount < 0 { "-" } else { "" }, amount.unsigned_abs());
    Some(match decimals {
        0 => format!("{sign}{minor} {currency}"),
        _ => format!("{sign}{}.{:0decimals$} {currency}", minor / unit, minor % unit),
    })
}

/// Digits of the minor unit that ISO 4217 gives a currency.
fn minor_digits(currency: &str) -> usize {
    match currency {
        "CLP" | "ISK" | "JPY" | "KRW" | "PYG" | "UGX" | "VND" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    }
}

/// `1234567` as `1,234,567`.
///
/// ```
/// assert_eq!(tidings_client::output::grouped(1_234_567), "1,234,567");
/// ```
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn a_table_leaves_out_what_no_row_has() {
        let orders = [
            json!({"id": "1", "total": {"amount": 1299, "currency": "EUR"}, "at": "now"}),
            json!({"id": "20", "total": {"amount": -5, "currency": "JPY"}, "time": "then"}),
        ];
        let columns: [(&str, &[&str]); 4] =
            [("ID", &["id"]), ("REASON", &["reason"]), ("TOTAL", &["total"]), ("AT", &["at", "time"])];
        expect![[r#"
            ID  TOTAL      AT
            1   12.99 EUR  now
            20  -5 JPY     then
        "#]]
        .assert_eq(&table(&columns, &orders));
    }

    #[test]
    fn a_tree_shows_any_shape() {
        let status = json!({
            "status": "ok", "since": null, "topics": ["orders", "payments"],
            "lag": [{"group": "orders", "lag": 0}, {"group": "payments", "lag": 12}],
        });
        expect![[r#"
            lag
              group  orders
              lag    0
              group  payments
              lag    12
            since
            status  ok
            topics  orders, payments
        "#]]
        .assert_eq(&tree(&status, 0));
    }

    /// A stranger's words, each of which a terminal would obey.
    const STRANGE: &str = "\u{1b}]0;x\u{7}a\nb\r\t\u{7f}\u{9b}2J\u{202e}c\u{2066}\u{200f}\u{61c}\u{2028}é";

    #[test]
    fn a_strangers_text_neither_talks_to_the_terminal_nor_breaks_a_line() {
        let strange = [json!({"id": STRANGE, "list": [STRANGE], "object": {STRANGE: STRANGE, "list": [{}]},
            "total": {"amount": 1, "currency": STRANGE}})];
        let columns: [(&str, &[&str]); 4] =
            [("ID", &["id"]), ("LIST", &["list"]), ("OBJECT", &["object"]), ("TOTAL", &["total"])];
        let drawn = table(&columns, &strange) + &tree(&strange[0], 0);
        assert!(!drawn.chars().any(|c| c != '\n' && is_command(c)), "{drawn:?}");
        assert_eq!(drawn.lines().count(), 2 + 6, "{drawn:?}");
        expect![r"\u{1b}]0;x\u{7}a\nb\r\t\u{7f}\u{9b}2J\u{202e}c\u{2066}\u{200f}\u{61c}\u{2028}é"]
            .assert_eq(&printable(STRANGE));
        assert_eq!(printable_lines("a\u{1b}\nb\n"), "a\\u{1b}\nb\n");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            ["0", "999", "1,000", "61,234", "1,234,567"],
            [0, 999, 1000, 61_234, 1_234_567].map(grouped)
        );
    }
}
