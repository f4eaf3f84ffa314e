//! OpenAPI 3.1: the routes of services.

use serde_json::{Map, Value, json};

use super::info;
use crate::admin;
use crate::http::{Problem, Schemas};
use crate::service::Service;

/// The tag of routes that every process has.
const PROCESS: &str = "process";

pub(super) fn document(services: &[Service]) -> Value {
    let mut schemas = Schemas::new();
    schemas.written::<Problem>();
    let mut paths = Map::new();
    let mut tags = Vec::new();
    let process = admin::operations();
    let of_services = services.iter().map(|service| (service.name(), service.about, &service.operations[..]));
    let all = of_services.chain([(PROCESS, "How the process is.", &process[..])]);
    for (tag, about, operations) in all {
        if !operations.is_empty() {
            tags.push(json!({"name": tag, "description": about}));
        }
        for operation in operations {
            let path = paths.entry(operation.path).or_insert_with(|| json!({}));
            path[operation.method] = operation.described(&mut schemas, tag);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": info(services),
        "servers": [{"url": "/", "description": "Wherever this document was found"}],
        // Nobody is asked who they are: that is for what stands before it.
        "security": [],
        "tags": tags,
        "paths": paths,
        "components": {"schemas": schemas.finished()},
    })
}
