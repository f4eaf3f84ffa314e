//! The two forms of a schema, and how references in it are followed.

use serde_json::{Map, Value, json};

use crate::{OPEN_ENUM, TEXT_PATTERN};

/// The writer schema: nothing is published that it does not name.
///
/// As [`written`], and objects take no further properties.
///
/// ```
/// use serde_json::json;
///
/// let schema = tidings_schema::closed(json!({"type": "object", "properties": {}}));
/// assert_eq!(schema["additionalProperties"], false);
/// ```
#[must_use]
pub fn closed(schema: Value) -> Value {
    let mut schema = written(schema);
    each(&mut schema, &mut |schema| {
        let is_map = schema.contains_key("additionalProperties");
        if schema.get("type").is_some_and(|t| t == "object") && !is_map {
            schema.insert("additionalProperties".into(), false.into());
        }
    });
    schema
}

/// Returns the schema as it is written: what may be left out is left out, never `null`; enums are [`listed`].
#[must_use]
pub fn written(schema: Value) -> Value {
    let mut schema = listed(schema);
    each(&mut schema, &mut never_null);
    schema
}

/// The schema with enums spelled as such, and with the rules that are implied: constants that stand for values
/// become one list of values; text has a pattern, whole numbers of a format have bounds.
#[must_use]
pub fn listed(mut schema: Value) -> Value {
    each(&mut schema, &mut |schema| {
        list_values(schema);
        say_implied(schema);
    });
    schema
}

/// The reader schema of a writer schema: it takes properties, and values of open enums, that came later.
///
/// ```
/// use serde_json::json;
///
/// let writer = json!({"type": "object", "properties": {}, "additionalProperties": false});
/// let reader = tidings_schema::opened(writer);
/// assert!(tidings_schema::check(&reader, &json!({"came": "later"})).is_empty());
/// ```
#[must_use]
pub fn opened(mut schema: Value) -> Value {
    each(&mut schema, &mut |schema| {
        if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
            schema.remove("additionalProperties");
        }
        if schema.get(OPEN_ENUM) == Some(&Value::Bool(true)) {
            schema.remove("enum");
        }
        say_implied(schema);
    });
    schema
}

/// A schema with its `$ref` followed; what stands beside the reference counts too.
///
/// ```
/// use serde_json::json;
///
/// let root = json!({"$defs": {"Grams": {"type": "integer"}}});
/// let grams = tidings_schema::resolve(&json!({"$ref": "#/$defs/Grams", "maximum": 9}), &root);
/// assert_eq!((&grams["type"], &grams["maximum"]), (&json!("integer"), &json!(9)));
/// ```
#[must_use]
pub fn resolve(schema: &Value, root: &Value) -> Map<String, Value> {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        Value::Bool(false) => Map::from_iter([("not".to_owned(), json!({}))]),
        _ => Map::new(),
    };
    // Bounded, for references that lead round in a circle.
    for _ in 0..16 {
        let Some(Value::String(reference)) = schema.remove("$ref") else { break };
        let found = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        let Some(Value::Object(target)) = found else {
            // Kept under a name that no keyword has, so that nothing is taken for proven.
            schema.insert("$ref (not found)".to_owned(), reference.into());
            break;
        };
        for (keyword, value) in target {
            schema.entry(keyword.clone()).or_insert_with(|| value.clone());
        }
    }
    schema
}

/// Visits every schema in a schema, the innermost first.
fn each(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(keywords) = schema else { return };
    for (keyword, value) in keywords.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "dependentSchemas", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| each(schema, visit));
            }
            ("oneOf" | "anyOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|schema| each(schema, visit));
            }
            (
                "items"
                | "contains"
                | "not"
                | "if"
                | "then"
                | "else"
                | "additionalProperties"
                | "propertyNames",
                schema,
            ) => each(schema, visit),
            _ => {}
        }
    }
    visit(keywords);
}

/// `oneOf` constants, each described, as one `enum`: what a reader, and a generated client, expects.
pub(crate) fn list_values(schema: &mut Map<String, Value>) {
    let Some(Value::Array(branches)) = schema.get("oneOf") else { return };
    let constants: Option<Vec<Value>> = branches.iter().map(|b| b.get("const").cloned()).collect();
    let Some(constants) = constants.filter(|c| !c.is_empty() && c.iter().all(Value::is_string)) else {
        return;
    };
    let described = branches.iter().filter_map(|branch| {
        let words = branch.get("description")?.as_str()?;
        Some(format!("\n- `{}`: {words}", branch.get("const")?.as_str()?))
    });
    let values: String = described.collect();
    let title = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{title}\n{values}").trim().to_owned();
    schema.remove("oneOf");
    schema.insert("type".into(), "string".into());
    schema.insert("enum".into(), constants.into());
    if !description.is_empty() {
        schema.insert("description".into(), description.into());
    }
}

