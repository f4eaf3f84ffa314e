//! The differences between two writer schemas, and the readers that each difference harms.
//!
//! *Backward*: what was published under the old one must be readable under the new one. *Forward*: what is
//! published under the new one must be readable by programs that still run the old one. Readers take unknown
//! properties, and unknown values of open enums. A keyword that is not known here is never taken for harmless.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::form::{list_values, resolve, say_implied};
use crate::{ALIASES, OPEN_ENUM, TEXT_PATTERN, UPCAST};

/// One difference between two schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The place, as a JSON pointer into documents, `*` for every item: `/items/*/quantity`.
    pub pointer: String,
    /// The difference in words: "the optional property `note` was added".
    pub words: String,
    /// The readers that it harms.
    pub breaks: Breaks,
    /// The way to do without the change, if it harms.
    pub remedy: Remedy,
}

/// The readers that a change harms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaks {
    /// New readers of what was published before.
    pub backward: bool,
    /// Readers as deployed, of what is published from now on.
    pub forward: bool,
}

/// The way to do without a harmful change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: the change harms no reader.
    None,
    /// A new name beside the old one.
    AddBeside {
        /// The former name.
        old: String,
        /// The name it was to have.
        new: String,
    },
    /// Optional, or with a value for events that do not have it.
    Optional(String),
    /// Keep it, and let it be.
    Keep(String),
    /// An enum that readers take for open before it grows.
    OpenEnum,
    /// A type of its own, beside the old one.
    NewMajor,
    /// The writer must say all that it writes.
    Close,
}

impl Breaks {
    const NONE: Self = Self { backward: false, forward: false };
    const BACKWARD: Self = Self { backward: true, forward: false };
    const FORWARD: Self = Self { backward: false, forward: true };
    const BOTH: Self = Self { backward: true, forward: true };

    /// Tells whether the change harms any reader.
    #[must_use]
    pub fn is_any(self) -> bool {
        self != Self::NONE
    }

    fn turned(self) -> Self {
        Self { backward: self.forward, forward: self.backward }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.words),
            pointer => write!(f, "{pointer}: {}", self.words),
        }
    }
}

/// Every difference between two writer schemas, in the order of the new one's keywords.
///
/// ```
/// use serde_json::json;
///
/// let grams = |least| json!({"type": "object", "properties": {"grams": {"type": "integer", "minimum": least}}});
/// let changes = tidings_schema::changes(&grams(0), &grams(1));
/// assert_eq!(changes[0].pointer, "/grams");
/// assert!(changes[0].breaks.backward && !changes[0].breaks.forward, "0 was published before");
/// ```
#[must_use]
pub fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let mut differ = Differ {
        old_root: old,
        new_root: new,
        at: String::new(),
        under_not: false,
        followed: Vec::new(),
        found: Vec::new(),
    };
    differ.schema(old, new);
    differ.found
}

/// Keywords that say nothing about which documents are valid.
const NOTES: [&str; 11] = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$id",
    "$schema",
    "$comment",
    UPCAST,
];
/// Keywords whose meaning cannot be seen in documents: a person has to look at a difference.
const MEANINGS: [&str; 2] = ["x-unit", "x-semantics"];
/// Bounds, and whether a larger value lets more documents through.
const BOUNDS: [(&str, bool); 10] = [
    ("minimum", false),
    ("exclusiveMinimum", false),
    ("minLength", false),
    ("minItems", false),
    ("minProperties", false),
    ("maximum", true),
    ("exclusiveMaximum", true),
    ("maxLength", true),
    ("maxItems", true),
    ("maxProperties", true),
];

struct Differ<'a> {
    old_root: &'a Value,
    new_root: &'a Value,
    at: String,
    /// Under `not`, what lets more through lets less through.
    under_not: bool,
    /// Pairs of schemas that are being compared: types may contain themselves.
    followed: Vec<(Map<String, Value>, Map<String, Value>)>,
    found: Vec<Change>,
}

