//! The check of a document against a schema: every violation, with its place and its rule.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::form::resolve;
use crate::{ALIASES, OPEN_ENUM, TEXT_PATTERN};

/// Violations of one document that are told; a list of a million wrong items is told by its first ones.
const VIOLATIONS_MAX: usize = 100;

/// One rule that a document breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The place: a JSON pointer (RFC 6901), empty for the whole document.
    pub pointer: String,
    /// The keyword of JSON Schema that is broken: `minimum`, `required`, `type`.
    pub rule: &'static str,
    /// In words: `must be at least 1`.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "the document" } else { &self.pointer };
        write!(f, "{place}: {} ({})", self.detail, self.rule)
    }
}

/// Everything that is wrong with a document, in its own order; at most a hundred things.
///
/// `pattern` (but for [`TEXT_PATTERN`](crate::TEXT_PATTERN)) and `format` of text are annotations here: who
/// validates values knows them.
///
/// ```
/// use serde_json::json;
///
/// let schema = json!({"type": "object", "properties": {"grams": {"type": "integer", "minimum": 1}}});
/// let broken = tidings_schema::check(&schema, &json!({"grams": 0}));
/// assert_eq!((&*broken[0].pointer, broken[0].rule), ("/grams", "minimum"));
/// ```
#[must_use]
pub fn check(schema: &Value, document: &Value) -> Vec<Violation> {
    let mut check = Check { root: schema, at: String::new(), found: Vec::new() };
    check.schema(schema, document);
    check.found
}

struct Check<'a> {
    root: &'a Value,
    at: String,
    found: Vec<Violation>,
}

