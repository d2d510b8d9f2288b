"""What a caller may say about how a container is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from containerd_hybrid.errors import FailedPreconditionError, InvalidArgumentError


@dataclass(frozen=True, slots=True)
class MountPoint:
    """Something to be seen at ``destination`` in the container; ``options`` as mount(8) has them.

    ``type`` is ``bind`` (``source`` is a path of the host) or a file system such as ``tmpfs``.
    """

    source: str
    destination: str
    options: tuple[str, ...] = ("rbind", "rw")
    type: str = "bind"

    @classmethod
    def parse(cls, text: str) -> MountPoint:
        """Parse ``source:destination[:ro]`` or ``type=bind,src=…,dst=…,options=rbind:ro``.

        Of the second form ``readonly`` and ``ro`` are understood too, as Docker writes them.

        Raises:
            InvalidArgumentError: a part is missing, unknown or not absolute.
        """
        parsed = cls._from_keys(text) if "=" in text.partition(":")[0] else cls._from_fields(text)
        if not parsed.destination.startswith("/"):
            raise InvalidArgumentError(
                f"invalid mount {text!r}: the path in the container has to begin with a slash"
            )
        if parsed.type == "bind" and not parsed.source.startswith("/"):
            raise InvalidArgumentError(
                f"invalid mount {text!r}: the path on the host has to begin with a slash "
                "(volumes with names are not offered)"
            )
        return parsed

    @classmethod
    def _from_fields(cls, text: str) -> MountPoint:
        fields = text.split(":")
        if len(fields) not in {2, 3} or not all(fields):
            raise InvalidArgumentError(f"invalid mount {text!r}: expected source:destination[:ro]")
        mode = fields[2].split(",") if len(fields) == 3 else ["rw"]
        return cls(fields[0], fields[1], ("rbind", *mode))

    @classmethod
    def _from_keys(cls, text: str) -> MountPoint:
        values: dict[str, str] = {}
        for item in text.split(","):
            key, _, value = item.partition("=")
            name = _MOUNT_KEYS.get(key.strip().lower())
            if name is None:
                raise InvalidArgumentError(
                    f"invalid mount {text!r}: unknown key {key!r}: use {', '.join(_MOUNT_KEYS)}"
                )
            values[name] = value
        kind = values.get("type") or "bind"
        options = tuple(option for option in values.get("options", "").split(":") if option)
        if not options and kind == "bind":
            options = ("rbind", "rw")
        if values.get("readonly", "false") in {"", "true", "1"}:
            options = (*(option for option in options if option != "rw"), "ro")
        if kind == "bind" and not values.get("source"):
            raise InvalidArgumentError(f"invalid mount {text!r}: it has no src=")
        return cls(values.get("source") or kind, values.get("destination", ""), options, kind)


_MOUNT_KEYS = {
    "type": "type",
    "src": "source",
    "source": "source",
    "dst": "destination",
    "destination": "destination",
    "target": "destination",
    "options": "options",
    "readonly": "readonly",
    "ro": "readonly",
}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Whom to trust and who we are on TCP: PEM files of the authority, our certificate chain and its key."""

    ca: str | Path
    certificate: str | Path
    key: str | Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Their contents.

        Raises:
            FailedPreconditionError: names the file that cannot be read.
        """
        contents = []
        for path in (self.ca, self.certificate, self.key):
            try:
                contents.append(Path(path).read_bytes())
            except OSError as error:
                raise FailedPreconditionError(
                    f"cannot read {path} for TLS: {(error.strerror or 'failed').lower()}"
                ) from error
        return contents[0], contents[1], contents[2]


@dataclass(frozen=True, slots=True)
class User:
    """Numeric identity of a process; ``groups`` are its supplementary ones."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a container is run; everything left out is the image's choice or containerd's default.

    ``user`` is ``user[:group]`` by name or number, ``memory_limit`` in bytes, ``cpus`` in processors.
    ``entrypoint`` replaces the image's, and then its command is not used either.
    """

    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    user: str = ""
    mounts: tuple[MountPoint, ...] = ()
    hostname: str = ""
    host_network: bool = False
    read_only: bool = False
    privileged: bool = False
    terminal: bool = False
    memory_limit: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    capabilities_added: tuple[str, ...] = ()
    capabilities_dropped: tuple[str, ...] = ()
    no_new_privileges: bool = True
    annotations: Mapping[str, str] = field(default_factory=dict)