/// Says the rules that are never written in a Rust type, since every document keeps to them: text has no
/// U+0000, which PostgreSQL cannot store; whole numbers are those of their format, and below 2^63.
pub(crate) fn say_implied(schema: &mut Map<String, Value>) {
    let is = |name: &str| match schema.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(types)) => types.iter().any(|t| t == name),
        _ => false,
    };
    let (is_text, is_whole) = (is("string"), is("integer"));
    if is_text {
        match schema.get("pattern").and_then(Value::as_str).map(letters) {
            None if ["enum", "const", "format"].iter().all(|keyword| !schema.contains_key(*keyword)) => {
                schema.insert("pattern".into(), TEXT_PATTERN.into());
            }
            // `$` lets a line feed follow where some languages match it.
            Some(Some((_, _, length))) => {
                schema.entry("minLength").or_insert(length.into());
                schema.entry("maxLength").or_insert(length.into());
            }
            _ => {}
        }
    }
    if is_whole {
        let (least, most): (i64, i64) = match schema.get("format").and_then(Value::as_str) {
            Some("uint8") => (0, u8::MAX.into()),
            Some("uint16") => (0, u16::MAX.into()),
            Some("uint32") => (0, u32::MAX.into()),
            Some("uint64" | "uint") => (0, i64::MAX),
            Some("int8") => (i8::MIN.into(), i8::MAX.into()),
            Some("int16") => (i16::MIN.into(), i16::MAX.into()),
            Some("int32") => (i32::MIN.into(), i32::MAX.into()),
            Some("int64" | "int") => (i64::MIN, i64::MAX),
            _ => return,
        };
        if !schema.contains_key("exclusiveMinimum") {
            schema.entry("minimum").or_insert(least.into());
        }
        if !schema.contains_key("exclusiveMaximum") {
            schema.entry("maximum").or_insert(most.into());
        }
    }
}

/// First and last letter, and how many, of `^[A-Z]{3}$`.
pub(crate) fn letters(pattern: &str) -> Option<(char, char, u64)> {
    let (class, count) = pattern.strip_prefix("^[")?.strip_suffix("}$")?.split_once("]{")?;
    let (first, last) = class.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, count.parse().ok()?))
}

/// Takes `null` from properties that may be left out.
fn never_null(schema: &mut Map<String, Value>) {
    let required: Vec<Value> = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (name, property) in properties {
        if let Value::Object(property) = property
            && !required.iter().any(|r| r == name)
        {
            without_null(property);
        }
    }
}

fn without_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(branches)) = property.get_mut("anyOf") {
        branches.retain(|branch| *branch != json!({"type": "null"}));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            property.remove("anyOf");
            for (keyword, value) in only {
                property.entry(keyword).or_insert(value);
            }
        }
    }
    if property.get("default") == Some(&Value::Null) {
        property.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_are_implied_are_said() {
        let rules_of = |schema: Value| listed(schema);
        assert_eq!(
            rules_of(json!({"type": "string", "pattern": "^[A-Z]{3}$"})),
            json!({"type": "string", "pattern": "^[A-Z]{3}$", "minLength": 3, "maxLength": 3})
        );
        for unchanged in [
            json!({"type": "string", "format": "date-time"}),
            json!({"type": "string", "enum": ["a"]}),
            json!({"type": "integer"}),
            json!({"type": "integer", "format": "uint32", "minimum": 1, "maximum": 9}),
        ] {
            assert_eq!(rules_of(unchanged.clone()), unchanged);
        }
        let bounds = |format: &str| {
            let schema = rules_of(json!({"type": ["integer", "null"], "format": format}));
            (schema["minimum"].as_i64(), schema["maximum"].as_i64())
        };
        assert_eq!(bounds("uint32"), (Some(0), Some(4_294_967_295)));
        assert_eq!(bounds("uint64"), (Some(0), Some(i64::MAX)));
        assert_eq!(bounds("int64"), (Some(i64::MIN), Some(i64::MAX)));
        assert_eq!(bounds("int16"), (Some(-32_768), Some(32_767)));
    }

    #[test]
    fn a_writer_is_closed_and_its_reader_open() {
        let schema = json!({
            "type": "object",
            "properties": {
                "note": {"type": ["string", "null"], "default": null},
                "price": {"anyOf": [{"$ref": "#/$defs/Money"}, {"type": "null"}]},
                "kept": {"type": ["string", "null"]},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "why": {"x-open-enum": true, "description": "Why.", "oneOf": [
                    {"const": "a", "type": "string", "description": "first"},
                    {"const": "b", "type": "string"},
                ]},
            },
            "required": ["kept", "why", "labels"],
            "$defs": {"Money": {"type": "object", "properties": {"amount": {"type": "integer"}}}},
        });
        let writer = closed(schema);
        let expected = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "note": {"type": "string", "pattern": TEXT_PATTERN},
                "price": {"$ref": "#/$defs/Money"},
                "kept": {"type": ["string", "null"], "pattern": TEXT_PATTERN},
                "labels": {"type": "object", "additionalProperties": {"type": "string", "pattern": TEXT_PATTERN}},
                "why": {"x-open-enum": true, "description": "Why.\n\n- `a`: first", "type": "string", "enum": ["a", "b"]},
            },
            "required": ["kept", "why", "labels"],
            "$defs": {"Money": {
                "type": "object", "additionalProperties": false, "properties": {"amount": {"type": "integer"}},
            }},
        });
        assert_eq!(writer, expected);
        assert_eq!(closed(writer.clone()), writer, "closing again changes nothing");
        let reader = opened(writer);
        assert_eq!(reader.pointer("/additionalProperties"), None);
        assert_eq!(reader.pointer("/$defs/Money/additionalProperties"), None);
        assert_eq!(reader.pointer("/properties/why/enum"), None, "an open enum takes any value");
        assert!(reader.pointer("/properties/labels/additionalProperties").is_some(), "a map is a map");
    }
}
