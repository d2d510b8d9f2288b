"""What an OCI runtime must be able to do for a spec, asked before the spec is given to it.

A runtime ignores what it does not know. For most of a spec that is as well, but an ID-mapped mount that
is silently mounted unmapped gives files of the host to the wrong users, so a runtime that does not
list the feature is refused (OCI runtime spec, features.md, "mountExtensions").
"""

from __future__ import annotations

import json
from typing import Any

from containerd_hybrid.errors import FailedPreconditionError
from containerd_hybrid.model.any import AnyValue


def wants_idmapped_mounts(spec: AnyValue) -> bool:
    """Whether a mount of the spec has ID mappings of its own."""
    if b"idmap" not in spec.value and b"Mappings" not in spec.value:
        return False
    try:
        document: Any = json.loads(spec.value)
        return any(_is_idmapped(mount) for mount in document.get("mounts") or ())
    except (ValueError, AttributeError, TypeError):
        return False


def check_idmapped_mounts(features: AnyValue) -> None:
    """Nothing to say about runtimes that publish another kind of features, or none.

    Raises:
        FailedPreconditionError: the runtime says what it can do, and this is not in it.
    """
    if not features.type_url.endswith("/runtime-spec/1/features/Features"):
        return
    document: Any = json.loads(features.value)
    extension = ((document.get("linux") or {}).get("mountExtensions") or {}).get("idmap") or {}
    if not extension.get("enabled"):
        raise FailedPreconditionError(
            "idmap mounts not supported: the OCI runtime's features do not list `mountExtensions.idmap`"
        )


def _is_idmapped(mount: Any) -> bool:
    options = mount.get("options") or ()
    has_mappings = "uidMappings" in mount or "gidMappings" in mount
    return has_mappings or "idmap" in options or "ridmap" in options
