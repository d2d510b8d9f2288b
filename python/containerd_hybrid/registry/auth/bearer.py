"""Bearer tokens from a token server: GET with user and password, or OAuth2's POST with a refresh token.

Source: the distribution project's token and oauth2 authentication specifications.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from containerd_hybrid.errors import (
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)
from containerd_hybrid.registry.api import Credential
from containerd_hybrid.registry.auth.basic import basic_header
from containerd_hybrid.registry.auth.challenge import Challenge
from containerd_hybrid.registry.auth.steps import Flow, Grant, TokenReply, TokenRequest
from containerd_hybrid.registry.endpoint import is_localhost

_CLIENT_ID = "containerd-hybrid"
# The token specification: a token without a stated life has at least this one.
_DEFAULT_SECONDS = 60.0
# What token servers without OAuth2 answer to its POST.
_NO_OAUTH = frozenset({400, 401, 404, 405})


def bearer(host: str, challenge: Challenge, scopes: Iterable[str], credential: Credential | None) -> Flow:
    """A token for the scopes, asked for as ``challenge`` says.

    Raises:
        UnauthenticatedError: the token server refused, or its challenge cannot be followed.
        UnavailableError: the token server is not well.
    """
    realm = challenge.parameters.get("realm", "")
    service = challenge.parameters.get("service", "")
    target = urlsplit(realm)
    if target.scheme not in {"http", "https"} or not target.hostname:
        raise UnauthenticatedError(f"{host} names no token server that can be asked")
    wanted = merge_scopes((*challenge.parameters.get("scope", "").split(), *scopes))
    secret = credential.secret if credential is not None else ""
    if secret and target.scheme == "http" and not is_localhost(target.netloc) and target.netloc != host:
        raise PermissionDeniedError(
            f"{host} wants its credentials sent to {target.netloc} without encryption: refused"
        )
    if credential is not None and secret:
        reply = yield _oauth_request(realm, service, wanted, credential)
        if reply.status not in _NO_OAUTH or not credential.username:
            return _grant(host, target.netloc, reply)
    return _grant(host, target.netloc, (yield _get_request(realm, service, wanted, credential)))


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Sorted, each resource once with all of its actions."""
    actions: dict[str, set[str]] = {}
    for scope in filter(None, scopes):
        resource, _, wanted = scope.rpartition(":")
        actions.setdefault(resource, set()).update(wanted.split(","))
    return tuple(f"{resource}:{','.join(sorted(wanted))}" for resource, wanted in sorted(actions.items()))


def _oauth_request(realm: str, service: str, scopes: tuple[str, ...], credential: Credential) -> TokenRequest:
    form = {"service": service, "client_id": _CLIENT_ID}
    if scopes:
        form["scope"] = " ".join(scopes)
    if credential.username:
        form |= {"grant_type": "password", "username": credential.username, "password": credential.secret}
    else:
        form |= {"grant_type": "refresh_token", "refresh_token": credential.secret}
    return TokenRequest(realm, {}, form)


def _get_request(
    realm: str, service: str, scopes: tuple[str, ...], credential: Credential | None
) -> TokenRequest:
    url = urlsplit(realm)
    query = parse_qsl(url.query, keep_blank_values=True)
    if service:
        query.append(("service", service))
    query.extend(("scope", scope) for scope in scopes)
    headers = {}
    if credential is not None and credential.username and credential.secret:
        headers["Authorization"] = basic_header(credential)
    return TokenRequest(urlunsplit(url._replace(query=urlencode(query))), headers)


def _grant(host: str, server: str, reply: TokenReply) -> Grant:
    if reply.status in {401, 403, 400}:
        raise UnauthenticatedError(
            f"{server} gives no token for {host} (status {reply.status}): check user, password and rights"
        )
    if reply.status in {408, 429} or reply.status >= 500:
        raise UnavailableError(f"{server} gives no token for {host} (status {reply.status}): try again later")
    if reply.status != 200:
        raise UnknownError(f"{server} gives no token for {host}: unexpected status {reply.status}")
    document = _object(reply.body)
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not token or not token.isprintable():
        raise UnknownError(f"{server} answered without a token for {host}")
    seconds = document.get("expires_in")
    valid = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0
    refresh = document.get("refresh_token")
    return Grant(
        f"Bearer {token}",
        float(seconds) if valid and seconds is not None else _DEFAULT_SECONDS,
        refresh if isinstance(refresh, str) else "",
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
