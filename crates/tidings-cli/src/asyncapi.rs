//! The events in an `AsyncAPI` document: ours, and those of others that keep their schemas under `components`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tidings_schema::{Contract, EventContract};

/// The path under which documents keep schemas, and the path under which a schema keeps its own.
const SHARED: &str = "#/components/schemas/";
const OWN: &str = "#/$defs/";
/// The dialect of schemas that do not name one, as ours do not.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Reads the events of a document, and who writes and who reads them.
pub(crate) fn contract(document: &Value) -> Contract {
    let mut contract = Contract::new();
    for (event_type, message) in members(&document["components"]["messages"]) {
        // What has no schema of its own is a copy of something else: dead letters.
        let Some(schema) = message["payload"]["$ref"].as_str().and_then(|r| r.strip_prefix(SHARED)) else {
            continue;
        };
        let event = EventContract {
            topic: topic(document, event_type),
            schema: whole(document, schema),
            ..EventContract::default()
        };
        contract.insert(event_type.clone(), event);
    }
    for (name, operation) in members(&document["operations"]) {
        let service = operation["tags"][0]["name"].as_str().unwrap_or(name).to_owned();
        let group = operation["bindings"]["kafka"]["groupId"]["enum"][0].as_str();
        let reader = group.map_or(service.clone(), str::to_owned);
        for message in operation["messages"].as_array().into_iter().flatten() {
            let event_type = message["$ref"].as_str().and_then(|r| r.rsplit('/').next()).unwrap_or_default();
            let Some(event) = contract.get_mut(event_type) else { continue };
            if operation["action"] == "send" {
                event.written_by.insert(service.clone());
            } else {
                event.read_by.insert(reader.clone());
            }
        }
    }
    contract
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The address of the channel on which a message is found.
fn topic(document: &Value, event_type: &str) -> String {
    let wanted = format!("#/components/messages/{event_type}");
    let is_here =
        |channel: &Value| members(&channel["messages"]).any(|(_, message)| message["$ref"] == *wanted);
    let found = members(&document["channels"]).find(|(_, channel)| is_here(channel));
    found.map_or_else(String::new, |(name, channel)| channel["address"].as_str().unwrap_or(name).to_owned())
}

/// A schema with everything that it refers to.
fn whole(document: &Value, name: &str) -> Value {
    let shared = &document["components"]["schemas"];
    let mut schema = shared[name].clone();
    let mut wanted = BTreeSet::new();
    move_references(&mut schema, &mut wanted);
    let mut own = Map::new();
    while let Some(name) = wanted.pop_first() {
        if !own.contains_key(&name) {
            let mut definition = shared[&*name].clone();
            move_references(&mut definition, &mut wanted);
            own.insert(name, definition);
        }
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("$schema").or_insert_with(|| DIALECT.into());
        if !own.is_empty() {
            schema.insert("$defs".to_owned(), own.into());
        }
    }
    schema
}

fn move_references(value: &mut Value, wanted: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, wanted)),
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(SHARED)
            {
                wanted.insert(name.to_owned());
                *reference = format!("{OWN}{name}");
            }
            // An enum in place has a name only for the sake of code generators.
            if members.contains_key("enum") {
                members.remove("title");
            }
            members.values_mut().for_each(|value| move_references(value, wanted));
        }
        _ => {}
    }
}
