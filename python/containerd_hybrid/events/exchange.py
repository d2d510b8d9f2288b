"""The hub of events: whoever publishes never waits, whoever listens gets all of it or is told.

Each subscription has a queue of its own. A publisher only appends to it, so the slowest subscriber
costs nobody anything but memory; and that memory is bounded. When a queue holds more than its limit
the subscription *ends*: what was queued is still delivered in order, then reading raises
ResourceExhaustedError with the number of events that were not kept. Dropping single events silently
would leave a client with a picture of the world that is wrong for ever; an error makes it list anew,
or ask the log of events (:mod:`.log`) for what came after the last one it saw.
(containerd's queue has no bound: a stuck client grows the daemon until the kernel kills it.)

All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from containerd_hybrid.errors import InvalidArgumentError, ResourceExhaustedError
from containerd_hybrid.events.api import Envelope, Event, EventLog
from containerd_hybrid.events.encode import encode
from containerd_hybrid.events.fields import EnvelopeFields
from containerd_hybrid.events.topics import validate_envelope, validate_topic
from containerd_hybrid.model.filters import Filters
from containerd_hybrid.model.identifiers import validate_identifier

QUEUE_BYTES = 16 << 20
"""What a subscription may have waiting: some 50,000 events of tasks."""

# An envelope, its AnyValue and its place in a queue, measured with sys.getsizeof and rounded up.
_OVERHEAD_BYTES = 240


class Exchange:
    """The one exchange of a daemon; implements :class:`containerd_hybrid.events.api.EventExchange`."""

    def __init__(
        self,
        log: EventLog | None = None,
        *,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """With a ``log`` every event is kept in it."""
        self._log = log
        self._queue_bytes = queue_bytes
        self._clock = clock
        self._subscriptions: set[_Subscription] = set()

    def publish(self, namespace: str, event: Event) -> None:
        """Publish one of our own payloads under its topic, now.

        Raises:
            InvalidArgumentError: no or no valid namespace.
        """
        try:
            validate_identifier(namespace)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"failed publishing event: {error.message}") from error
        validate_topic(event.topic)
        if self._subscriptions or self._log is not None:
            self._spread(Envelope(self._clock(), namespace, event.topic, encode(event)))

    def forward(self, envelope: Envelope) -> None:
        """Hand on an event that happened elsewhere.

        Raises:
            InvalidArgumentError: namespace, topic or timestamp is missing or malformed.
        """
        validate_envelope(envelope)
        self._spread(envelope)

    def subscribe(self, filters: Sequence[str] = ()) -> AbstractAsyncContextManager[AsyncIterator[Envelope]]:
        """Events from the entering of the context on, for which one of the filters holds, in order.

        Iterating raises ResourceExhaustedError when the reader fell too far behind (see the module's
        text), and ends when the exchange is closed.

        Raises:
            InvalidFilterError: at once.
        """
        return self._subscribed(Filters.parse(filters))

    @property
    def subscriptions(self) -> int:
        """How many there are now."""
        return len(self._subscriptions)

    def close(self) -> None:
        """End every subscription after what it has waiting."""
        for subscription in self._subscriptions:
            subscription.close()

    @asynccontextmanager
    async def _subscribed(self, filters: Filters) -> AsyncIterator[AsyncIterator[Envelope]]:
        subscription = _Subscription(filters, self._queue_bytes)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _spread(self, envelope: Envelope) -> None:
        sequence = self._log.append(envelope) if self._log is not None else 0
        fields = EnvelopeFields(envelope)
        size = (
            _OVERHEAD_BYTES
            + len(envelope.namespace)
            + len(envelope.topic)
            + len(envelope.event.type_url)
            + len(envelope.event.value)
        )
        for subscription in self._subscriptions:
            subscription.offer(envelope, fields, size, sequence)


class _Subscription:
    """One reader's queue; also the iterator that the reader is given."""

    __slots__ = ("_arrived", "_bytes", "_closed", "_filters", "_last", "_limit", "_missed", "_queue")

    def __init__(self, filters: Filters, limit: int) -> None:
        self._filters = filters
        self._limit = limit
        self._queue: deque[tuple[Envelope, int]] = deque()
        self._bytes = 0
        self._missed = 0
        self._last = 0  # number before the first that was missed, 0 when there is no log
        self._closed = False
        self._arrived = asyncio.Event()

    def offer(self, envelope: Envelope, fields: EnvelopeFields, size: int, sequence: int = 0) -> None:
        """Queue the event if it matches; once one did not fit, none does."""
        if self._closed or not self._filters.match(fields):
            return
        if self._missed or self._bytes + size > self._limit:
            if not self._missed:
                self._last = sequence - 1
            self._missed += 1
        else:
            self._queue.append((envelope, size))
            self._bytes += size
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[Envelope]:
        return self

    async def __anext__(self) -> Envelope:
        while not self._queue:
            if self._missed:
                self._closed = True
                raise ResourceExhaustedError(
                    f"the subscription fell behind: {self._missed} events were not kept after"
                    f" {self._limit} bytes were waiting; list what exists and subscribe again"
                    + (f", or replay the event log after event {self._last}" if self._last > 0 else "")
                )
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        envelope, size = self._queue.popleft()
        self._bytes -= size
        return envelope
