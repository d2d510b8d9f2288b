"""The exchange: everybody gets everything in order, nobody waits, nobody loses events silently."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from containerd_hybrid.errors import InvalidArgumentError, InvalidFilterError, ResourceExhaustedError
from containerd_hybrid.events import api
from containerd_hybrid.events.api import Envelope
from containerd_hybrid.events.encode import decode, encode
from containerd_hybrid.events.exchange import Exchange
from containerd_hybrid.model.any import AnyValue

PAYLOAD = encode(api.ContainerDelete("c"))


def delete(id: str) -> api.ContainerDelete:
    return api.ContainerDelete(id)


async def take(events: AsyncIterator[Envelope], count: int) -> list[Envelope]:
    return [await anext(events) for _ in range(count)]


async def test_an_event_has_time_namespace_topic_and_payload() -> None:
    exchange = Exchange(clock=lambda: 42)
    async with exchange.subscribe() as events:
        exchange.publish("ns", delete("c"))
        assert await take(events, 1) == [Envelope(42, "ns", "/containers/delete", PAYLOAD)]


async def test_a_forwarded_event_is_handed_on_as_it_is() -> None:
    exchange = Exchange()
    envelope = Envelope(7, "other", "/a/b", dataclasses.replace(PAYLOAD, type_url="vendor.Strange"))
    async with exchange.subscribe() as events:
        exchange.forward(envelope)
        assert await take(events, 1) == [envelope]


async def test_every_subscriber_gets_every_event_in_order() -> None:
    exchange = Exchange()
    async with exchange.subscribe() as one, exchange.subscribe() as two:
        for number in range(100):
            exchange.publish("ns", delete(f"c{number}"))
        for events in (one, two):
            got = [decode(envelope.event) for envelope in await take(events, 100)]
            assert got == [delete(f"c{number}") for number in range(100)]


async def test_events_before_and_after_a_subscription_are_not_its() -> None:
    exchange = Exchange()
    exchange.publish("ns", delete("early"))
    async with exchange.subscribe() as events:
        exchange.publish("ns", delete("mine"))
    exchange.publish("ns", delete("late"))
    assert [decode((await anext(events)).event)] == [delete("mine")]
    waiting = asyncio.ensure_future(anext(events))
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done
    waiting.cancel()


async def test_a_waiting_reader_is_woken() -> None:
    exchange = Exchange()
    async with exchange.subscribe() as events:
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        exchange.publish("ns", delete("c"))
        assert decode((await reading).event) == delete("c")


@pytest.mark.parametrize(
    ("filters", "matching"),
    [
        ([], {"a", "b"}),
        (["namespace==one"], {"a"}),
        (['topic=="/containers/delete"'], {"a", "b"}),
        (["topic~=|^/tasks|"], set()),
        (["event.id==b"], {"b"}),
        (["event.id==b,namespace==one"], set()),
        (["event.id==b", "namespace==one"], {"a", "b"}),
    ],
)
async def test_filters(filters: list[str], matching: set[str]) -> None:
    exchange = Exchange()
    async with exchange.subscribe(filters) as events:
        exchange.publish("one", delete("a"))
        exchange.publish("two", delete("b"))
        exchange.close()
        got = {decode(envelope.event) async for envelope in events}
    assert got == {delete(name) for name in matching}


async def test_a_broken_filter_is_refused_at_once() -> None:
    with pytest.raises(InvalidFilterError):
        Exchange().subscribe(["topic==/a"])


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        ("", 'envelope topic "": must not be empty'),
        ("tasks/exit", "envelope topic \"tasks/exit\": must start with '/'"),
        ("/", 'envelope topic "/": must have at least one component'),
        ("/tasks//exit", 'envelope topic "/tasks//exit": failed validation on component ""'),
        ("/tasks/..", 'failed validation on component ".."'),
    ],
)
def test_topics_are_checked(topic: str, problem: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        Exchange().forward(Envelope(1, "ns", topic, PAYLOAD))
    assert problem in raised.value.message


def test_forwarding_needs_namespace_and_time() -> None:
    with pytest.raises(
        InvalidArgumentError, match="event envelope has invalid namespace: identifier must not"
    ):
        Exchange().forward(Envelope(1, "", "/a", PAYLOAD))
    with pytest.raises(InvalidArgumentError, match="event envelope has invalid namespace"):
        Exchange().forward(Envelope(1, "a/b", "/a", PAYLOAD))
    with pytest.raises(InvalidArgumentError, match="timestamp must be set on forwarded event"):
        Exchange().forward(Envelope(0, "ns", "/a", PAYLOAD))


def test_publishing_needs_a_namespace_even_when_nobody_listens() -> None:
    with pytest.raises(InvalidArgumentError, match="failed publishing event"):
        Exchange().publish("", delete("c"))


async def test_a_reader_that_falls_behind_gets_what_fitted_and_is_told_how_much_did_not() -> None:
    exchange = Exchange(queue_bytes=3000)
    async with exchange.subscribe() as slow, exchange.subscribe() as quick:
        for number in range(100):
            exchange.publish("ns", delete(f"c{number}"))
            assert decode((await anext(quick)).event) == delete(f"c{number}")
        got: list[api.Event | None] = []

        async def read_all() -> None:
            async for envelope in slow:
                got.append(decode(envelope.event))

        with pytest.raises(ResourceExhaustedError) as raised:
            await read_all()
        assert got == [delete(f"c{number}") for number in range(len(got))]
        assert 5 < len(got) < 100
        assert f"{100 - len(got)} events were not kept" in raised.value.message


async def test_reading_makes_room() -> None:
    exchange = Exchange(queue_bytes=3000)
    async with exchange.subscribe() as events:
        for _ in range(50):
            for _ in range(5):
                exchange.publish("ns", delete("c"))
            await take(events, 5)


async def test_one_event_larger_than_the_limit_is_not_lost_silently() -> None:
    exchange = Exchange(queue_bytes=1000)
    async with exchange.subscribe() as events:
        exchange.publish("ns", delete("c" * 2000))
        with pytest.raises(ResourceExhaustedError, match="1 events were not kept"):
            await anext(events)


async def test_closing_ends_subscriptions_after_what_they_have_waiting() -> None:
    exchange = Exchange()
    async with exchange.subscribe() as events:
        exchange.publish("ns", delete("c"))
        exchange.close()
        assert [decode(envelope.event) async for envelope in events] == [delete("c")]


async def test_a_subscription_that_is_left_costs_nothing_any_more() -> None:
    exchange = Exchange()
    for _ in range(100):
        async with exchange.subscribe():
            pass
    assert exchange.subscriptions == 0


async def test_the_payload_is_decoded_once_for_all_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    from containerd_hybrid.events import fields

    decoded: list[AnyValue] = []
    real = fields.parse  # type: ignore[attr-defined]

    def counting(value: AnyValue) -> object:
        decoded.append(value)
        return real(value)

    monkeypatch.setattr(fields, "parse", counting)
    exchange = Exchange()
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Semaphore(0)

        async def subscriber() -> None:
            async with exchange.subscribe(["event.id==c"]) as events:
                ready.release()
                await anext(events)

        for _ in range(100):
            group.create_task(subscriber())
        for _ in range(100):
            await ready.acquire()
        exchange.publish("ns", delete("c"))
    assert len(decoded) == 1
