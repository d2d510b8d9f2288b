"""Events from the daemon's log, across restarts of the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from containerd_hybrid.client.calls import Calls
from containerd_hybrid.client.events import Event, event_from_wire
from containerd_hybrid.errors import UnavailableError
from containerd_hybrid.proto.hybrid import events_pb2 as pb

_EVENT_LOG = pb.DESCRIPTOR.services_by_name["EventLog"]
# A daemon that is started anew is back long before; one that is not is told of.
_RESTART_SECONDS = 60.0
_RETRY_SECONDS = 0.2


async def replayed(calls: Calls, start: pb.ReplayRequest) -> AsyncGenerator[Event, None]:
    """The events from ``start`` on, each once. Who follows goes on where it was when the daemon is back."""
    loop = asyncio.get_running_loop()
    request = pb.ReplayRequest()
    request.CopyFrom(start)
    give_up: float | None = None  # None: it is there, or was never
    was_connected = False
    while True:
        try:
            async with calls.streaming(_EVENT_LOG, "Replay", request, pb.ReplayResponse) as answers:
                async for answer in answers:
                    was_connected, give_up = True, None
                    match answer.WhichOneof("what"):
                        case "log":
                            # The next daemon may have another one, and must not be asked for numbers of this.
                            request.id = answer.log.id
                        case "event":
                            request.after = answer.event.sequence
                            yield event_from_wire(answer.event.envelope, answer.event.sequence)
                        case "caught_up" if answer.caught_up:
                            # From here on by number also when it began by time: clocks are set.
                            request.after = answer.caught_up
            if not request.follow:
                return
        except UnavailableError:
            if not (request.follow and was_connected) or (give_up is not None and loop.time() > give_up):
                raise
        # From the first failure on.
        give_up = give_up if give_up is not None else loop.time() + _RESTART_SECONDS
        await asyncio.sleep(_RETRY_SECONDS)
