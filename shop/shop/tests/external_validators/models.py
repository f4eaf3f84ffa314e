"""Validators of the shop's events that know nothing of it but its documents.

Reads a directory of schemas (TYPE/NUMBER.json) and, on standard input, one message a line:
{"key", "headers", "value"}. Generates a Pydantic model of each type, has the models and the CloudEvents SDK
read every message, and then writes messages that the models made, in the same form, one a line.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from datamodel_code_generator import DataModelType, InputFileType, generate


def newest(schemas: Path) -> dict[str, Path]:
    """The last revision of each type."""
    types = {}
    for folder in sorted(path for path in schemas.iterdir() if path.is_dir()):
        types[folder.name] = max(folder.glob("*.json"), key=lambda file: int(file.stem))
    return types


def model(event_type: str, schema: Path, into: Path):
    """The class that is generated for a type."""
    module = into / f"{event_type.replace('.', '_')}.py"
    generate(
        schema,
        input_file_type=InputFileType.JsonSchema,
        output=module,
        output_model_type=DataModelType.PydanticV2BaseModel,
        class_name="Event",
    )
    spec = importlib.util.spec_from_file_location(module.stem, module)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded.Event


def main() -> None:
    types = newest(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        models = {name: model(name, schema, Path(folder)) for name, schema in types.items()}
    seen = set()
    for line in sys.stdin:
        message = json.loads(line)
        headers = {name: value.encode() for name, value in message["headers"].items()}
        event = from_binary_event(KafkaMessage(headers=headers, key=message["key"].encode(), value=message["value"].encode()))
        assert event.get_specversion() == "1.0", event
        assert event.get_subject() == message["key"], event
        assert int(event.get_extension("streamseq")) > 0, event
        data = event.get_data()
        assert data == json.loads(message["value"]), event
        models[event.get_type()].model_validate_json(message["value"], strict=True)
        seen.add(event.get_type())
    print(json.dumps({"seen": sorted(seen)}))
    for number in range(3):
        created = models["order.created.v1"].model_validate({
            "order_id": f"model-{number}",
            "customer_id": "c-1" if number else None,
            "items": [{"product_id": "tea", "quantity": 1 + number}],
            "total": {"amount": 1299 * (1 + number), "currency": "EUR"},
        } if number else {
            "order_id": "model-0",
            "items": [{"product_id": "tea", "quantity": 1}],
            "total": {"amount": 1299, "currency": "EUR"},
        })
        # With and without what was left out: both are to be understood.
        value = created.model_dump_json(by_alias=True, exclude_none=number == 1)
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"made-{number}",
            "ce_type": "order.created.v1",
            "ce_source": "/models",
            "ce_subject": f"model-{number}",
            "content-type": "application/json",
        }
        print(json.dumps({"key": f"model-{number}", "headers": headers, "value": value}))


if __name__ == "__main__":
    main()
