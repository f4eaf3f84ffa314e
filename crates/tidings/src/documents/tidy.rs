//! Repairs, in words that generators know, of what generators stumble over: schemas that are only `true`, enums
//! without a name.

use serde_json::{Value, json};

/// Goes through a document: every schema is an object, every enum has a title.
pub(super) fn document(document: &mut Value) {
    tidy(document, "");
}

/// `name` is the name of a schema that stands in place; empty where no name is needed.
fn tidy(value: &mut Value, name: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| tidy(item, name)),
        Value::Object(members) => {
            if members.contains_key("enum") && !members.contains_key("title") && !name.is_empty() {
                members.insert("title".to_owned(), name.into());
            }
            for (keyword, value) in members {
                under(keyword, value, name);
            }
        }
        _ => {}
    }
}

fn under(keyword: &str, value: &mut Value, name: &str) {
    match (keyword, value) {
        // Not ours to change, or no schemas.
        ("example" | "examples" | "const" | "enum" | "default" | "bindings", _) => {}
        ("schemas" | "$defs", Value::Object(schemas)) => {
            schemas.iter_mut().for_each(|(of, value)| schema(value, &pascal(of)));
        }
        ("properties", Value::Object(properties)) => {
            for (property, value) in properties {
                let of = if name.is_empty() { String::new() } else { format!("{name}{}", pascal(property)) };
                schema(value, &of);
            }
        }
        ("parameters", Value::Array(parameters)) => {
            for parameter in parameters {
                let of = parameter["name"].as_str().map(pascal).unwrap_or_default();
                tidy(parameter, &of);
            }
        }
        ("schema" | "items" | "payload" | "not", value) => schema(value, name),
        ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(all)) => {
            all.iter_mut().for_each(|value| schema(value, name));
        }
        (_, value) => tidy(value, name),
    }
}

fn schema(value: &mut Value, name: &str) {
    match value {
        Value::Bool(true) => *value = json!({}),
        Value::Bool(false) => *value = json!({"not": {}}),
        value => tidy(value, name),
    }
}

/// `order.cancelled.v1` as `OrderCancelledV1`.
fn pascal(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_objects_and_enums_have_titles() {
        let mut rendered = json!({
            "paths": {"/a": {"get": {"parameters": [{"name": "sort-by", "required": true, "schema": {"enum": ["a"]}}]}}},
            "components": {"schemas": {
                "tea.made.v1": {"properties": {"pot": true, "leaf": {"anyOf": [{"enum": ["x"]}, false]}}, "examples": [{"pot": true}]},
                "Colour": {"enum": ["red"], "additionalProperties": false},
            }},
        });
        document(&mut rendered);
        let expected = json!({
            "paths": {"/a": {"get": {"parameters": [{"name": "sort-by", "required": true, "schema": {"enum": ["a"], "title": "SortBy"}}]}}},
            "components": {"schemas": {
                "tea.made.v1": {"properties": {"pot": {}, "leaf": {"anyOf": [{"enum": ["x"], "title": "TeaMadeV1Leaf"}, {"not": {}}]}}, "examples": [{"pot": true}]},
                "Colour": {"enum": ["red"], "title": "Colour", "additionalProperties": false},
            }},
        });
        assert_eq!(rendered, expected);
    }
}
