"""What the shop says and what it understands, as its contract has it."""

import uuid
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt


class Money(BaseModel):
    """An amount in minor units: 1299 EUR is 12.99 euros."""

    amount: int
    currency: str = Field(pattern=r"^[A-Z]{3}$")


class Item(BaseModel):
    product_id: str
    qty: int  # the shop checks how many it sells


class Order(BaseModel):
    """An order of ours. Prices are the shop's; the total is what we expect to pay."""

    model_config = ConfigDict(extra="forbid")

    order_id: str
    items: list[Item]
    total: Money
    payment_method: str | None = None


class PlainEvent(BaseModel):
    """The shape that needs no headers."""

    event_id: uuid.UUID
    event_type: Literal["order_created"] = "order_created"
    timestamp: AwareDatetime
    payload: Order

    @classmethod
    def of(cls, order: Order) -> "PlainEvent":
        """The same order is the same event, however often it is posted: that is how duplicates are known."""
        event_id = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:python-peer:{order.order_id}")
        return cls(event_id=event_id, timestamp=datetime.now(UTC), payload=order)


class CloudEvent(BaseModel):
    """Who says what about what, and when: the headers `ce_…` of a message."""

    specversion: Literal["1.0"]
    id: uuid.UUID
    type: str
    source: str
    subject: str
    time: AwareDatetime
    streamseq: PositiveInt  # 1, 2, 3, … for each source and subject: a gap is a loss, a repetition a duplicate


class PaymentFact(BaseModel):
    """The money was held, collected, let go or given back."""

    order_id: str
    payment_id: str
    amount: Money


class PaymentRefusal(BaseModel):
    """The provider said no; a payment id stands here only if there was a payment."""

    order_id: str
    payment_id: str | None = None
    code: str
    reason: str


PAYLOADS: dict[str, type[PaymentFact | PaymentRefusal]] = {
    "payment.authorized.v1": PaymentFact,
    "payment.captured.v1": PaymentFact,
    "payment.voided.v1": PaymentFact,
    "payment.refunded.v1": PaymentFact,
    "payment.declined.v1": PaymentRefusal,
    "payment.capture_failed.v1": PaymentRefusal,
}
