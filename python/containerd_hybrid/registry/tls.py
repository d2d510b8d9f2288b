"""TLS contexts, made once for each set of files and anew when one of them changes."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.registry.endpoint import TlsSettings

# More than any configuration has; a bound for files that change all the time.
_KEPT = 64
Signature = tuple[TlsSettings, tuple[tuple[int, int, int], ...]]


class TlsContexts:
    """Contexts by settings. Reading certificates takes tens of milliseconds, so it is done in a thread."""

    def __init__(self) -> None:
        self._contexts: dict[Signature, ssl.SSLContext] = {}
        self._turn = asyncio.Lock()

    async def get(self, settings: TlsSettings) -> ssl.SSLContext:
        """
        Raises:
            InvalidConfigError: names the certificate or key that cannot be read.
        """
        async with self._turn:
            signature = await asyncio.to_thread(signature_of, settings)
            context = self._contexts.get(signature)
            if context is None:
                context = await asyncio.to_thread(_context, settings)
                while len(self._contexts) >= _KEPT:
                    del self._contexts[next(iter(self._contexts))]
                self._contexts[signature] = context
            return context


def signature_of(settings: TlsSettings) -> Signature:
    files = [*settings.ca, *(file for pair in settings.client for file in pair if file is not None)]
    states = []
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            raise _unreadable(file, error) from error
        states.append((state.st_ino, state.st_size, state.st_mtime_ns))
    return settings, tuple(states)


def _context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for file in settings.ca:
        try:
            context.load_verify_locations(file)
        except OSError as error:  # SSLError is one
            raise _unreadable(file, error) from error
    for certificate, key in settings.client:
        try:
            # A key with a passphrase must not make the daemon ask for it on its terminal.
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except OSError as error:
            raise _unreadable(key or certificate, error) from error
    return context


def _unreadable(file: Path, error: OSError) -> InvalidConfigError:
    reason = getattr(error, "reason", None) or error.strerror or "not in PEM format"
    return InvalidConfigError(f"cannot use certificate or key {file}: {reason}")
