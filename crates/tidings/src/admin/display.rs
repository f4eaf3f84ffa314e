//! Messages shown to people: keys, headers and values as what they are.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::message::Message;

/// Text, or bytes that are none.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum Text {
    Text(String),
    Bytes { base64: String },
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum Header {
    One(Text),
    Many(Vec<Text>),
}

pub(super) fn headers(message: &Message) -> BTreeMap<String, Header> {
    let mut headers = BTreeMap::new();
    for (name, value) in &message.headers {
        let value = Text::new(value);
        match headers.remove(name) {
            None => headers.insert(name.to_string(), Header::One(value)),
            Some(Header::One(first)) => headers.insert(name.to_string(), Header::Many(vec![first, value])),
            Some(Header::Many(mut all)) => {
                all.push(value);
                headers.insert(name.to_string(), Header::Many(all))
            }
        };
    }
    headers
}

impl Text {
    pub(super) fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { base64: BASE64_STANDARD.encode(bytes) },
        }
    }
}

/// A value as JSON on one line, and what it was.
pub(super) fn shown(value: &[u8]) -> (&'static str, Box<RawValue>) {
    if let Ok(json) = serde_json::from_slice::<&RawValue>(value) {
        let compact = RawValue::from_string(compact(json.get()));
        return ("json", compact.expect("JSON without its white space is JSON"));
    }
    let text = |text: &str| serde_json::value::to_raw_value(text).expect("text is JSON");
    match std::str::from_utf8(value) {
        Ok(value) => ("text", text(value)),
        Err(_) => ("base64", text(&BASE64_STANDARD.encode(value))),
    }
}

/// JSON without the white space between its tokens; its numbers stay as they were written.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&c| {
            if !in_string {
                in_string = c == '"';
                return !c.is_ascii_whitespace();
            }
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            true
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_what_they_are() {
        let told = |value: &[u8]| {
            let (encoding, value) = shown(value);
            format!("{encoding} {}", value.get())
        };
        assert_eq!(
            told(b"{ \"a\\\" b\" : [1.50,\n 18446744073709551616] }"),
            r#"json {"a\" b":[1.50,18446744073709551616]}"#
        );
        assert_eq!(told(br#""\\ " "#), r#"json "\\ ""#);
        assert_eq!(told(b"tea, please"), r#"text "tea, please""#);
        assert_eq!(told(b""), r#"text """#);
        assert_eq!(told(b"\xff\x00"), r#"base64 "/wA=""#);
        let deep = "[".repeat(100_000);
        assert!(told(deep.as_bytes()).starts_with("text "));
        let deep = deep + &"]".repeat(100_000);
        assert_eq!(told(deep.as_bytes()), format!("json {deep}"));
    }
}
