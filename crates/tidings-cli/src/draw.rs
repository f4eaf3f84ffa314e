//! Answers for people: times with their age, long text cut, objects field by field.

use jiff::Timestamp;
use serde_json::Value;
use tidings_client::output;

/// Characters of a message in a table; the whole stands in `show`.
const MESSAGE_MAX: usize = 80;

/// A table of rows whose fields in `times` are times; `none` is said if there are no rows.
pub(crate) fn table(columns: &[(&str, &[&str])], times: &[&str], rows: &[Value], none: &str) -> String {
    if rows.is_empty() {
        return none.to_owned();
    }
    let now = Timestamp::now();
    let rows: Vec<Value> = rows.iter().map(|row| for_people(row, times, now)).collect();
    output::table(columns, &rows)
}

fn for_people(row: &Value, times: &[&str], now: Timestamp) -> Value {
    let mut row = row.clone();
    for (name, value) in row.as_object_mut().into_iter().flatten() {
        match value {
            Value::String(text) if times.contains(&name.as_str()) => *text = with_age(text, now),
            Value::String(text) => *text = cut(text),
            Value::Object(_) | Value::Array(_) => *value = cut(&output::cell(value)).into(),
            _ => {}
        }
    }
    row
}

/// Rows whose message does not begin with their code, which has a column of its own.
pub(crate) fn without_code(rows: &[Value]) -> Vec<Value> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        let rest = match (row["code"].as_str(), row["message"].as_str()) {
            (Some(code), Some(message)) => {
                message.strip_prefix(code).and_then(|rest| rest.strip_prefix(": "))
            }
            _ => None,
        };
        if let Some(rest) = rest.map(str::to_owned) {
            row["message"] = rest.into();
        }
    }
    rows
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The named fields of an object that has them, one a line, in this order.
pub(crate) fn fields(object: &Value, names: &[&str], times: &[&str]) -> String {
    let now = Timestamp::now();
    let shown = |name: &str, value: &Value| match value {
        Value::String(text) if times.contains(&name) => with_age(text, now),
        value => output::cell(value),
    };
    let rows: Vec<Vec<String>> = names
        .iter()
        .filter_map(|name| Some(vec![name.replace('_', " "), shown(name, object.get(name)?)]))
        .filter(|row| !row[1].is_empty())
        .collect();
    output::aligned(&rows)
}

/// `2026-11-28T10:00:00Z (3 min ago)`; text that is no time stays as it is.
pub(crate) fn with_age(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => format!("{time:.0} ({})", age(time, now)),
        Err(_) => output::printable(text),
    }
}

/// `3 min ago`, or `in 3 min`.
fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs();
    let span = span(seconds.unsigned_abs());
    if seconds < 0 { format!("in {span}") } else { format!("{span} ago") }
}

/// `3 min`.
pub(crate) fn span(seconds: u64) -> String {
    let (count, unit) = match seconds {
        count @ 0..60 => (count, "s"),
        count @ 60..3_600 => (count / 60, "min"),
        count @ 3_600..172_800 => (count / 3_600, "h"),
        count => (count / 86_400, "d"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn times_are_told_with_their_age() {
        let now: Timestamp = "2026-01-02T03:04:05.9Z".parse().unwrap();
        let times = [
            "2026-01-02T03:04:05.5Z",
            "2026-01-02T03:03:00Z",
            "2026-01-01T03:04:05Z",
            "2025-12-01T00:00:00+01:00",
            "2026-01-02T03:30:00Z",
            "soon\u{1b}",
        ];
        expect![[r#"
            2026-01-02T03:04:05Z (0 s ago)
            2026-01-02T03:03:00Z (1 min ago)
            2026-01-01T03:04:05Z (24 h ago)
            2025-11-30T23:00:00Z (32 d ago)
            2026-01-02T03:30:00Z (in 25 min)
            soon\u{1b}
        "#]]
        .assert_eq(&times.map(|time| with_age(time, now) + "\n").concat());
    }

    #[test]
    fn a_code_is_not_said_twice() {
        let rows =
            json!([{"code": "a", "message": "a: b"}, {"code": "a", "message": "ab: b"}, {"message": "c"}]);
        let messages = without_code(rows.as_array().unwrap());
        assert_eq!(
            json!(messages.iter().map(|row| &row["message"]).collect::<Vec<_>>()),
            json!(["b", "ab: b", "c"])
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("é"), "é");
        assert_eq!(cut(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
        let row = for_people(&json!({"a": vec![1; 50], "b": {"c": 1}}), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(
            (row["a"].as_str().map(|text| text.chars().count()), &row["b"]),
            (Some(81), &json!(r#"{"c":1}"#))
        );
    }
}
