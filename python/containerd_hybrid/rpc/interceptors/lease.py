"""The lease of a call, from its header: what the call makes is added to it."""

from __future__ import annotations

from containerd_hybrid.rpc.api import LEASE_HEADER, CallContext, Method
from containerd_hybrid.rpc.interceptors.around import with_context


class LeaseInterceptor:
    """Fills ``call.lease``; whether the lease exists is for the store to say."""

    def wrap(self, service: str, method: Method) -> Method:
        return with_context(method, _with_lease)


def _with_lease(call: CallContext) -> CallContext:
    lease = call.metadata.get(LEASE_HEADER)
    return call.within(call.namespace, lease) if lease else call
