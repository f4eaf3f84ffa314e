"""A neighbour of the shop, in Python: hears of its payments and places orders, over Kafka alone."""

import argparse
import asyncio
import json
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from pydantic import ValidationError

from events import PAYLOADS, CloudEvent, Order, PlainEvent


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT,…")
    parser.add_argument("--prefix", default="", help="of topics and groups, if the shop has one")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("order", help="post the orders on standard input, one JSON object a line")
    watch_parser = commands.add_parser("watch", help="print what is said on topics, until told to stop")
    watch_parser.add_argument("topics", nargs="*", default=["payments"], metavar="TOPIC")
    args = parser.parse_args()
    if args.command == "order":
        await order(args.kafka, args.prefix)
    else:
        await watch(args.kafka, args.prefix, args.topics)


async def order(kafka: str, prefix: str) -> None:
    """Posts each order in the plain shape, keyed by its id, and says where it is."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True)
    async with producer:
        for line in sys.stdin:
            event = PlainEvent.of(Order.model_validate_json(line))
            key, value = event.payload.order_id.encode(), event.model_dump_json(exclude_none=True).encode()
            sent = await producer.send_and_wait(f"{prefix}orders", value, key)
            say(posted=event.payload.order_id, partition=sent.partition, offset=sent.offset)


async def watch(kafka: str, prefix: str, topics: list[str]) -> None:
    """Prints every message; what was printed is committed, so a restart goes on behind it."""
    consumer = AIOKafkaConsumer(
        *(prefix + topic for topic in topics),
        bootstrap_servers=kafka,
        group_id=f"{prefix}python-peer",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with consumer:
        while not stopped.is_set():
            # Short, so that a signal is not kept waiting.
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    say(**read(record, prefix))
                await consumer.commit()


def read(record: ConsumerRecord[bytes, bytes], prefix: str) -> dict[str, Any]:
    """A payment that keeps the contract, or a message as it is: a dead letter, or one that breaks it."""
    headers = {name: value.decode() for name, value in record.headers}
    found = {
        "topic": record.topic.removeprefix(prefix),
        "partition": record.partition,
        "offset": record.offset,
        "key": None if record.key is None else record.key.decode(),
        "headers": headers,
    }
    if "dlq_error_code" in headers:
        return found | {"hex": (record.value or b"").hex()}
    try:
        event = CloudEvent.model_validate({name.removeprefix("ce_"): value for name, value in headers.items()})
        payload = PAYLOADS[event.type].model_validate_json(record.value or b"")
    except KeyError as unknown:
        return found | {"ignored": f"an event of the unknown type {unknown}"}
    except ValidationError as broken:
        return found | {"broken": str(broken)}
    return found | {"event": event.model_dump(mode="json"), "payload": payload.model_dump(exclude_none=True)}


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
