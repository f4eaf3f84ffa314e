//! Documents that a writer of a schema could publish: what tests of a change are made of.

use serde_json::{Map, Value, json};

use crate::form::{letters, resolve};

/// Types may contain themselves; deeper than this, nothing optional is said any more.
const DEPTH_MAX: usize = 6;

/// A document that is valid under a writer schema. `random(n)` draws a number below `n`.
///
/// Understands what types derive. Text with a `pattern` is made for patterns of the form `^[A-Z]{3}$`, others
/// give up what the pattern says.
///
/// ```
/// use serde_json::json;
///
/// let schema = json!({"type": "integer", "minimum": 5, "maximum": 9});
/// let document = tidings_schema::sample(&schema, &mut |n| n - 1);
/// assert!(tidings_schema::check(&schema, &document).is_empty());
/// ```
#[must_use]
pub fn sample(schema: &Value, random: &mut impl FnMut(u64) -> u64) -> Value {
    Sample { root: schema, random }.value(schema, 0)
}

struct Sample<'a, D> {
    root: &'a Value,
    random: &'a mut D,
}

impl<D: FnMut(u64) -> u64> Sample<'_, D> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        let schema = resolve(schema, self.root);
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return self.one_of(values).clone();
        }
        for keyword in ["oneOf", "anyOf"] {
            if let Some(branches) = schema.get(keyword).and_then(Value::as_array) {
                let branch = self.one_of(branches).clone();
                return self.value(&branch, depth + 1);
            }
        }
        let kind = match schema.get("type") {
            Some(Value::Array(kinds)) => self.one_of(kinds).clone(),
            Some(kind) => kind.clone(),
            None => "null".into(),
        };
        match kind.as_str().unwrap_or_default() {
            "boolean" => (self.throw(2) == 0).into(),
            "integer" => self.integer(&schema).into(),
            "number" => json!(self.integer(&schema) as f64),
            "string" => self.text(&schema).into(),
            "array" => self.list(&schema, depth),
            "object" => self.object(&schema, depth),
            _ => Value::Null,
        }
    }

    fn integer(&mut self, schema: &Map<String, Value>) -> i64 {
        let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_i64);
        let least = bound("minimum").or(bound("exclusiveMinimum").map(|least| least + 1));
        let most = bound("maximum").or(bound("exclusiveMaximum").map(|most| most - 1));
        let (least, most) = match (least, most) {
            (Some(least), Some(most)) => (least, most),
            (Some(least), None) => (least, least + 1000),
            (None, Some(most)) => (most - 1000, most),
            (None, None) => (0, 1000),
        };
        // Where rules break is at their bounds.
        let within = match self.throw(3) {
            0 => least,
            1 => most,
            _ => least + (self.throw(most.abs_diff(least).max(1)) as i64),
        };
        let step = bound("multipleOf").filter(|step| *step > 0).unwrap_or(1);
        within - within.rem_euclid(step)
    }

    fn text(&mut self, schema: &Map<String, Value>) -> String {
        if schema.get("format").is_some_and(|format| format == "date-time") {
            return format!("2026-01-02T03:04:{:02}Z", self.throw(60));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && let Some((first, last, length)) = letters(pattern)
        {
            return (0..length).map(|_| self.letter(first, last)).collect();
        }
        let length = self.length(schema, "minLength", "maxLength");
        (0..length).map(|_| self.letter('a', 'z')).collect()
    }

    fn letter(&mut self, first: char, last: char) -> char {
        let below = u64::from(u32::from(last) - u32::from(first) + 1);
        let letter = u32::from(first) + u32::try_from(self.throw(below)).unwrap_or_default();
        char::from_u32(letter).unwrap_or(first)
    }

    fn list(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        let length = self.length(schema, "minItems", "maxItems").min(4 + depth as u64);
        let any = json!({"type": "string"});
        let items = schema.get("items").unwrap_or(&any);
        (0..length).map(|_| self.value(items, depth + 1)).collect()
    }

    fn length(&mut self, schema: &Map<String, Value>, least: &str, most: &str) -> u64 {
        let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
        let least = bound(least).unwrap_or(0);
        let most = bound(most).unwrap_or(least + 5);
        match self.throw(4) {
            0 => least,
            1 if most < 300 => most,
            _ => (least + self.throw(5)).min(most),
        }
    }

    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        let none = Map::new();
        let required = schema.get("required").and_then(Value::as_array);
        let mut object = Map::new();
        for (name, property) in schema.get("properties").and_then(Value::as_object).unwrap_or(&none) {
            let is_required = required.is_some_and(|required| required.iter().any(|r| r == name));
            if is_required || (depth < DEPTH_MAX && self.throw(2) == 0) {
                object.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        Value::Object(object)
    }

    fn one_of<'v>(&mut self, values: &'v [Value]) -> &'v Value {
        let index = self.throw(values.len().max(1) as u64);
        values.get(usize::try_from(index).unwrap_or_default()).unwrap_or(&Value::Null)
    }

    fn throw(&mut self, below: u64) -> u64 {
        (self.random)(below) % below.max(1)
    }
}
