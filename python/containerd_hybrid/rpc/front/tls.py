"""TLS for the gRPC server: certificates as PEM in memory, HTTP/2 by ALPN."""

from __future__ import annotations

import os
import ssl

from containerd_hybrid.errors import InvalidConfigError
from containerd_hybrid.rpc.endpoints import TcpEndpoint


def server_context(endpoint: TcpEndpoint) -> ssl.SSLContext | None:
    """What a server's sockets are wrapped in; None without a certificate.

    Raises:
        InvalidConfigError: certificate, key or authority are not usable.
    """
    if not endpoint.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        _load(context, endpoint.certificate, endpoint.key)
        if endpoint.ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=endpoint.ca.decode())
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfigError(f"TLS on {endpoint.address}: {error}") from None
    return context


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL's Python face takes a chain from a file only: it gets one that is in no file system."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