type Schema = Map<String, Value>;

impl Differ<'_> {
    fn schema(&mut self, old: &Value, new: &Value) {
        let [old, new] = [(old, self.old_root), (new, self.new_root)].map(|(schema, root)| {
            let mut schema = resolve(schema, root);
            list_values(&mut schema);
            say_implied(&mut schema);
            // Said of all text, also in contracts that were recorded before it was written down.
            if schema.get("pattern").is_some_and(|pattern| pattern == TEXT_PATTERN) {
                schema.remove("pattern");
            }
            schema.remove("$defs");
            schema
        });
        let pair = (old, new);
        if self.followed.contains(&pair) {
            return;
        }
        self.followed.push(pair.clone());
        let (old, new) = pair;
        self.properties(&old, &new);
        self.additional(old.get("additionalProperties"), new.get("additionalProperties"), &new);
        let keywords: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for keyword in keywords {
            self.keyword(keyword, &old, &new);
        }
        self.followed.pop();
    }

    fn keyword(&mut self, keyword: &str, old: &Schema, new: &Schema) {
        let (before, after) = (old.get(keyword), new.get(keyword));
        match keyword {
            // Told by `properties` and `additional`.
            "properties" | "required" | "additionalProperties" => {}
            "items" | "contains" | "propertyNames" | "then" | "else" => {
                self.below(keyword, before, after);
            }
            "not" => {
                self.under_not = !self.under_not;
                self.below(keyword, before, after);
                self.under_not = !self.under_not;
            }
            "prefixItems" => self.positions(before, after),
            "allOf" | "anyOf" | "oneOf" => self.branches(keyword, before, after, old),
            _ if before == after => {}
            "type" => self.types(before, after),
            "enum" => self.values(before, after, old),
            "const" => self.constant(before, after),
            "pattern" | "format" => self.text(keyword, before, after),
            "uniqueItems" => match after {
                Some(Value::Bool(true)) => {
                    self.narrower("items must be different from each other now".into())
                }
                _ => self.wider("items may be the same now".into()),
            },
            "multipleOf" => self.multiple(before, after),
            "dependentRequired" => self.report(
                "which properties need each other has changed".into(),
                Breaks::BOTH,
                Remedy::NewMajor,
            ),
            OPEN_ENUM => match after {
                Some(Value::Bool(true)) => self.note("readers take values now that they do not know".into()),
                _ => self.report(
                    "readers refuse values now that they do not know".into(),
                    Breaks::BACKWARD,
                    Remedy::Keep("the enum open".into()),
                ),
            },
            ALIASES => self.aliases(before, after),
            keyword if NOTES.contains(&keyword) => self.note(format!("{keyword} is another")),
            keyword if MEANINGS.contains(&keyword) => self.report(
                format!(
                    "{keyword} was {} and is {}: the same document means something else",
                    shown(before),
                    shown(after)
                ),
                Breaks::BOTH,
                Remedy::NewMajor,
            ),
            keyword => match BOUNDS.iter().find(|(bound, _)| *bound == keyword) {
                Some((_, larger_is_wider)) => self.bound(keyword, *larger_is_wider, before, after),
                None => self.report(
                    format!("`{keyword}` has changed, and nobody here can prove what that means"),
                    Breaks::BOTH,
                    Remedy::NewMajor,
                ),
            },
        }
    }

    fn properties(&mut self, old: &Schema, new: &Schema) {
        let none = Map::new();
        let of = |schema: &Schema| schema.get("properties").and_then(Value::as_object).cloned();
        let (before, after) = (of(old).unwrap_or(none.clone()), of(new).unwrap_or(none));
        let removed: Vec<&String> = before.keys().filter(|name| !after.contains_key(*name)).collect();
        let mut added: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        for name in removed {
            let shape = self.shape(&before[name], self.old_root);
            let renamed =
                added.iter().position(|new_name| self.shape(&after[*new_name], self.new_root) == shape);
            match renamed {
                Some(index) => {
                    let new_name = added.remove(index);
                    let breaks = match (is_required(old, name), is_required(new, new_name)) {
                        (true, true) => Breaks::BOTH,
                        (true, false) => Breaks::FORWARD,
                        (false, true) => Breaks::BACKWARD,
                        // No reader fails; what was said under the old name is no longer heard.
                        (false, false) => Breaks::BOTH,
                    };
                    let remedy = Remedy::AddBeside { old: name.clone(), new: new_name.clone() };
                    self.report(format!("`{name}` was renamed to `{new_name}`"), breaks, remedy);
                }
                None if is_required(old, name) => self.report(
                    format!("the required property `{name}` was removed"),
                    Breaks::FORWARD,
                    Remedy::Keep(format!("`{name}`")),
                ),
                None => {
                    self.note(format!("the optional property `{name}` was removed; its name stays taken"))
                }
            }
        }
        for name in added {
            if !is_required(new, name) {
                self.note(format!("the optional property `{name}` was added"));
                continue;
            }
            self.required_now(format!("the required property `{name}` was added"), name, &after[name]);
        }
        for (name, after) in &after {
            let Some(before) = before.get(name) else { continue };
            match (is_required(old, name), is_required(new, name)) {
                (false, true) => self.required_now(format!("`{name}` is required now"), name, after),
                (true, false) => self.report(
                    format!("`{name}` may be left out now"),
                    Breaks::FORWARD,
                    Remedy::Keep(format!("`{name}`")),
                ),
                _ => {}
            }
            self.step(name, |differ| differ.schema(before, after));
        }
    }

    fn required_now(&mut self, words: String, name: &str, property: &Value) {
        match resolve(property, self.new_root).get(UPCAST) {
            Some(value) => self.note(format!("{words}; to readers of older events it is {value}")),
            None => self.report(words, Breaks::BACKWARD, Remedy::Optional(name.to_owned())),
        }
    }

    fn additional(&mut self, before: Option<&Value>, after: Option<&Value>, new: &Schema) {
        match (before, after) {
            (Some(Value::Object(_)), Some(Value::Object(_))) => {
                self.below("additionalProperties", before, after);
            }
            (before, Some(Value::Bool(false))) if before.is_some_and(Value::is_object) => {
                self.narrower("names of one's own choice are not taken any more".into());
            }
            (_, Some(Value::Bool(false))) => {}
            (Some(Value::Object(_)), _) if before != after => self.report(
                "what names of one's own choice hold has changed".into(),
                Breaks::BOTH,
                Remedy::NewMajor,
            ),
            _ if new.contains_key("properties") && new.get("type").is_some_and(|t| t == "object") => self
                .report(
                    "the writer is open: it may publish properties that nobody described".into(),
                    Breaks::FORWARD,
                    Remedy::Close,
                ),
            (before, after) if before != after => {
                self.wider("names of one's own choice are taken now".into())
            }
            _ => {}
        }
    }

    fn below(&mut self, keyword: &str, before: Option<&Value>, after: Option<&Value>) {
        let step = match keyword {
            "items" | "contains" | "additionalProperties" => "*".to_owned(),
            other => format!("({other})"),
        };
        match (before, after) {
            (Some(before), Some(after)) => self.step(&step, |differ| differ.schema(before, after)),
            (None, Some(Value::Bool(true))) | (Some(Value::Bool(true)), None) | (None, None) => {}
            // To have `not` is to take less, whatever it says.
            (None, Some(_)) if keyword == "not" => self.wider(format!("`{keyword}` was added")),
            (Some(_), None) if keyword == "not" => self.narrower(format!("`{keyword}` was removed")),
            (None, Some(_)) => self.narrower(format!("`{keyword}` was added")),
            (Some(_), None) => self.wider(format!("`{keyword}` was removed")),
        }
    }

    fn positions(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let (before, after) = (list(before), list(after));
        if before.len() != after.len() {
            return self.report(
                format!("the first items were {} and are {}", before.len(), after.len()),
                Breaks::BOTH,
                Remedy::NewMajor,
            );
        }
        for (n, (before, after)) in before.iter().zip(&after).enumerate() {
            self.step(&n.to_string(), |differ| differ.schema(before, after));
        }
    }

    fn branches(&mut self, keyword: &str, before: Option<&Value>, after: Option<&Value>, old: &Schema) {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        if keyword != "allOf" && before.is_some() != after.is_some() {
            let words = match after {
                Some(_) => format!("must be one of several forms now (`{keyword}`)"),
                None => format!("was one of several forms (`{keyword}`), and is something else"),
            };
            return self.report(words, Breaks::BOTH, Remedy::NewMajor);
        }
        let (mut before, mut after) = (list(before), list(after));
        // Branches that are the same need no partner; one that is left on each side has changed.
        before.retain(|branch| {
            let shape = self.shape(branch, self.old_root);
            let same = after.iter().position(|new| self.shape(new, self.new_root) == shape);
            same.map(|index| after.remove(index)).is_none()
        });
        if let ([only_before], [only_after]) = (before.as_slice(), after.as_slice()) {
            let step = format!("({keyword})");
            return self.step(&step, |differ| differ.schema(only_before, only_after));
        }
        let is_open = old.get(OPEN_ENUM) == Some(&Value::Bool(true));
        for _ in &before {
            match keyword {
                "allOf" => self.wider("a condition of `allOf` was removed".into()),
                _ => self.narrower(format!("a form of `{keyword}` was removed")),
            }
        }
        for branch in &after {
            match keyword {
                "allOf" => self.narrower("a condition of `allOf` was added".into()),
                _ if is_open && self.is_discriminated(branch) => {
                    self.note(format!("a form of the open `{keyword}` was added"));
                }
                _ => self.wider(format!("a form of `{keyword}` was added")),
            }
        }
    }

    /// Tells whether a constant in a form sets it apart from the others.
    fn is_discriminated(&self, branch: &Value) -> bool {
        let branch = resolve(branch, self.new_root);
        let properties = branch.get("properties").and_then(Value::as_object);
        properties.is_some_and(|properties| properties.values().any(|p| p.get("const").is_some()))
    }

    fn types(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let (Some(old), Some(new)) = (before.map(types), after.map(types)) else {
            return match after {
                Some(_) => self.narrower(format!("must be {} now", shown(after))),
                None => self.wider(format!("may be anything now, was {}", shown(before))),
            };
        };
        let words = format!("was {} and is {}", shown(before), shown(after));
        let within = |narrow: &BTreeSet<String>, wide: &BTreeSet<String>| {
            narrow.iter().all(|t| wide.contains(t) || (t == "integer" && wide.contains("number")))
        };
        match (within(&old, &new), within(&new, &old)) {
            (true, true) => {}
            (true, false) => self.wider(words),
            (false, true) => self.narrower(words),
            (false, false) => self.report(words, Breaks::BOTH, Remedy::NewMajor),
        }
    }

    fn values(&mut self, before: Option<&Value>, after: Option<&Value>, old: &Schema) {
        let (Some(Value::Array(before)), Some(Value::Array(after))) = (before, after) else {
            return match after {
                Some(_) => self.narrower("only certain values are taken now".into()),
                None => self.wider("any value is taken now".into()),
            };
        };
        let is_open = old.get(OPEN_ENUM) == Some(&Value::Bool(true));
        for value in before.iter().filter(|value| !after.contains(value)) {
            self.report(
                format!("the value {value} was removed"),
                Breaks::BACKWARD,
                Remedy::Keep(format!("{value}, and stop publishing it")),
            );
        }
        for value in after.iter().filter(|value| !before.contains(value)) {
            match is_open {
                true => self.note(format!("the value {value} was added to an open enum")),
                false => {
                    self.report(format!("the value {value} was added"), Breaks::FORWARD, Remedy::OpenEnum);
                }
            }
        }
    }

    fn constant(&mut self, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (None, _) => self.narrower(format!("must be {} now", shown(after))),
            (_, None) => self.wider(format!("need not be {} any more", shown(before))),
            _ => {
                let words = format!("was {} and is {}", shown(before), shown(after));
                self.report(words, Breaks::BOTH, Remedy::NewMajor);
            }
        }
    }

    fn text(&mut self, keyword: &str, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (None, _) => self.narrower(format!("{keyword} {} was added", shown(after))),
            (_, None) => self.wider(format!("{keyword} {} was removed", shown(before))),
            _ => {
                // It cannot be told in general which of two patterns lets more through.
                let words = format!("{keyword} was {} and is {}", shown(before), shown(after));
                self.report(words, Breaks::BOTH, Remedy::NewMajor);
            }
        }
    }

    fn multiple(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        let words = format!("multipleOf was {} and is {}", shown(before), shown(after));
        match (number(before), number(after)) {
            (None, _) => self.narrower(words),
            (_, None) => self.wider(words),
            (Some(old), Some(new)) if (old / new).fract() == 0.0 => self.wider(words),
            (Some(old), Some(new)) if (new / old).fract() == 0.0 => self.narrower(words),
            _ => self.report(words, Breaks::BOTH, Remedy::NewMajor),
        }
    }

    fn bound(&mut self, keyword: &str, larger_is_wider: bool, before: Option<&Value>, after: Option<&Value>) {
        let words = format!("{keyword} was {} and is {}", shown(before), shown(after));
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        match (number(before), number(after)) {
            (None, _) => self.narrower(words),
            (_, None) => self.wider(words),
            (Some(old), Some(new)) if (new > old) == larger_is_wider => self.wider(words),
            _ => self.narrower(words),
        }
    }

    fn aliases(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let after = list(after);
        for alias in list(before).iter().filter(|alias| !after.contains(alias)) {
            self.report(
                format!("{alias} is not understood any more"),
                Breaks::BACKWARD,
                Remedy::Keep(format!("the alias {alias}")),
            );
        }
        if after.len() > list(before).len() {
            self.note("another name is understood".into());
        }
    }

    /// Returns what a schema demands, without its notes: to find the same schema under another name.
    fn shape(&self, schema: &Value, root: &Value) -> Value {
        let mut schema = resolve(schema, root);
        for note in NOTES {
            schema.remove(note);
        }
        Value::Object(schema)
    }

    /// More documents are valid: those who still read the old schema may meet one that is not.
    fn wider(&mut self, words: String) {
        self.report(words, Breaks::FORWARD, Remedy::NewMajor);
    }

    /// Fewer documents are valid: one that was published before may not be.
    fn narrower(&mut self, words: String) {
        self.report(words, Breaks::BACKWARD, Remedy::NewMajor);
    }

    fn note(&mut self, words: String) {
        self.report(words, Breaks::NONE, Remedy::None);
    }

    fn report(&mut self, words: String, breaks: Breaks, remedy: Remedy) {
        let breaks = if self.under_not { breaks.turned() } else { breaks };
        self.found.push(Change { pointer: self.at.clone(), words, breaks, remedy });
    }

    fn step(&mut self, step: &str, within: impl FnOnce(&mut Self)) {
        let length = self.at.len();
        self.at.push('/');
        self.at.push_str(step);
        within(self);
        self.at.truncate(length);
    }
}

fn is_required(schema: &Schema, name: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|required| required.iter().any(|r| r == name))
}

fn types(types: &Value) -> BTreeSet<String> {
    match types {
        Value::Array(types) => types.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        one => one.as_str().map(ToOwned::to_owned).into_iter().collect(),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Array(values)) => values.iter().map(|v| shown(Some(v))).collect::<Vec<_>>().join(" or "),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
