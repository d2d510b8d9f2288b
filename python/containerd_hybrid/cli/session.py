"""What the global options mean: the client that every command works with."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import containerd_hybrid
from containerd_hybrid.client.client import AsyncClient
from containerd_hybrid.client.options import TlsFiles
from containerd_hybrid.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Session:
    """Where to work: a daemon's address or, with ``in_process``, folders without a daemon; and a namespace.

    ``tls`` are the files for ``tcp://``: authority, certificate, key.
    """

    address: str
    namespace: str
    root: str
    state: str
    in_process: bool
    tls: tuple[str | None, str | None, str | None] = (None, None, None)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """Connected, or opened, until the block ends."""
        # Else gRPC writes lines of its own to stderr, between those of a container.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        if self.in_process:
            client = await containerd_hybrid.open_async(self.root, self.state, self.namespace)
        else:
            client = await containerd_hybrid.connect_async(self.address, self.namespace, self._tls())
        async with client:
            yield client

    def _tls(self) -> TlsFiles | None:
        ca, certificate, key = self.tls
        if ca and certificate and key:
            return TlsFiles(ca, certificate, key)
        if ca or certificate or key:
            raise InvalidArgumentError("--tls-ca, --tls-cert and --tls-key go together: name all of them")
        return None
