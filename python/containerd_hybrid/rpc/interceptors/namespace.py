"""The namespace of a call, from its header (containerd's docs/namespaces.md)."""

from __future__ import annotations

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.model.identifiers import validate_identifier
from containerd_hybrid.rpc.api import NAMESPACE_HEADER, TTRPC_NAMESPACE_HEADER, CallContext, Method
from containerd_hybrid.rpc.interceptors.around import with_context


class NamespaceInterceptor:
    """Fills ``call.namespace``. Without a header it stays None: not every call needs a namespace."""

    def wrap(self, service: str, method: Method) -> Method:
        return with_context(method, _with_namespace)


def _with_namespace(call: CallContext) -> CallContext:
    name = call.metadata.get(NAMESPACE_HEADER) or call.metadata.get(TTRPC_NAMESPACE_HEADER)
    if not name:
        return call
    try:
        validate_identifier(name)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"namespace validation: {error.message}: invalid argument") from None
    return call.within(name, call.lease)


class GivenNamespace:
    """Fills ``call.namespace`` with one and the same, for callers whose namespaces are not ours."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wrap(self, service: str, method: Method) -> Method:
        return with_context(method, lambda call: call.within(self._name, None))
