//! AsyncAPI 3.0: the topics of services, the events that each service writes to them, and the groups that read these.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::info;
use crate::broker::TopicSpec;
use crate::http::SCHEMAS;
use crate::service::{EventSpec, Service, topic_specs};

const KAFKA_BINDING: &str = "0.5.0";
/// The message on a topic of dead letters: whatever the original was.
const DEAD_LETTER: &str = "dead-letter";

pub(super) fn document(services: &[Service]) -> Value {
    let mut document = AsyncApi::default();
    for spec in topic_specs(services) {
        document.channel(&spec);
    }
    for service in services {
        let mut published: BTreeMap<&str, Vec<&EventSpec>> = BTreeMap::new();
        for spec in &service.published {
            published.entry(spec.topic).or_default().push(spec);
        }
        for (topic, specs) in published {
            document.operation(service, "send", topic, &specs);
        }
        let mut handled: BTreeMap<&str, Vec<&EventSpec>> = BTreeMap::new();
        for spec in &service.handled {
            handled.entry(spec.topic).or_default().push(spec);
        }
        for (topic, specs) in &handled {
            document.operation(service, "receive", topic, specs);
        }
        if !handled.is_empty() {
            document.dead_letters(service);
        }
    }
    json!({
        "asyncapi": "3.0.0",
        "info": info(services),
        "defaultContentType": "application/json",
        "channels": document.channels,
        "operations": document.operations,
        "components": {"messages": document.messages, "schemas": document.schemas},
    })
}

/// Says of what services publish where its schema's id stands.
pub(super) fn frame(document: &mut Value, services: &[Service]) {
    for spec in services.iter().flat_map(|service| &service.published) {
        let binding = &mut document["components"]["messages"][spec.event_type]["bindings"]["kafka"];
        binding["schemaIdLocation"] = "payload".into();
        binding["schemaIdPayloadEncoding"] = "confluent".into();
        binding["schemaLookupStrategy"] = "TopicRecordNameStrategy".into();
    }
}

#[derive(Default)]
struct AsyncApi {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl AsyncApi {
    fn channel(&mut self, spec: &TopicSpec) {
        let channel = json!({
            "address": spec.name,
            "messages": {},
            "bindings": {"kafka": {
                "topic": spec.name,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": u64::try_from(spec.retention.as_millis()).unwrap_or(u64::MAX),
                    "max.message.bytes": spec.message_bytes_max,
                },
                "bindingVersion": KAFKA_BINDING,
            }},
        });
        self.channels.insert(spec.name.to_string(), channel);
    }

    fn operation(&mut self, service: &Service, action: &str, topic: &str, specs: &[&EventSpec]) {
        let messages: Vec<Value> = specs
            .iter()
            .map(|spec| {
                self.message(spec);
                self.offer(topic, spec.event_type)
            })
            .collect();
        let mut operation = json!({
            "action": action,
            "channel": {"$ref": format!("#/channels/{topic}")},
            "messages": messages,
            "tags": [{"name": service.name()}],
        });
        let summary = match action {
            "send" => format!("The {} service states facts on {topic}", service.name()),
            _ => {
                let group = service.group_name();
                operation["bindings"] = json!({"kafka": {
                    "groupId": {"type": "string", "enum": [group]},
                    "bindingVersion": KAFKA_BINDING,
                }});
                let own = if service.reads_external_only(topic) { ", those of other programs" } else { "" };
                format!("The {} service handles facts from {topic}{own}, as group {group}", service.name())
            }
        };
        operation["summary"] = summary.into();
        self.operations.insert(format!("{}.{action}.{topic}", service.name()), operation);
    }

    fn dead_letters(&mut self, service: &Service) {
        let topic = format!("{}_dlq", service.group_name());
        self.messages.entry(DEAD_LETTER).or_insert_with(dead_letter);
        let message = self.offer(&topic, DEAD_LETTER);
        let operation = json!({
            "action": "send",
            "channel": {"$ref": format!("#/channels/{topic}")},
            "messages": [message],
            "summary": format!("Copies of what the {} service cannot handle", service.name()),
            "tags": [{"name": service.name()}],
        });
        self.operations.insert(format!("{}.send.{topic}", service.name()), operation);
    }

    /// Says that a message is found on a topic.
    fn offer(&mut self, topic: &str, message: &str) -> Value {
        self.channels[topic]["messages"][message] =
            json!({"$ref": format!("#/components/messages/{message}")});
        json!({"$ref": format!("#/channels/{topic}/messages/{message}")})
    }

    fn message(&mut self, spec: &EventSpec) {
        if self.messages.contains_key(spec.event_type) {
            return;
        }
        let schema = (spec.writer)();
        let summary = schema.get("description").cloned().unwrap_or_default();
        let examples = schema.get("examples").and_then(Value::as_array).cloned().unwrap_or_default();
        let examples: Vec<Value> = examples
            .into_iter()
            .map(|payload| {
                let key = payload[spec.key_name].clone();
                json!({"headers": example_headers(spec, &key), "payload": payload})
            })
            .collect();
        self.schemas.entry("CloudEventHeaders").or_insert_with(headers_schema);
        let mut message = json!({
            "name": spec.event_type,
            "title": spec.event_type,
            "summary": summary,
            "contentType": "application/json",
            "headers": {"type": "object", "allOf": [
                {"$ref": "#/components/schemas/CloudEventHeaders"},
                {"properties": {
                    "ce_type": {"const": spec.event_type},
                    "ce_source": {"const": format!("/{}", spec.topic)},
                }},
            ]},
            "payload": {"$ref": format!("#{SCHEMAS}/{}", spec.event_type)},
            "correlationId": {"location": "$message.header#/ce_correlationid"},
            "bindings": {"kafka": {
                "key": {"type": "string", "description": format!("The payload's {}", spec.key_name)},
                "bindingVersion": KAFKA_BINDING,
            }},
            "examples": examples,
        });
        if let Some(newer) = spec.superseded_by {
            message["deprecated"] = true.into();
            message["description"] = format!("Stated for those who cannot read {newer} yet.").into();
        }
        self.messages.insert(spec.event_type.to_owned(), message);
        self.schema(spec.event_type, schema);
    }

