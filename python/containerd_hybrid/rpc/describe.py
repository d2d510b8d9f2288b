"""From a service's descriptor and an object with its handlers to a :class:`Service`."""

from __future__ import annotations

import inspect
import keyword
import re
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from containerd_hybrid.errors import InternalError
from containerd_hybrid.rpc.api import Handler, Kind, Method, Service

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_KINDS = {
    (False, False): Kind.UNARY,
    (False, True): Kind.SERVER_STREAM,
    (True, False): Kind.CLIENT_STREAM,
    (True, True): Kind.BIDI_STREAM,
}


def handler_name(method: str) -> str:
    """The Python name of a method's handler: ``ListStreams`` is served by ``list_streams``."""
    name = _WORD_START.sub("_", method).lower()
    return name + "_" if keyword.iskeyword(name) else name


def service_from(descriptor: ServiceDescriptor, handlers: object) -> Service:
    """The method table of a service whose handlers are the snake_case methods of ``handlers``.

    Kinds and message classes are the descriptor's.

    Raises:
        InternalError: handlers are missing or of the wrong form; the message names all of them.
    """
    methods: dict[str, Method] = {}
    faults: list[str] = []
    for method in descriptor.methods:
        kind = _KINDS[method.client_streaming, method.server_streaming]
        name = handler_name(method.name)
        handler: Any = getattr(handlers, name, None)
        fault = _fault(kind, handler)
        if fault is not None:
            faults.append(f"{name} ({method.name}) {fault}")
            continue
        methods[method.name] = _method(method, kind, handler)
    if faults:
        raise InternalError(
            f"{type(handlers).__name__} cannot serve {descriptor.full_name}: {', '.join(faults)}"
        )
    return Service(descriptor.full_name, methods)


def _method(method: MethodDescriptor, kind: Kind, handler: Handler) -> Method:
    return Method(
        name=method.name,
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        kind=kind,
        handler=handler,
    )


def _fault(kind: Kind, handler: Any) -> str | None:
    if handler is None:
        return "is missing"
    if not callable(handler):
        return "is not callable"
    if kind in {Kind.UNARY, Kind.CLIENT_STREAM}:
        return None if inspect.iscoroutinefunction(handler) else "must be an async function"
    # A stream handler may also be a plain function that returns an async generator, but a coroutine
    # function would give the transport a coroutine to iterate over.
    return "must be an async generator" if inspect.iscoroutinefunction(handler) else None
