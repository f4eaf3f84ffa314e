//! The JSON form of a type: its schema, and the reasons that a document does not have it.
//!
//! Fields, rules and words are those of the Rust type; nothing is said twice.

use std::borrow::Cow;
use std::fmt;

use garde::Validate;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_schema::{OPEN_ENUM, TEXT_PATTERN, UPCAST, check, closed, listed, resolve};

use crate::event::Event;
use crate::strict::{self, NO_TEXT, Strict};

/// Violations that an error message has room for; of a document that breaks more rules, the first ones are shown.
const SHOWN_MAX: usize = 20;

/// One rule that a document breaks.
///
/// ```
/// use tidings::Violation;
///
/// let broken = Violation::new("/items/0/quantity", "minimum", "must be at least 1");
/// assert_eq!(broken.to_string(), "/items/0/quantity: must be at least 1 (minimum)");
/// ```
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Violation {
    /// Where: a JSON pointer (RFC 6901), empty for the whole document.
    pub pointer: String,
    /// Which rule: a keyword of JSON Schema (`minimum`, `required`), or a word of the service's own.
    pub rule: Cow<'static, str>,
    /// The same in words.
    pub detail: String,
}

impl Violation {
    /// A broken rule at a JSON pointer.
    pub fn new(
        pointer: impl Into<String>,
        rule: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self { pointer: pointer.into(), rule: rule.into(), detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "the document" } else { &self.pointer };
        write!(f, "{place}: {} ({})", self.detail, self.rule)
    }
}

impl From<tidings_schema::Violation> for Violation {
    fn from(found: tidings_schema::Violation) -> Self {
        Self::new(found.pointer, found.rule, found.detail)
    }
}

/// The writer schema of an event: exactly what is published.
///
/// ```
/// use tidings_testkit::event::NoteTaken;
///
/// let schema = tidings::writer_schema::<NoteTaken>();
/// assert_eq!(schema["title"], "note.taken.v1");
/// assert_eq!(schema["additionalProperties"], false);
/// ```
#[must_use]
pub fn writer<E: Event>() -> Value {
    let settings = SchemaSettings::draft2020_12();
    let root = |settings: SchemaSettings| Value::from(settings.into_generator().into_root_schema_for::<E>());
    let mut schema = root(settings.clone().for_serialize());
    let reader = root(settings);
    upcasts(&mut schema, &reader);
    for name in schema.pointer("/$defs").and_then(Value::as_object).map(names).unwrap_or_default() {
        if let Some(reader) = reader.pointer("/$defs").and_then(|defs| defs.get(&name)) {
            upcasts(&mut schema["$defs"][&name], reader);
        }
    }
    let mut schema = closed(schema);
    schema["title"] = E::TYPE.into();
    schema
}

/// Notes the value that a reader assumes for a field that is always written and need not be there when read. It
/// stands in the schema so that the gate knows of it.
fn upcasts(writer: &mut Value, reader: &Value) {
    let required =
        |schema: &Value| schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let needed = required(reader);
    for name in required(writer).iter().filter(|name| !needed.contains(name)).filter_map(Value::as_str) {
        if let Some(Value::Object(property)) = writer.pointer_mut("/properties").and_then(|p| p.get_mut(name))
        {
            let value = property.get("default").cloned().unwrap_or_default();
            property.insert(UPCAST.to_owned(), value);
        }
    }
}

fn names(map: &Map<String, Value>) -> Vec<String> {
    map.keys().cloned().collect()
}

/// The schema that a document is read by: what must be there, and what may.
///
/// ```
/// #[derive(schemars::JsonSchema)]
/// struct Parcel { grams: u32 }
///
/// let schema = tidings::reader_schema::<Parcel>();
/// assert_eq!(schema["required"][0], "grams");
/// ```
#[must_use]
pub fn reader<T: JsonSchema>() -> Value {
    listed(SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().into())
}

/// Returns the reasons that JSON cannot be decoded as a `T`: every violation of its schema, or, if there is none, the
/// decoder's own message. An error if it is no JSON.
pub(crate) fn undecodable<T: JsonSchema + DeserializeOwned>(
    json: &[u8],
) -> Result<Vec<Violation>, serde_json::Error> {
    let document: Value = serde_json::from_slice(json)?;
    let found: Vec<Violation> = check(&reader::<T>(), &document).into_iter().map(Violation::from).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let Err(e) = T::deserialize(Strict(tracked)) else { return Ok(found) };
    let place = pointer(&track.path().to_string());
    let words = e.to_string();
    let detail = words.split(" at line ").next().unwrap_or(&words).to_owned();
    let rule = if detail == NO_TEXT { "pattern" } else { "type" };
    Ok(vec![Violation::new(place, rule, detail)])
}

/// A whole document that keeps every rule of its type, or all that is wrong with it in one line. No text in it has
/// U+0000, not even where it is not read.
pub(crate) fn read<T>(json: &[u8]) -> Result<T, String>
where
    T: JsonSchema + DeserializeOwned + Validate<Context = ()>,
{
    let document: Value = read_as(json)?;
    let value: T = read_as(json)?;
    match value.validate() {
        Ok(()) => Ok(value),
        Err(report) => Err(one_line(&invalid_document::<T>(&document, &report))),
    }
}

