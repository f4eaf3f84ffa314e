//! What services say about themselves, from their types alone: OpenAPI, AsyncAPI, schemas.

mod asyncapi;
mod openapi;
mod tidy;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use bytes::Bytes;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use tidings_schema::{Contract, EventContract, listed, written};

use crate::event::{Event, Former};
use crate::schema;
use crate::service::Service;

/// Where documents keep the schemas that are referred to.
const SCHEMAS: &str = "/components/schemas";

/// What is said about services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Document {
    /// Print the HTTP routes as OpenAPI 3.1
    Openapi,
    /// Print topics and events as AsyncAPI 3.0
    Asyncapi,
    /// Print every event's schema, who writes it and who reads it
    Schemas,
}

/// An event type that a service states or handles.
#[derive(Clone)]
pub(crate) struct EventSpec {
    pub(crate) event_type: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) key_name: &'static str,
    pub(crate) superseded_by: Option<&'static str>,
    pub(crate) former: Vec<Former>,
    pub(crate) writer: fn() -> Value,
}

impl EventSpec {
    pub(crate) fn of<E: Event>() -> Self {
        Self {
            event_type: E::TYPE,
            topic: E::TOPIC,
            key_name: E::KEY_NAME,
            superseded_by: E::SUPERSEDED_BY,
            former: E::upcasts(),
            writer: schema::writer::<E>,
        }
    }
}

/// Describes services, whole: `PROGRAM openapi`, `asyncapi`, `schemas`.
#[must_use]
pub fn document(services: &[Service], which: Document) -> Value {
    let mut told = match which {
        Document::Openapi => openapi::document(services),
        Document::Asyncapi => asyncapi::document(services),
        Document::Schemas => return serde_json::to_value(contract(services)).unwrap_or_default(),
    };
    tidy::document(&mut told);
    told
}

/// The same, of services whose events are framed for the readers of a schema registry.
pub(crate) fn told(services: &[Service], which: Document, framed: bool) -> Value {
    let mut told = document(services, which);
    if framed && which == Document::Asyncapi {
        asyncapi::frame(&mut told, services);
    }
    told
}

/// What services write and read, for the gate.
#[must_use]
pub fn contract(services: &[Service]) -> Contract {
    let mut contract = Contract::new();
    for service in services {
        for spec in service.published() {
            described(&mut contract, spec).written_by.insert(service.name().to_owned());
        }
        for spec in service.handled() {
            described(&mut contract, spec).read_by.insert(service.group_name().to_owned());
        }
    }
    // Older types belong to whoever states them; who reads them as newer ones is said there.
    for service in services {
        for spec in service.handled() {
            for former in &spec.former {
                if let Some(known) = contract.get_mut(former.event_type) {
                    known.read_as.insert(service.group_name().to_owned(), spec.event_type.to_owned());
                }
            }
        }
    }
    contract
}

fn described<'a>(contract: &'a mut Contract, spec: &EventSpec) -> &'a mut EventContract {
    contract.entry(spec.event_type.to_owned()).or_insert_with(|| EventContract {
        topic: spec.topic.to_owned(),
        schema: (spec.writer)(),
        ..EventContract::default()
    })
}

/// The documents, written once and served from memory.
pub(crate) fn routes(services: &[Service], framed: bool) -> Router {
    let served = |which| {
        let text = Bytes::from(told(services, which, framed).to_string());
        get(async move || ([(header::CONTENT_TYPE, "application/json")], text))
    };
    Router::new()
        .route("/docs", get(async || (PAGE_HEADERS, page())))
        .route("/openapi.json", served(Document::Openapi))
        .route("/asyncapi.json", served(Document::Asyncapi))
        .route("/schemas.json", served(Document::Schemas))
}

/// The page shows what the documents say. Nothing of it comes from elsewhere, and its reader's browser sees to that.
const PAGE_HEADERS: [(header::HeaderName, &str); 2] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    ),
];

/// The page, with its style and script in it.
fn page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        include_str!("page/page.html")
            .replace("/* page.css */", include_str!("page/page.css"))
            .replace("/* page.js */", include_str!("page/page.js"))
    });
    &PAGE
}

/// The name of what is described: of one service, or of all of them.
fn title(services: &[Service]) -> String {
    services.iter().map(Service::name).collect::<Vec<_>>().join(", ")
}

/// Title, version and what the services are for.
fn info(services: &[Service]) -> Value {
    let about: Vec<&str> =
        services.iter().map(Service::about_text).filter(|about| !about.is_empty()).collect();
    let version: BTreeSet<&str> = services.iter().map(Service::version_text).collect();
    let version = version.into_iter().next_back().unwrap_or_default();
    serde_json::json!({"title": title(services), "version": version, "description": about.join("\n\n")})
}

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

    /// What is read as a `T`, itself.
    pub(crate) fn read_in_place<T: JsonSchema>(&mut self) -> Value {
        written(T::json_schema(&mut self.reading).into())
    }

    /// A reference to what a `T` is written as.
    pub(crate) fn written<T: JsonSchema>(&mut self) -> Value {
        self.writing.subschema_for::<T>().into()
    }

    /// All that is referred to.
    fn finished(mut self) -> Map<String, Value> {
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
