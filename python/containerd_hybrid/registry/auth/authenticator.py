"""Who remembers what a host wants, and which tokens it has given: the driver of the schemes."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from containerd_hybrid.errors import UnauthenticatedError
from containerd_hybrid.registry.api import Credential, Credentials
from containerd_hybrid.registry.auth.anonymous import anonymous
from containerd_hybrid.registry.auth.basic import basic
from containerd_hybrid.registry.auth.bearer import bearer, merge_scopes
from containerd_hybrid.registry.auth.challenge import Challenge
from containerd_hybrid.registry.auth.steps import Flow, Grant, TokenReply, TokenRequest
from containerd_hybrid.registry.endpoint import Endpoint

# A token is not used in the last part of its life, so that it does not end on its way.
_MARGIN = 0.1
_KNOWN = ("bearer", "basic")

AskTokenServer: TypeAlias = Callable[[Endpoint, TokenRequest], Awaitable[TokenReply]]
_Key: TypeAlias = tuple[str, tuple[str, ...]]


class Authenticator:
    """Authorisation for the requests of one operation.

    A header is made once for each host and set of scopes, however many requests wait for it.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        reference: str,
        ask: AskTokenServer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._reference = reference
        self._ask = ask
        self._clock = clock
        self._challenges: dict[str, Challenge] = {}
        self._found: dict[str, Credential | None] = {}
        self._grants: dict[_Key, tuple[Grant, float]] = {}
        self._turns: dict[_Key, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def header(self, endpoint: Endpoint, scopes: Sequence[str]) -> str:
        """What to send as ``Authorization``; empty while the host has not asked for any.

        Raises:
            UnauthenticatedError: see the schemes.
        """
        key = (endpoint.host, merge_scopes(scopes))
        async with self._turns[key]:
            kept = self._grants.get(key)
            if kept is not None and self._clock() < kept[1]:
                return kept[0].header
            grant = await self._drive(endpoint, self._flow(endpoint, key[1]))
            if grant.header:
                life = float("inf") if grant.seconds is None else grant.seconds * (1 - _MARGIN)
                self._grants[key] = (grant, self._clock() + life)
            if grant.refresh_token:
                self._found[endpoint.host] = Credential(secret=grant.refresh_token)
            return grant.header

    async def challenged(
        self, endpoint: Endpoint, challenges: Sequence[Challenge], scopes: Sequence[str], rejected: str
    ) -> bool:
        """Take in a 401, the answer to a request with the header ``rejected``; whether to ask again.

        Raises:
            UnauthenticatedError: the host wants a scheme that we do not have.
        """
        key = (endpoint.host, merge_scopes(scopes))
        wanted = [challenge for challenge in challenges if challenge.scheme in _KNOWN]
        if not wanted:
            named = ", ".join(challenge.scheme for challenge in challenges) or "none"
            raise UnauthenticatedError(
                f"{endpoint.host} wants authorisation by a scheme that is not supported: {named}"
            )
        chosen = min(wanted, key=lambda challenge: _KNOWN.index(challenge.scheme))
        if chosen.scheme == "basic":
            credential = await self._credential(endpoint.host)
            # The same pair again, or none at all, will not be liked better.
            if rejected.startswith("Basic ") or credential is None or not credential.username:
                return False
        kept = self._grants.get(key)
        if kept is not None and kept[0].header == rejected:
            del self._grants[key]
        self._challenges[endpoint.host] = chosen
        return True

    def _flow(self, endpoint: Endpoint, scopes: tuple[str, ...]) -> _FlowMaker:
        return _FlowMaker(self._challenges.get(endpoint.host), endpoint.host, scopes)

    async def _drive(self, endpoint: Endpoint, maker: _FlowMaker) -> Grant:
        credential = await self._credential(endpoint.host) if maker.needs_credential else None
        if credential is not None and credential.header:
            return Grant(credential.header)
        flow = maker.make(credential)
        try:
            request = next(flow)
            while True:
                request = flow.send(await self._ask(endpoint, request))
        except StopIteration as end:
            grant: Grant = end.value
            return grant
        finally:
            flow.close()

    async def _credential(self, host: str) -> Credential | None:
        if host not in self._found:
            found = None
            if self._credentials is not None:
                found = await self._credentials.get(host, self._reference)
            self._found[host] = found
        return self._found[host]


class _FlowMaker:
    """The scheme for a host, by its last challenge."""

    def __init__(self, challenge: Challenge | None, host: str, scopes: tuple[str, ...]) -> None:
        self._challenge = challenge
        self._host = host
        self._scopes = scopes
        self.needs_credential = challenge is not None

    def make(self, credential: Credential | None) -> Flow:
        if self._challenge is None:
            return anonymous()
        if self._challenge.scheme == "basic":
            return basic(self._host, credential)
        return bearer(self._host, self._challenge, self._scopes, credential)
