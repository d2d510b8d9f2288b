"""Small frozen values with the field's own names; every package may import these."""

from __future__ import annotations

from containerd_hybrid.model.descriptor import Descriptor
from containerd_hybrid.model.digest import Digest, chain_id
from containerd_hybrid.model.mount import Mount
from containerd_hybrid.model.platform import Platform
from containerd_hybrid.model.reference import Reference
from containerd_hybrid.model.scope import Scope

__all__ = ["Descriptor", "Digest", "Mount", "Platform", "Reference", "Scope", "chain_id"]
