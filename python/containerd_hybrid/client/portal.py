"""An event loop in a thread of its own, for callers who have none: the sync face runs through it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from containerd_hybrid.errors import CallCancelledError, FailedPreconditionError, UnavailableError

T = TypeVar("T")


class Portal:
    """Runs coroutines for threads that may block. Safe to use from many threads at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        # A daemon: who forgets to close a client must still be able to end.
        self._thread = threading.Thread(target=self._run, name="containerd-hybrid", daemon=True)
        self._thread.start()

    def call(self, step: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result.

        When the waiting is interrupted (KeyboardInterrupt, or what a signal handler raises) the
        coroutine is cancelled, and the interruption goes on when its clean-up is done.
        """
        if threading.current_thread() is self._thread:
            step.close()
            raise FailedPreconditionError(
                "a client without async cannot be called from a function that it calls itself"
            )
        running = _Running(step)
        try:
            self._begin(running)
            return running.done.result()
        except concurrent.futures.CancelledError:
            raise CallCancelledError("the client was closed") from None
        finally:
            if not running.done.done():
                self._loop.call_soon_threadsafe(running.cancel)
                with suppress(Exception, concurrent.futures.CancelledError):
                    running.done.result()

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The items of an async iterator, which is closed when the loop over them ends."""
        try:
            while True:
                try:
                    yield self.call(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            if isinstance(source, AsyncGenerator):
                self.call(_close(source))

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Run ``last``, cancel what still runs and end the thread; a second time nothing happens."""
        with self._lock:
            if self._closed:
                return
        try:
            if last is not None:
                self.call(last())
        finally:
            with self._lock:
                closing, self._closed = not self._closed, True
            if closing:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()

    def _begin(self, running: _Running[T]) -> None:
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(running.begin)
                return
        running.abandon()
        raise UnavailableError("the client is closed")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class _Running(Generic[T]):
    """A coroutine on its way, and where its result will be."""

    def __init__(self, step: Coroutine[Any, Any, T]) -> None:
        self._step = step
        self._task: asyncio.Task[T] | None = None
        self.done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def begin(self) -> None:
        """On the loop."""
        self._task = asyncio.ensure_future(self._step)
        self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        """On the loop, after :meth:`begin` unless it was not even asked for."""
        if self._task is not None:
            self._task.cancel()
        else:
            self.abandon()

    def abandon(self) -> None:
        self._step.close()
        self.done.cancel()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.done.cancel()
        elif (error := task.exception()) is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(task.result())


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


async def _close(source: AsyncGenerator[Any, Any]) -> None:
    await source.aclose()


def through_portal(make: Callable[[], Coroutine[Any, Any, T]]) -> tuple[Portal, T]:
    """A portal and what ``make`` makes inside it; no portal when that fails."""
    portal = Portal()
    try:
        return portal, portal.call(make())
    except BaseException:
        portal.close()
        raise