    /// Keeps a schema, and apart from it what it refers to, which others may refer to as well.
    fn schema(&mut self, event_type: &str, mut schema: Value) {
        let own = schema.as_object_mut().and_then(|schema| schema.remove("$defs")).unwrap_or_default();
        let Value::Object(own) = own else { return drop(self.schemas.insert(event_type.to_owned(), schema)) };
        let mut names = BTreeMap::new();
        for (name, definition) in &own {
            let mut moved = definition.clone();
            refer(&mut moved, &|name| format!("#{SCHEMAS}/{name}"));
            let is_other = self.schemas.get(name).is_some_and(|known| *known != moved);
            names.insert(name.clone(), if is_other { format!("{event_type}.{name}") } else { name.clone() });
        }
        let to = |name: &str| format!("#{SCHEMAS}/{}", names.get(name).map_or(name, String::as_str));
        for (name, mut definition) in own {
            refer(&mut definition, &to);
            self.schemas.insert(names[&name].clone(), definition);
        }
        refer(&mut schema, &to);
        self.schemas.insert(event_type.to_owned(), schema);
    }
}

/// Rewrites references to definitions.
fn refer(schema: &mut Value, to: &impl Fn(&str) -> String) {
    match schema {
        Value::Object(keywords) => {
            keywords.remove("$schema");
            if let Some(Value::String(reference)) = keywords.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = to(name);
            }
            keywords.values_mut().for_each(|value| refer(value, to));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| refer(value, to)),
        _ => {}
    }
}

/// CloudEvents 1.0, Kafka binding, binary mode.
fn headers_schema() -> Value {
    let text = |words: &str| json!({"type": "string", "description": words});
    json!({
        "type": "object",
        "description": "CloudEvents 1.0, Kafka binding, binary mode",
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": text("The event's own id, a UUIDv7; the same in every copy"),
            "ce_type": text("The event's type"),
            "ce_source": text("The service that stated it"),
            "ce_subject": text("What it is about; the message's key"),
            "ce_time": {"type": "string", "format": "date-time", "description": "When it happened, by its source's clock"},
            "ce_dataschema": text("Its schema, by type and major version"),
            "ce_streamseq": {
                "type": "string", "pattern": "^[1-9][0-9]*$",
                "description": "Its number among those of its source and subject, without gaps from 1",
            },
            "ce_correlationid": text("The request or event that started it all"),
            "ce_causationid": text("The event whose handling stated it"),
            "ce_supersededby": text("The newer type as which the same fact is stated too"),
            "traceparent": text("W3C trace context"),
            "tracestate": text("What tracing systems note beside it"),
            "content-type": {"type": "string", "const": "application/json"},
        },
        "required": [
            "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "ce_dataschema",
            "ce_streamseq", "ce_correlationid", "traceparent", "content-type",
        ],
    })
}

fn example_headers(spec: &EventSpec, key: &Value) -> Value {
    let id = "01990000-0000-7000-8000-000000000001";
    let (name, version) = spec.event_type.rsplit_once(".v").unwrap_or((spec.event_type, "1"));
    json!({
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_type": spec.event_type,
        "ce_source": format!("/{}", spec.topic),
        "ce_subject": key,
        "ce_time": "2026-01-02T03:04:05.678901Z",
        "ce_dataschema": format!("urn:tidings:{name}:{version}"),
        "ce_streamseq": "1",
        "ce_correlationid": id,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "content-type": "application/json",
    })
}

/// Key, value and headers of the original as they came, and what went wrong.
fn dead_letter() -> Value {
    let text = |words: &str| json!({"type": "string", "description": words});
    json!({
        "name": DEAD_LETTER,
        "title": "A message that could not be handled",
        "summary": "Key, value and headers of the original, byte for byte, and what went wrong.",
        "headers": {
            "type": "object",
            "properties": {
                "dlq_original_topic": text("Where it was"),
                "dlq_original_partition": text("Its partition there"),
                "dlq_original_offset": text("Its offset there"),
                "dlq_original_timestamp": text("When it was put there"),
                "dlq_consumer_group": text("Who could not handle it"),
                "dlq_handler": text("Which handler"),
                "dlq_attempts": text("How often it was tried"),
                "dlq_first_failed_at": text("When it failed first"),
                "dlq_last_failed_at": text("When it failed last"),
                "dlq_error_code": text("What kind of failure: docs/dead-letters.md has a line for each"),
                "dlq_error_message": text("Every rule that it breaks, each with its JSON pointer; or what the handler said"),
            },
        },
        "payload": {},
    })
}
