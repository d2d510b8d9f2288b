"""Credentials of Docker's ``config.json``: plain entries, and the programs it names (credential helpers).

Sources: docker-login(1), and the protocol of docker/docker-credential-helpers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from containerd_hybrid.errors import InvalidConfigError, UnavailableError
from containerd_hybrid.registry.api import Credential
from containerd_hybrid.registry.endpoint import DOCKER_HUB, DOCKER_HUB_HOST

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_SECONDS = 30.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A helper says so on its standard output when it has nothing for a host.
_NOT_FOUND = "credentials not found"
# The user name under which helpers keep an identity token.
_TOKEN_USER = "<token>"  # noqa: S105


class DockerCredentials:
    """Implements :class:`containerd_hybrid.registry.api.Credentials`; the file is read at each question."""

    def __init__(self, config: Path | None = None, *, helper_seconds: float = _HELPER_SECONDS) -> None:
        self._config = config
        self._helper_seconds = helper_seconds

    async def get(self, host: str, reference: str) -> Credential | None:
        """
        Raises:
            InvalidConfigError: the file cannot be read as Docker's.
            UnavailableError: a credential helper is missing or failed.
        """
        return await asyncio.to_thread(self._get, host)

    def _get(self, host: str) -> Credential | None:
        file = self._config or default_config()
        document = _document(file)
        helper = _helper_for(document, host, file)
        if helper:
            # More than one spelling is tried, as Docker's own login and others' store different ones.
            for name in _names(host):
                found = self._ask(helper, name)
                if found is not None:
                    return found
        return _plain(document, host, file)

    def _ask(self, helper: str, server: str) -> Credential | None:
        program = f"docker-credential-{helper}"
        try:
            done = subprocess.run(
                [program, "get"],
                input=server.encode(),
                capture_output=True,
                timeout=self._helper_seconds,
                check=False,
            )
        except FileNotFoundError:
            raise UnavailableError(f"{program} is not installed, but Docker's config.json names it") from None
        except OSError as error:
            raise UnavailableError(f"cannot run {program}: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{program} did not answer in {self._helper_seconds:g} s") from None
        if done.returncode:
            if _NOT_FOUND in done.stdout.decode(errors="replace").lower():
                return None
            raise UnavailableError(f"{program} failed for {server} with exit code {done.returncode}")
        try:
            answer = json.loads(done.stdout)
            user, secret = answer.get("Username") or "", answer.get("Secret") or ""
        except (ValueError, AttributeError):
            raise UnavailableError(f"{program} answered with something that is no JSON object") from None
        if not isinstance(user, str) or not isinstance(secret, str) or not secret:
            return None
        return Credential("" if user == _TOKEN_USER else user, secret)


def default_config() -> Path:
    """Where Docker keeps it: ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``."""
    folder = os.environ.get("DOCKER_CONFIG")
    return Path(folder, "config.json") if folder else Path.home() / ".docker" / "config.json"


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidConfigError(f"cannot read {file}: {error.strerror}") from error
    except ValueError:
        # The parser's own message shows no content, but the exception holds all of it.
        raise InvalidConfigError(f"{file}: expected JSON") from None
    if not isinstance(document, dict):
        raise InvalidConfigError(f"{file}: expected a JSON object")
    return document


def _helper_for(document: Mapping[str, Any], host: str, file: Path) -> str:
    helpers = _table(document, "credHelpers", file)
    for name in _names(host):
        if helpers.get(name):
            return _helper_name(helpers[name], file)
    store = document.get("credsStore")
    return _helper_name(store, file) if store else ""


def _helper_name(name: Any, file: Path) -> str:
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise InvalidConfigError(f"{file}: {name!r} is no name of a credential helper")
    return name


def _names(host: str) -> Iterator[str]:
    """The keys under which a host's entry may lie."""
    if host in {DOCKER_HUB, DOCKER_HUB_HOST, "index.docker.io"}:
        yield from (_DOCKER_HUB_KEY, "index.docker.io", DOCKER_HUB, DOCKER_HUB_HOST)
        return
    yield host
    yield f"https://{host}"
    yield f"http://{host}"


def _plain(document: Mapping[str, Any], host: str, file: Path) -> Credential | None:
    entries = _table(document, "auths", file)
    entry = next((entries[name] for name in _names(host) if name in entries), None)
    if entry is None:
        entry = next((value for key, value in entries.items() if _host_of(key) == host), None)
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credential(secret=str(token))
    if token := entry.get("registrytoken"):
        return Credential(header=f"Bearer {token}")
    user, secret = entry.get("username") or "", entry.get("password") or ""
    if encoded := entry.get("auth"):
        try:
            user, _, secret = base64.b64decode(str(encoded), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidConfigError(f"{file}: auths.{host}.auth: expected user:password in Base64") from None
        secret = secret.rstrip("\0")
    return Credential(user, secret) if user and secret else None


def _host_of(key: str) -> str:
    return urlsplit(key if "://" in key else f"https://{key}").netloc


def _table(document: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidConfigError(f"{file}: {key}: expected an object")
    return value
