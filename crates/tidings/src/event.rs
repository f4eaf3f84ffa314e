//! An event's type: what a fact is called, where it goes, what it is about.

use garde::Validate;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type of immutable fact. Derive it:
///
/// ```
/// use garde::Validate;
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
/// use tidings::Event;
///
/// #[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
/// #[event(name = "parcel.sent", version = 1, topic = "parcels", key = parcel_id)]
/// struct ParcelSent {
///     #[garde(length(min = 1))]
///     parcel_id: String,
/// }
/// assert_eq!(ParcelSent::TYPE, "parcel.sent.v1");
/// ```
///
/// JSON form, JSON Schema and validation rules come from the same struct.
///
/// `upcasts = OlderType` reads events of an older major version as this one, through `From<OlderType>`, a
/// pure function; chains are followed. `superseded_by = "parcel.sent.v2"` on the older type marks what is
/// still published of it for readers that cannot read the new one yet.
///
/// Events with the same
/// topic and key form a *stream*: they are numbered 1, 2, 3, … and handled in that order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no event",
    note = "derive it: `#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]`, with `#[event(name = \"parcel.sent\", version = 1, topic = \"parcels\", key = parcel_id)]`"
)]
pub trait Event:
    Serialize + DeserializeOwned + Validate<Context = ()> + JsonSchema + Send + Sync + 'static
{
    /// Past tense, dotted, without version: `order.created`.
    const NAME: &'static str;
    /// Major version, from 1. An incompatible change is a new version beside the old one.
    const VERSION: u32;
    /// `NAME.vVERSION`, the CloudEvents type: `order.created.v1`.
    const TYPE: &'static str;
    /// The topic it is published to.
    const TOPIC: &'static str;
    /// Other words for this type that programs outside use in plain JSON: `order_created`.
    const ALIASES: &'static [&'static str];
    /// The name of the key, in logs: `order_id`.
    const KEY_NAME: &'static str;

    /// The type that replaces this one and is published beside it: `order.created.v2`. A handler of
    /// that type leaves these events out.
    const SUPERSEDED_BY: Option<&'static str> = None;

    /// Older types that are read as this one, each with its topic: what `upcasts = …` names, and what that
    /// names in turn.
    #[must_use]
    fn upcasts() -> Vec<OlderVersion> {
        Vec::new()
    }

    /// Reads a payload of this type, or of an older one that is read as this one.
    ///
    /// # Errors
    /// What the decoder says.
    fn read(event_type: &str, payload: &[u8]) -> serde_json::Result<Self> {
        let _ = event_type;
        crate::strict::from_slice(payload)
    }

    /// The key of the thing that the fact is about (an order id). Never personal data: keys appear in logs and tools.
    fn key(&self) -> &str;
}

/// An older type of an event.
///
/// ```
/// # use tidings::prelude::*;
/// #[event(name = "parcel.weighed", version = 1, topic = "weights", key = id, superseded_by = "parcel.weighed.v2")]
/// struct WeighedV1 { #[garde(length(min = 1))] id: String, #[garde(skip)] kilos: u32 }
///
/// #[event(name = "parcel.weighed", version = 2, topic = "weights", key = id, upcasts = WeighedV1)]
/// struct Weighed { #[garde(length(min = 1))] id: String, #[garde(skip)] grams: u32 }
///
/// impl From<WeighedV1> for Weighed {
///     fn from(old: WeighedV1) -> Self { Self { id: old.id, grams: old.kilos * 1000 } }
/// }
/// assert_eq!(Weighed::upcasts()[0].event_type, "parcel.weighed.v1");
/// assert_eq!(Weighed::read("parcel.weighed.v1", br#"{"id": "p", "kilos": 2}"#).unwrap().grams, 2000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OlderVersion {
    /// `order.created.v1`.
    pub event_type: &'static str,
    /// The topic to which it is published.
    pub topic: &'static str,
}

/// The stream of a key on a topic: `orders/0192…`.
pub(crate) fn stream(topic: &str, key: &str) -> String {
    let mut stream = String::with_capacity(topic.len() + 1 + key.len());
    stream.push_str(topic);
    stream.push('/');
    stream.push_str(key);
    stream
}

/// The traits that `#[derive(Event)]` asks of a type, so that the compiler names a derive that was forgotten.
#[doc(hidden)]
pub mod derives {
    #[diagnostic::on_unimplemented(
        message = "the event `{Self}` has no JSON schema",
        label = "derive `JsonSchema` (of schemars) too",
        note = "an event derives `Event, Serialize, Deserialize, JsonSchema, Validate`"
    )]
    pub trait HasSchema {}
    #[diagnostic::do_not_recommend]
    impl<T: schemars::JsonSchema> HasSchema for T {}

    #[diagnostic::on_unimplemented(
        message = "the event `{Self}` has no rules",
        label = "derive `Validate` (of garde) too, with a `#[garde(…)]` for each field",
        note = "an event derives `Event, Serialize, Deserialize, JsonSchema, Validate`"
    )]
    pub trait HasRules {}
    #[diagnostic::do_not_recommend]
    impl<T: garde::Validate<Context = ()>> HasRules for T {}

    #[diagnostic::on_unimplemented(
        message = "the event `{Self}` has no JSON form",
        label = "derive `Serialize` and `Deserialize` (of serde) too",
        note = "an event derives `Event, Serialize, Deserialize, JsonSchema, Validate`"
    )]
    pub trait HasForm {}
    #[diagnostic::do_not_recommend]
    impl<T: serde::Serialize + serde::de::DeserializeOwned> HasForm for T {}

    /// Nothing but the bounds.
    pub const fn complete<T: HasForm + HasSchema + HasRules>() {}
}