impl Check<'_> {
    fn schema(&mut self, schema: &Value, value: &Value) {
        if self.found.len() >= VIOLATIONS_MAX {
            return;
        }
        let schema = resolve(schema, self.root);
        if let Some(types) = schema.get("type")
            && !is_of(types, value)
        {
            // What follows is about values of that type.
            return self.broken("type", format!("must be {}, is {}", type_words(types), kind(value)));
        }
        self.values(&schema, value);
        self.branches(&schema, value);
        match value {
            Value::Number(number) => self.number(&schema, number),
            Value::String(text) => {
                self.length(&schema, text.chars().count(), ["minLength", "maxLength"], "character");
                if text.contains('\0') && schema.get("pattern").is_some_and(|p| p == TEXT_PATTERN) {
                    self.broken("pattern", "must not have the character U+0000".to_owned());
                }
            }
            Value::Array(items) => self.items(&schema, items),
            Value::Object(members) => self.members(&schema, members),
            _ => {}
        }
    }

    fn values(&mut self, schema: &Map<String, Value>, value: &Value) {
        let is_open = schema.get(OPEN_ENUM) == Some(&Value::Bool(true));
        if let Some(Value::Array(values)) = schema.get("enum")
            && !values.iter().any(|known| is_equal(known, value))
            && !(is_open && value.is_string())
        {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            self.broken("enum", format!("must be one of {}", values.join(", ")));
        }
        if let Some(constant) = schema.get("const")
            && !is_equal(constant, value)
        {
            self.broken("const", format!("must be {constant}"));
        }
    }

    fn branches(&mut self, schema: &Map<String, Value>, value: &Value) {
        for branch in list(schema, "allOf") {
            self.schema(branch, value);
        }
        let branches = list(schema, "anyOf");
        if !branches.is_empty() && !branches.iter().any(|branch| self.fits(branch, value)) {
            self.no_branch("anyOf", branches, value);
        }
        let branches = list(schema, "oneOf");
        match branches.iter().filter(|branch| self.fits(branch, value)).count() {
            0 if !branches.is_empty() => self.no_branch("oneOf", branches, value),
            0 | 1 => {}
            fitting => self.broken("oneOf", format!("fits {fitting} forms, of which only one may fit")),
        }
        if let Some(not) = schema.get("not")
            && self.fits(not, value)
        {
            self.broken("not", "must not have this form".to_owned());
        }
        if let Some(condition) = schema.get("if") {
            let then = if self.fits(condition, value) { "then" } else { "else" };
            if let Some(then) = schema.get(then) {
                self.schema(then, value);
            }
        }
    }

    /// Of several forms, the one that was meant says what is wrong; otherwise it is said that none fits.
    fn no_branch(&mut self, rule: &'static str, branches: &[Value], value: &Value) {
        let meant: Vec<&Value> = branches
            .iter()
            .filter(|branch| {
                let branch = resolve(branch, self.root);
                branch.get("type").is_none_or(|types| is_of(types, value))
            })
            .collect();
        match meant.as_slice() {
            [only] => self.schema(only, value),
            _ => self.broken(rule, format!("fits none of {} forms", branches.len())),
        }
    }

    fn number(&mut self, schema: &Map<String, Value>, number: &serde_json::Number) {
        let value = number.as_f64().unwrap_or_default();
        let bound = |keyword: &str| Some((schema.get(keyword)?, schema.get(keyword)?.as_f64()?));
        if let Some((bound, least)) = bound("minimum")
            && value < least
        {
            self.broken("minimum", format!("must be at least {bound}"));
        }
        if let Some((bound, most)) = bound("maximum")
            && value > most
        {
            self.broken("maximum", format!("must be at most {bound}"));
        }
        if let Some((bound, least)) = bound("exclusiveMinimum")
            && value <= least
        {
            self.broken("exclusiveMinimum", format!("must be more than {bound}"));
        }
        if let Some((bound, most)) = bound("exclusiveMaximum")
            && value >= most
        {
            self.broken("exclusiveMaximum", format!("must be less than {bound}"));
        }
        if let Some((step, of)) = bound("multipleOf")
            && (value / of).fract() != 0.0
        {
            self.broken("multipleOf", format!("must be a multiple of {step}"));
        }
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        let has_room = match format {
            "uint8" => (0.0..=f64::from(u8::MAX)).contains(&value),
            "uint16" => (0.0..=f64::from(u16::MAX)).contains(&value),
            "uint32" => (0.0..=f64::from(u32::MAX)).contains(&value),
            "int32" => (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value),
            "uint64" | "uint" => {
                number.is_u64() || (value.fract() == 0.0 && number.is_f64() && value < 1.8e19)
            }
            "int64" | "int" => number.is_i64() || (value.fract() == 0.0 && number.is_f64() && value < 9.2e18),
            _ => true,
        };
        if !has_room && self.found.last().is_none_or(|last| last.pointer != self.at) {
            self.broken("format", format!("does not fit {format}"));
        }
    }

    fn length(
        &mut self,
        schema: &Map<String, Value>,
        length: usize,
        [least, most]: [&'static str; 2],
        unit: &str,
    ) {
        let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
        if let Some(bound) = bound(least)
            && (length as u64) < bound
        {
            self.broken(least, format!("must have at least {}", counted(bound, unit)));
        }
        if let Some(bound) = bound(most)
            && (length as u64) > bound
        {
            self.broken(most, format!("must have at most {}", counted(bound, unit)));
        }
    }

    fn items(&mut self, schema: &Map<String, Value>, items: &[Value]) {
        self.length(schema, items.len(), ["minItems", "maxItems"], "item");
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            let different: BTreeSet<String> = items.iter().map(Value::to_string).collect();
            if different.len() < items.len() {
                self.broken("uniqueItems", "must not have an item twice".to_owned());
            }
        }
        let first = list(schema, "prefixItems");
        for (n, item) in items.iter().enumerate() {
            if let Some(schema) = first.get(n).or_else(|| schema.get("items")) {
                self.at(&n.to_string(), |check| check.schema(schema, item));
            }
        }
        if let Some(wanted) = schema.get("contains") {
            let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
            let found = items.iter().filter(|item| self.fits(wanted, item)).count() as u64;
            if found < bound("minContains").unwrap_or(1)
                || bound("maxContains").is_some_and(|most| found > most)
            {
                self.broken("contains", format!("has {found} items of the wanted form"));
            }
        }
    }

    fn members(&mut self, schema: &Map<String, Value>, members: &Map<String, Value>) {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        self.length(schema, members.len(), ["minProperties", "maxProperties"], "field");
        let is_there = |name: &str| {
            let aliases = properties.get(name).map_or(&[][..], aliases);
            members.contains_key(name)
                || aliases.iter().any(|a| a.as_str().is_some_and(|a| members.contains_key(a)))
        };
        for name in list(schema, "required").iter().filter_map(Value::as_str) {
            if !is_there(name) {
                self.broken("required", format!("`{name}` is missing"));
            }
        }
        if let Some(Value::Object(dependent)) = schema.get("dependentRequired") {
            for (name, needed) in dependent.iter().filter(|(name, _)| is_there(name)) {
                for needed in needed.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !is_there(needed) {
                        self.broken(
                            "dependentRequired",
                            format!("`{needed}` is missing, which `{name}` needs"),
                        );
                    }
                }
            }
        }
        for (name, value) in members {
            let known = properties.get(name).or_else(|| {
                let named = |schema: &&Value| aliases(schema).iter().any(|alias| alias == name);
                properties.values().find(named)
            });
            match (known, schema.get("additionalProperties")) {
                (Some(schema), _) => self.at(name, |check| check.schema(schema, value)),
                (None, Some(Value::Bool(false))) => {
                    let known: Vec<String> = properties.keys().map(|name| format!("`{name}`")).collect();
                    let detail = match known.as_slice() {
                        [] => "is unknown here".to_owned(),
                        known => format!("is unknown here; known are {}", known.join(", ")),
                    };
                    self.at(name, |check| check.broken("additionalProperties", detail));
                }
                (None, Some(schema)) => self.at(name, |check| check.schema(schema, value)),
                (None, None) => {}
            }
        }
    }

    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut check = Check { root: self.root, at: String::new(), found: Vec::new() };
        check.schema(schema, value);
        check.found.is_empty()
    }

    fn at(&mut self, step: &str, within: impl FnOnce(&mut Self)) {
        let length = self.at.len();
        self.at.push('/');
        self.at.push_str(&step.replace('~', "~0").replace('/', "~1"));
        within(self);
        self.at.truncate(length);
    }

    fn broken(&mut self, rule: &'static str, detail: String) {
        self.found.push(Violation { pointer: self.at.clone(), rule, detail });
    }
}

