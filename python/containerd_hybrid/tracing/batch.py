"""Ended spans on their way: a queue that never waits, and a thread that sends what is in it, many at once.

A collector that is slow or away costs spans, never time: when the queue is full new ones are dropped, and
how many is told with the next ones that are sent.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from containerd_hybrid.errors import HybridError
from containerd_hybrid.tracing.api import Span

logger = logging.getLogger(__name__)

_LAST_SECONDS = 5.0


class SpanBatches:
    """Implements :class:`containerd_hybrid.tracing.api.SpanSink`; ``send`` blocks and is called by a thread.

    ``send`` is given spans and a number of seconds, and raises HybridError when they could not be sent.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Span]], None],
        *,
        queue: int = 2048,
        batch: int = 512,
        delay: float = 5.0,
    ) -> None:
        self._send = send
        self._limit = queue
        self._batch = min(batch, queue)
        self._delay = delay
        self._queue: deque[Span] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="trace-export", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def record(self, span: Span) -> None:
        """Take a span that has ended; from any thread."""
        if len(self._queue) >= self._limit:
            self._dropped += 1
            return
        self._queue.append(span)
        if len(self._queue) >= self._batch:
            self._wake.set()

    async def close(self) -> None:
        """Send what is there, unless that takes longer than a few seconds."""
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, _LAST_SECONDS)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._delay)
            self._wake.clear()
            while self._queue:
                self._send_some()
                if self._failing and self._stopping:
                    return
            if self._stopping:
                return

    def _send_some(self) -> None:
        spans = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch))]
        try:
            self._send(spans)
        except HybridError as error:
            if not self._failing:
                logger.warning("traces cannot be sent", extra={"error": error.message, "spans": len(spans)})
            self._failing = True
            return
        if self._failing:
            logger.info("traces are sent again")
            self._failing = False
        dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("spans were dropped: the collector is too slow", extra={"spans": dropped})