fn read_as<T: JsonSchema + DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    strict::from_slice(json).map_err(|e| match undecodable::<T>(json) {
        Ok(violations) if !violations.is_empty() => one_line(&violations),
        _ => e.to_string(),
    })
}

/// Returns every rule that a value breaks as a `T`.
pub(crate) fn invalid<T: JsonSchema + Serialize>(value: &T, report: &garde::Report) -> Vec<Violation> {
    let document = serde_json::to_value(value).unwrap_or_default();
    invalid_document::<T>(&document, report)
}

/// Returns every rule that a document breaks, with the report on the `T` that was read from it.
pub(crate) fn invalid_document<T: JsonSchema>(document: &Value, report: &garde::Report) -> Vec<Violation> {
    let schema = reader::<T>();
    let mut found: Vec<Violation> = check(&schema, document).into_iter().map(Violation::from).collect();
    for (path, error) in report.iter() {
        let pointer = pointer(&path.to_string());
        // What the schema cannot judge: a pattern, a rule written in Rust.
        if !found.iter().any(|known| known.pointer == pointer) {
            let keywords = at(&schema, &pointer);
            let is_broken = |rule: &&str| keywords.get(*rule).is_some_and(|keyword| keyword != TEXT_PATTERN);
            let rule = ["pattern", "format"].into_iter().find(is_broken);
            found.push(Violation::new(pointer, rule.unwrap_or("rule"), error.message().to_owned()));
        }
    }
    found
}

/// The keywords that a schema has for what stands at a pointer.
fn at(schema: &Value, pointer: &str) -> Map<String, Value> {
    let mut found = resolve(schema, schema);
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let below = match found.get("properties").and_then(|properties| properties.get(&step)) {
            None => found.get("items"),
            property => property,
        };
        found = below.map(|below| resolve(below, schema)).unwrap_or_default();
    }
    found
}

/// Violations in one line.
pub(crate) fn one_line(violations: &[Violation]) -> String {
    let shown: Vec<String> = violations.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    match violations.len() - shown.len() {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

/// `items[0].quantity` as `/items/0/quantity`.
fn pointer(path: &str) -> String {
    let mut pointer = String::new();
    for part in path.split(['.', '[', ']']).filter(|p| !p.is_empty() && *p != "?") {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

/// A word of an enum that may grow: readers take words that they do not know yet, and pass them on unchanged.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// use tidings::OpenEnum;
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(rename_all = "snake_case")]
/// enum Reason { Declined }
///
/// let reasons: Vec<OpenEnum<Reason>> = serde_json::from_str(r#"["declined", "lost"]"#)?;
/// assert_eq!(reasons, [OpenEnum::Known(Reason::Declined), OpenEnum::Unknown("lost".to_owned())]);
/// assert_eq!(serde_json::to_string(&reasons)?, r#"["declined","lost"]"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OpenEnum<T> {
    /// One that this program knows.
    Known(T),
    /// One that it does not.
    Unknown(String),
}

impl<T> OpenEnum<T> {
    /// The value, if it is one that this program knows.
    ///
    /// ```
    /// use tidings::OpenEnum;
    ///
    /// let words: Vec<OpenEnum<bool>> = serde_json::from_str(r#"[true, "perhaps"]"#).unwrap();
    /// assert_eq!([words[0].known(), words[1].known()], [Some(&true), None]);
    /// ```
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T> From<T> for OpenEnum<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: JsonSchema> JsonSchema for OpenEnum<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.insert(OPEN_ENUM.to_owned(), true.into());
        schema
    }
}

impl<T> Validate for OpenEnum<T> {
    type Context = ();

    fn validate_into(&self, (): &(), _: &mut dyn FnMut() -> garde::Path, _: &mut garde::Report) {}
}

/// Fields that this program does not know, kept for the programs that an event is passed on to.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// use tidings::UnknownFields;
///
/// #[derive(Serialize, Deserialize)]
/// struct Note {
///     text: String,
///     #[serde(flatten)]
///     rest: UnknownFields,
/// }
///
/// let json = r#"{"text":"hi","colour":"red"}"#;
/// let note: Note = serde_json::from_str(json)?;
/// assert_eq!(serde_json::to_string(&note)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// Only for events that are passed on: `flatten` makes decoding slower.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnknownFields(Map<String, Value>);

impl UnknownFields {
    /// Returns the value of one of these fields.
    ///
    /// ```
    /// let fields: tidings::UnknownFields = serde_json::from_str(r#"{"colour": "red"}"#).unwrap();
    /// assert_eq!(fields.get("colour").unwrap(), "red");
    /// assert_eq!(fields.get("size"), None);
    /// ```
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }
}

/// These fields are no contract yet, so no schema names them.
impl JsonSchema for UnknownFields {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Rest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object"})
    }
}

impl Validate for UnknownFields {
    type Context = ();

    fn validate_into(&self, (): &(), _: &mut dyn FnMut() -> garde::Path, _: &mut garde::Report) {}
}

#[cfg(test)]
mod tests {
    use super::pointer;

    #[test]
    fn paths_become_json_pointers() {
        assert_eq!(pointer("items[0].quantity"), "/items/0/quantity");
        assert_eq!(pointer("."), "");
        assert_eq!(pointer("a/b"), "/a~1b");
    }
}
