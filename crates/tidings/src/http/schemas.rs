//! JSON Schemas that a document refers to.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use tidings_schema::{listed, written};

/// The place in a document of the schemas that are referred to.
pub(crate) const SCHEMAS: &str = "/components/schemas";

/// Schemas that one document refers to, each once.
pub(crate) struct Schemas {
    reading: SchemaGenerator,
    writing: SchemaGenerator,
}

impl Schemas {
    pub(crate) fn new() -> Self {
        let settings =
            SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = SCHEMAS.into());
        Self {
            reading: settings.clone().into_generator(),
            writing: settings.for_serialize().into_generator(),
        }
    }

    /// A reference to what is read as a `T`.
    pub(crate) fn read<T: JsonSchema>(&mut self) -> Value {
        self.reading.subschema_for::<T>().into()
    }

    /// The schema itself of what is read as a `T`.
    pub(crate) fn read_in_place<T: JsonSchema>(&mut self) -> Value {
        written(T::json_schema(&mut self.reading).into())
    }

    /// A reference to what a `T` is written as.
    pub(crate) fn written<T: JsonSchema>(&mut self) -> Value {
        self.writing.subschema_for::<T>().into()
    }

    /// All that is referred to.
    pub(crate) fn finished(mut self) -> Map<String, Value> {
        let mut schemas = Map::new();
        for (name, schema) in self.writing.take_definitions(true) {
            schemas.insert(name, written(schema));
        }
        for (name, schema) in self.reading.take_definitions(true) {
            let schema = listed(schema);
            let before = schemas.insert(name.clone(), schema.clone());
            assert!(
                before.is_none_or(|before| before == schema),
                "{name} is written otherwise than it is read: give one of the two another name"
            );
        }
        schemas
    }
}
