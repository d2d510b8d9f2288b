"""Labels by which a client asks that a container be kept running, or kept stopped, and what they mean.

``containerd.io/restart.status`` is the status wanted, ``.policy`` when to start the container again,
``.count`` how often that was done, ``.explicitly-stopped`` that its user stopped it, ``.loguri`` where its
output goes. Source: containerd's ``core/runtime/restart``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from containerd_hybrid.errors import InvalidArgumentError

STATUS_LABEL: Final = "containerd.io/restart.status"
POLICY_LABEL: Final = "containerd.io/restart.policy"
COUNT_LABEL: Final = "containerd.io/restart.count"
STOPPED_LABEL: Final = "containerd.io/restart.explicitly-stopped"
LOG_URI_LABEL: Final = "containerd.io/restart.loguri"
OLD_LOG_LABEL: Final = "containerd.io/restart.logpath"

POLICIES: Final = ("no", "always", "on-failure", "unless-stopped")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})  # what Go's strconv.ParseBool takes for true


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """``retries`` limits how often ``on-failure`` starts a container again; 0 is no limit."""

    name: str = "always"
    retries: int = 0

    @classmethod
    def parse(cls, text: str) -> RestartPolicy:
        """From a label's value, such as ``on-failure:3``; an empty one is ``always``.

        Raises:
            InvalidArgumentError: there is no such policy, or it has no such limit.
        """
        name, colon, limit = text.partition(":")
        name = name or "always"
        if name not in POLICIES:
            raise InvalidArgumentError(f"restart policy {text!r} not supported (use {', '.join(POLICIES)})")
        if not colon:
            return cls(name)
        if name != "on-failure":
            raise InvalidArgumentError(f"restart policy {name!r} does not support a maximum retry count")
        return cls(name, _count(limit, "invalid max retry count"))

    def wants_restart(self, exit_status: int, labels: Mapping[str, str]) -> bool:
        """Whether a container that ended so is to be started again.

        ``exit_status`` is 0 for one without a task: how it ended is not known any more then.

        Raises:
            InvalidArgumentError: the label that counts its restarts is no number.
        """
        match self.name:
            case "always":
                return True
            case "unless-stopped":
                return labels.get(STOPPED_LABEL, "") not in _TRUE
            case "on-failure":
                done = restarts(labels)
                return exit_status != 0 and (self.retries == 0 or done < self.retries)
            case _:
                return False


def restarts(labels: Mapping[str, str]) -> int:
    """How often the container was started again.

    Raises:
        InvalidArgumentError: the label is no number.
    """
    text = labels.get(COUNT_LABEL, "")
    return _count(text, f"invalid label {COUNT_LABEL}") if text else 0


def _count(text: str, what: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise InvalidArgumentError(f"{what}: {text!r}") from None
