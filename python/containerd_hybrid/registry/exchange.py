"""Requests to the hosts of a registry: authorised, repeated when that may help, warnings handed on."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

from containerd_hybrid.errors import UnauthenticatedError, UnavailableError
from containerd_hybrid.registry.api import HttpObserver
from containerd_hybrid.registry.auth.authenticator import Authenticator
from containerd_hybrid.registry.auth.challenge import parse_challenges
from containerd_hybrid.registry.auth.steps import TokenReply, TokenRequest
from containerd_hybrid.registry.endpoint import Endpoint
from containerd_hybrid.registry.failures import failure
from containerd_hybrid.registry.heads import request_head, response_head
from containerd_hybrid.registry.http import Request, Response, shown_url
from containerd_hybrid.registry.retry import RETRIED, RetryPolicy
from containerd_hybrid.registry.transport import Transport
from containerd_hybrid.tracing.api import Kind, span

logger = logging.getLogger(__name__)

_MAX_TOKEN_BYTES = 1 << 20
_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.)*)"')


class Exchange:
    """The requests of one operation."""

    def __init__(
        self,
        transport: Transport,
        retry: RetryPolicy,
        headers: Mapping[str, str],
        registry: str,
        observer: HttpObserver | None = None,
    ) -> None:
        self.retry = retry
        self._observer = observer
        self._transport = transport
        self._headers = headers
        self._registry = registry
        self._warned: set[str] = set()

    async def open(
        self,
        endpoint: Endpoint,
        request: Request,
        authenticator: Authenticator,
        scopes: Sequence[str],
        *,
        doing: str,
        accept: Container[int] = (200,),
        attempts: int | None = None,
    ) -> Response:
        """The answer, if its status is one of ``accept``; who takes it closes it.

        ``attempts`` is 1 where another host can be asked instead.

        Raises:
            HybridError: see :mod:`containerd_hybrid.registry.failures`.
        """
        url = urlsplit(request.url)
        with span(
            f"registry {request.method}", Kind.CLIENT, server__address=url.netloc, url__path=url.path
        ) as traced:
            response = await self._repeated(
                endpoint, request, authenticator, scopes, doing=doing, accept=accept, attempts=attempts
            )
            if traced is not None:
                traced.attributes["http.response.status_code"] = response.status
            return response

    async def _repeated(
        self,
        endpoint: Endpoint,
        request: Request,
        authenticator: Authenticator,
        scopes: Sequence[str],
        *,
        doing: str,
        accept: Container[int],
        attempts: int | None,
    ) -> Response:
        attempt = 0
        while True:
            attempt += 1
            last = not request.repeatable or attempt == attempts
            try:
                response = await self._authorised(endpoint, request, authenticator, scopes)
            except UnavailableError as error:
                delay = None if last else self.retry.delay(attempt)
                if delay is None:
                    raise UnavailableError(f"cannot {doing}: {error.message}") from error
            except UnauthenticatedError as error:
                raise UnauthenticatedError(f"cannot {doing}: {error.message}") from error
            else:
                self._warn(endpoint, response)
                if response.status in accept:
                    return response
                retried = response.status in RETRIED and not last
                after = response.header("Retry-After")
                delay = self.retry.delay(attempt, after) if retried else None
                if delay is None:
                    raise await failure(doing, response)
                response.close()
            logger.info("registry asked again", extra={"url": shown_url(request.url), "seconds": delay})
            await self.retry.sleep(delay)

    async def ask_token_server(self, endpoint: Endpoint, asked: TokenRequest) -> TokenReply:
        """One step of an authorisation scheme. What the host of the token is told stays with it."""
        body = urlencode(asked.form).encode() if asked.form is not None else None
        headers = dict(asked.headers)
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8"
        request = Request("POST" if body is not None else "GET", asked.url, headers, body)
        is_own = urlsplit(asked.url).netloc == endpoint.host
        server = endpoint if is_own else Endpoint("https", urlsplit(asked.url).netloc, tls=endpoint.tls)
        # Not repeated here: who needs the token repeats its own request.
        response = await self._open(server, request)
        try:
            return TokenReply(response.status, await response.read(_MAX_TOKEN_BYTES))
        finally:
            response.close()

    async def _authorised(
        self, endpoint: Endpoint, request: Request, authenticator: Authenticator, scopes: Sequence[str]
    ) -> Response:
        header = await authenticator.header(endpoint, scopes)
        response = await self._open(endpoint, self._complete(request, header))
        if response.status != 401 or response.is_foreign:
            return response
        challenges = parse_challenges(response.headers("WWW-Authenticate"))
        try:
            if not challenges or not await authenticator.challenged(endpoint, challenges, scopes, header):
                return response
            header = await authenticator.header(endpoint, scopes)
        except BaseException:
            response.close()
            raise
        response.close()
        return await self._open(endpoint, self._complete(request, header))

    async def _open(self, endpoint: Endpoint, request: Request) -> Response:
        if self._observer is None:
            return await self._transport.open(endpoint, request)
        self._observer(request_head(request))
        response = await self._transport.open(endpoint, request)
        self._observer(response_head(response))
        return response

    def _complete(self, request: Request, authorisation: str) -> Request:
        whole = replace(request, headers=self._headers).with_headers(request.headers.items())
        return whole.with_headers([("Authorization", authorisation)] if authorisation else ())

    def _warn(self, endpoint: Endpoint, response: Response) -> None:
        """Hand on what a registry has to say to its users (distribution spec, "Warnings"), each text once."""
        for value in response.headers("Warning"):
            for text in _WARNING.findall(value):
                if text not in self._warned:
                    self._warned.add(text)
                    shown = "".join(mark if mark.isprintable() else " " for mark in text)[:512]
                    logger.warning(
                        "registry warns: %s", shown, extra={"host": endpoint.host, "registry": self._registry}
                    )
