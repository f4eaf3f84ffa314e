"""Confluent's own client for schema registries, as a judge of our frames.

Arguments: the registry's URL, the name of the topic of orders. Reads one message a line on standard input:
{"topic", "type", "value" (base64)}; its JSONDeserializer decodes each and validates it with the schema that the
registry has for the id. Then writes messages that its JSONSerializer made, one a line.
"""

import base64
import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def main() -> None:
    registry = SchemaRegistryClient({"url": sys.argv[1]})
    strategy = {"subject.name.strategy": topic_record_subject_name_strategy}
    deserializer = JSONDeserializer(None, schema_registry_client=registry, conf=strategy)
    read, created = 0, None
    for line in sys.stdin:
        message = json.loads(line)
        value = base64.b64decode(message["value"])
        schema = registry.get_schema(int.from_bytes(value[1:5], "big")).schema_str
        assert json.loads(schema)["title"] == message["type"], message
        event = deserializer(value, SerializationContext(message["topic"], MessageField.VALUE))
        assert event == json.loads(value[5:]), event
        if message["type"] == "order.created.v1":
            created = schema
        read += 1
    print(json.dumps({"read": read}))

    # What is invalid is not read: it is really judged.
    try:
        deserializer(value[:5] + b'{"order_id": 1}', SerializationContext(message["topic"], MessageField.VALUE))
    except Exception as refused:  # whatever it calls it
        assert "1 is not of type 'string'" in str(refused) or "required" in str(refused), refused
    else:
        raise AssertionError("an invalid event was read")

    serializer = JSONSerializer(created, registry, conf=strategy | {"auto.register.schemas": True})
    for number in range(2):
        order = {
            "order_id": f"confluent-{number}",
            "items": [{"product_id": "tea", "quantity": 1 + number}],
            "total": {"amount": 1299 * (1 + number), "currency": "EUR"},
        }
        value = serializer(order, SerializationContext(sys.argv[2], MessageField.VALUE))
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"confluent-{number}",
            "ce_type": "order.created.v1",
            "ce_source": "/confluent",
            "content-type": "application/json",
        }
        made = {"key": order["order_id"], "headers": headers, "value": base64.b64encode(value).decode()}
        print(json.dumps(made))


if __name__ == "__main__":
    main()