pub(crate) fn counted(number: u64, unit: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

fn list<'a>(schema: &'a Map<String, Value>, keyword: &str) -> &'a [Value] {
    schema.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn aliases(schema: &Value) -> &[Value] {
    schema.get(ALIASES).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// JSON knows no difference between 1 and 1.0.
fn is_equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn is_of(types: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    match types {
        Value::Array(types) => types.iter().any(is),
        one => is(one),
    }
}

fn type_words(types: &Value) -> String {
    let word = |name: &Value| match name.as_str().unwrap_or_default() {
        "null" => "null",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "array" => "a list",
        "object" => "an object",
        _ => "something else",
    };
    match types {
        Value::Array(types) => types.iter().map(word).collect::<Vec<_>>().join(" or "),
        one => word(one).to_owned(),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn assert_violations(schema: &Value, document: &Value, expected: Expect) {
        let lines: Vec<String> = check(schema, document).iter().map(ToString::to_string).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn every_violation_is_told_with_place_and_rule() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["items", "total"],
            "properties": {
                "items": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Item"}},
                "total": {"type": "integer"},
                "note": {"type": ["string", "null"], "maxLength": 3},
            },
            "$defs": {"Item": {
                "type": "object",
                "required": ["id", "quantity"],
                "properties": {
                    "id": {"type": "string", "minLength": 1},
                    "quantity": {"type": "integer", "format": "uint32", "minimum": 1, "maximum": 9, "x-aliases": ["qty"]},
                    "why": {"type": "string", "enum": ["a", "b"]},
                },
            }},
        });
        let document = json!({
            "items": [{"id": "", "quantity": 0}, {"id": 5, "qty": 10, "why": "c"}, 7],
            "note": "four",
            "~/x": 1,
        });
        assert_violations(
            &schema,
            &document,
            expect![[r#"
                the document: `total` is missing (required)
                /items/0/id: must have at least 1 character (minLength)
                /items/0/quantity: must be at least 1 (minimum)
                /items/1/id: must be text, is 5 (type)
                /items/1/qty: must be at most 9 (maximum)
                /items/1/why: must be one of "a", "b" (enum)
                /items/2: must be an object, is 7 (type)
                /note: must have at most 3 characters (maxLength)
                /~0~1x: is unknown here; known are `items`, `note`, `total` (additionalProperties)"#]],
        );
        assert_violations(&schema, &json!([]), expect!["the document: must be an object, is a list (type)"]);
    }

    #[test]
    fn branches_conditions_and_lists_are_looked_into() {
        let schema = json!({
            "properties": {
                "either": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["id"]}]},
                "one": {"oneOf": [{"minimum": 1}, {"maximum": 9}]},
                "no": {"not": {"const": 1}},
                "if": {"if": {"const": 1}, "then": {"type": "string"}, "else": {"type": "integer"}},
                "set": {"uniqueItems": true, "prefixItems": [{"const": 1}], "items": {"const": 2}},
                "step": {"multipleOf": 5, "exclusiveMinimum": 0},
                "word": {"enum": ["a"], "x-open-enum": true},
            },
            "dependentRequired": {"no": ["more"]},
        });
        let document = json!({
            "either": {}, "one": 5, "no": 1, "if": 1, "set": [1, 2, 2, 3], "step": 7, "word": "z",
        });
        assert_violations(
            &schema,
            &document,
            expect![[r#"
                the document: `more` is missing, which `no` needs (dependentRequired)
                /either: `id` is missing (required)
                /if: must be text, is 1 (type)
                /no: must not have this form (not)
                /one: fits 2 forms, of which only one may fit (oneOf)
                /set: must not have an item twice (uniqueItems)
                /set/3: must be 2 (const)
                /step: must be a multiple of 5 (multipleOf)"#]],
        );
        assert_eq!(check(&json!({"type": "integer"}), &json!(2.0)), []);
        assert_eq!(check(&json!({"format": "uint8"}), &json!(256)).len(), 1);
        assert_eq!(check(&json!(false), &json!(1)).len(), 1, "nothing fits false");
    }
}
