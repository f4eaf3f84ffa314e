//! Documents about services, made from their types alone: OpenAPI, AsyncAPI, schemas.

mod asyncapi;
mod openapi;
mod tidy;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;
use tidings_schema::{Contract, EventContract};

use crate::config::Document;
use crate::service::{EventSpec, Service};

/// Describes services, whole: `PROGRAM openapi`, `asyncapi`, `schemas`.
///
/// ```
/// # use tidings::{Document, document, prelude::*};
/// async fn teas(_: &Store) -> Result<Vec<String>, Problem> { Ok(vec!["assam".to_owned()]) }
///
/// let described = document(&[Service::new("teas").get("/teas", teas)], Document::Openapi);
/// assert!(described["paths"]["/teas"]["get"].is_object());
/// ```
#[must_use]
pub fn document(services: &[Service], which: Document) -> Value {
    let mut document = match which {
        Document::Openapi => openapi::document(services),
        Document::Asyncapi => asyncapi::document(services),
        Document::Schemas => return serde_json::to_value(contract(services)).unwrap_or_default(),
    };
    tidy::document(&mut document);
    document
}

/// Describes services whose events are framed for the readers of a schema registry.
pub(crate) fn render(services: &[Service], which: Document, framed: bool) -> Value {
    let mut document = document(services, which);
    if framed && which == Document::Asyncapi {
        asyncapi::frame(&mut document, services);
    }
    document
}

/// Returns the event types that services write and read, for the gate.
///
/// ```
/// # use tidings::{contract, prelude::*};
/// # use tidings_testkit::event::NoteTaken;
/// let contract = contract(&[Service::new("notes").publishes::<NoteTaken>()]);
/// let event = &contract["note.taken.v1"];
/// assert!(event.written_by.contains("notes") && event.read_by.is_empty());
/// ```
#[must_use]
pub fn contract(services: &[Service]) -> Contract {
    let mut contract = Contract::new();
    for service in services {
        for spec in &service.published {
            described(&mut contract, spec).written_by.insert(service.name().to_owned());
        }
        for spec in &service.handled {
            described(&mut contract, spec).read_by.insert(service.group_name().to_owned());
        }
    }
    // An older type belongs to the service that publishes it; the groups that read it as a newer one are noted there.
    for service in services {
        for spec in &service.handled {
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
        let text = Bytes::from(render(services, which, framed).to_string());
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
        services.iter().map(|service| service.about).filter(|about| !about.is_empty()).collect();
    let version: BTreeSet<&str> = services.iter().map(|service| service.version).collect();
    let version = version.into_iter().next_back().unwrap_or_default();
    serde_json::json!({"title": title(services), "version": version, "description": about.join("\n\n")})
}
