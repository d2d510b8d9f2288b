"""Any call of containerd's API to any daemon, written as ``"Service.Method"`` and a dictionary."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

Values = dict[str, Any]
_PACKAGES = "containerd.services."
_PROTO = "containerd_hybrid.proto."
# The services whose messages 1.x had as 2.x has them; of the others only the codes are compared with it.
_ALIKE_SINCE_1 = {"Containers", "Content", "Images", "Leases", "Namespaces"}
_HANGS_AFTER = 60.0
_EVENTS_WITHIN = 60.0
_LARGE = 1 << 20
_NO_TIME = -62135596800  # of Go: the first of January of the year 1
# Holds what the calls make, so that the collectors find nothing to take in the midst of a script.
LEASE = "held"
_MODULES = (
    *(f"services.{name}.v1.{name}_pb2" for name in ("containers", "content", "diff", "events", "images")),
    *(f"services.{name}.v1.{name}_pb2" for name in ("introspection", "leases", "mounts", "namespaces")),
    *(f"services.{name}.v1.{name}_pb2" for name in ("sandbox", "snapshots", "streaming", "tasks")),
    *(f"services.{name}.v1.{name}_pb2" for name in ("transfer", "version")),
    *(f"events.{name}_pb2" for name in ("container", "content", "image", "namespace", "sandbox", "snapshot")),
    *("events.task_pb2", "types.transfer.imagestore_pb2", "types.transfer.registry_pb2"),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A call. ``request`` is one message, or several for a client's stream.

    ``only`` is the major release of containerd that has the call, or 0. Differences that are meant to be
    have their reason: ``but`` for ours, ``was`` for what containerd 1.x did otherwise than 2.x and us; then
    only whether it succeeds is compared. ``roughly`` is a pattern after which a message is the OCI runtime's.
    """

    method: str
    request: Values | list[Values] = field(default_factory=dict)
    namespace: str = "contract"
    headers: tuple[tuple[str, str], ...] = (("containerd-lease", LEASE),)
    only: int = 0
    but: str = ""
    was: str = ""
    roughly: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """``code`` is a gRPC status; ``values`` the answer, or all answers of a stream."""

    code: str
    message: str
    values: Any = None

    @property
    def well(self) -> bool:
        return self.code == "OK"


class Daemon:
    """One daemon; ``neutral`` maps texts of its own to what they are called in an answer."""

    def __init__(self, address: str, neutral: dict[str, str]) -> None:
        # Limits are the daemons' own.
        options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._channel = grpc.insecure_channel(f"unix://{address}", options=options)
        self._neutral = neutral
        _load()

    def close(self) -> None:
        self._channel.close()

    def ask(self, ask: Ask, words: Values) -> Answer:
        """The answer with times, process ids and paths made equal."""
        service, method = _method(ask.method)
        many = ask.request if isinstance(ask.request, list) else [ask.request]
        kind = (
            "stream" if method.client_streaming else "unary",
            "stream" if method.server_streaming else "unary",
        )
        call = getattr(self._channel, "_".join(kind))(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        requests = [build(method.input_type, filled(one, words)) for one in many]
        metadata = [("containerd-namespace", ask.namespace), *ask.headers]
        try:
            given = iter(requests) if method.client_streaming else requests[0]
            answer = call(given, metadata=metadata, timeout=_HANGS_AFTER)
            values: Any = (
                [self.plain(one) for one in answer] if method.server_streaming else self.plain(answer)
            )
            if ask.method == "Content.Write":
                values = _written(values)
        except grpc.RpcError as error:
            return Answer(error.code().name, self._text(error.details() or ""))
        return Answer("OK", "", values)

    def subscribe(self, filters: list[str]) -> Events:
        return Events(self, self._channel, filters)

    def plain(self, message: Message) -> Any:
        """A message as values that can be compared."""
        if message.DESCRIPTOR.full_name == "google.protobuf.Any":
            return self._any(message)
        result: Values = {}
        for one, value in message.ListFields():
            if one.message_type is None:
                plain = (
                    [self._scalar(one.name, v) for v in value]
                    if one.is_repeated
                    else self._scalar(one.name, value)
                )
            elif one.message_type.GetOptions().map_entry:
                plain = {
                    k: self.plain(v) if isinstance(v, Message) else self._text(v) for k, v in value.items()
                }
            elif one.is_repeated:
                plain = [self.plain(v) for v in value]
            elif one.message_type.name == "Timestamp":
                plain = "no time" if value.seconds == _NO_TIME else "a time"
            else:
                plain = self.plain(value)
            result[one.name] = plain
        return result

    def _any(self, message: Any) -> Any:
        name = message.type_url.rpartition("/")[2]
        if len(message.value) > _LARGE:
            return {"type_url": message.type_url, "value": hashlib.sha256(message.value).hexdigest()}
        try:
            known = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
        except KeyError:
            return {"type_url": message.type_url, "value": self._text(message.value.decode("latin-1"))}
        return {name: self.plain(known.FromString(message.value))}

    def _scalar(self, name: str, value: Any) -> Any:
        if name == "pid" and value:
            return "a pid"
        if isinstance(value, str):
            return self._text(value)
        return value

    def _text(self, text: str) -> str:
        for own, name in self._neutral.items():
            text = text.replace(own, name)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:[\d.]+(Z|[+-]\d\d:\d\d)", "TIME", text)
        return re.sub(r"(?<=/snapshots/)\d+", "N", text)


class Events:
    """A subscription that is known to listen; what came is in ``seen``, as (topic, event)."""

    _PROBE, _END = "/probe", "/end"

    def __init__(self, daemon: Daemon, channel: grpc.Channel, filters: list[str]) -> None:
        self._daemon = daemon
        service, method = _method("Events.Subscribe")
        own = [f"topic=={self._PROBE}", f"topic=={self._END}"]
        request = build(method.input_type, {"filters": [*filters, *own]} if filters else {})
        call = channel.unary_stream(
            f"/{service.full_name}/Subscribe",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        self._stream = call(request, metadata=(("containerd-namespace", "contract"),))
        self.seen: list[tuple[str, Any]] = []
        self._listening, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        while not self._listening.wait(0.05):
            self._publish(self._PROBE)

    def end(self) -> list[tuple[str, Any]]:
        """Everything up to now, as the daemon has it."""
        self._publish(self._END)
        self._ended.wait()
        self._stream.cancel()  # type: ignore[no-untyped-call]
        self._thread.join()
        return self.seen

    def _publish(self, topic: str) -> None:
        event = {"type_url": "containerd.events.NamespaceDelete", "value": b""}
        self._daemon.ask(Ask("Events.Publish", {"topic": topic, "event": event}), {})

    def _read(self) -> None:
        try:
            for envelope in self._stream:
                if envelope.topic == self._PROBE:
                    self._listening.set()
                elif envelope.topic == self._END:
                    self._ended.set()
                elif envelope.namespace == "contract":
                    self.seen.append((envelope.topic, self._daemon.plain(envelope.event)))
        except grpc.RpcError:
            self._listening.set()
            self._ended.set()


def differences(ask: Ask, theirs: Answer, ours: Answer, major: int) -> Iterator[str]:
    """What is not alike and should be."""
    reason = ask.but or (ask.was if major == 1 else "")
    if major == 1 and ask.method.partition(".")[0] not in _ALIKE_SINCE_1:
        theirs, ours = replace(theirs, message=""), replace(ours, message="")
    if theirs == ours or (reason and theirs.well == ours.well):
        return
    if ask.roughly and theirs.code == ours.code:
        cut = [re.split(ask.roughly, answer.message)[0] for answer in (theirs, ours)]
        if cut[0] == cut[1]:
            return
    yield f"{ask.method} {_short(ask.request)}\n  containerd: {_short(theirs)}\n  here:       {_short(ours)}"


def told(events: list[tuple[str, Any]], major: int) -> list[tuple[str, Any]]:
    """What is compared of events.

    Releases differ in what they tell of a task that never began, and containerd's shim may end before it has
    told of a deletion. We do not tell the media type of new content, which its writer alone knows. 1.x
    neither says where namespaces begin, nor what the daemon writes itself, nor in which snapshotter.
    """
    quiet = ("/namespaces", "/content") if major == 1 else ()
    unsaid = {"mediaType", "snapshotter"} if major == 1 else {"mediaType"}
    return [
        (topic, {name: {k: v for k, v in event.items() if k not in unsaid} for name, event in one.items()})
        for topic, one in events
        if not topic.startswith(quiet) and topic != "/tasks/delete" and "'no time'" not in str(one)
    ]


def wait_alike(one: Events, other: Events, major: int) -> None:
    """Shims send their events by themselves: give those a moment that are under way."""
    give_up = time.monotonic() + _EVENTS_WITHIN
    while len(told(one.seen, major)) != len(told(other.seen, major)) and time.monotonic() < give_up:
        time.sleep(0.02)


def size_of(method: str, request: Values) -> int:
    """Bytes of a request on the wire."""
    _load()
    return int(build(_method(method)[1].input_type, request).ByteSize())


def build(descriptor: Any, values: Values) -> Any:
    """A message of that type with these values."""
    message = message_factory.GetMessageClass(descriptor)()
    _fill(message, values)
    return message


def _fill(message: Any, values: Values) -> None:
    for name, value in values.items():
        one = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name)
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            for key, entry in value.items():
                if isinstance(entry, dict):
                    _fill(target[key], entry)
                    target[key].SetInParent()
                else:
                    target[key] = entry
        elif one.is_repeated and one.message_type is not None:
            for entry in value:
                _fill(target.add(), entry)
        elif one.is_repeated:
            target.extend(value)
        elif one.message_type is not None:
            target.SetInParent()
            _fill(target, value)
        else:
            setattr(message, name, value)


def filled(values: Any, words: Values) -> Any:
    """``values`` with ``{words}`` in its texts replaced; a text that is one word alone becomes its value."""
    if isinstance(values, dict):
        return {filled(k, words): filled(v, words) for k, v in values.items()}
    if isinstance(values, list):
        return [filled(one, words) for one in values]
    if not isinstance(values, str):
        return values
    alone = re.fullmatch(r"\{(\w+)\}", values)
    if alone:
        return words[alone[1]]
    return re.sub(r"\{(\w+)\}", lambda found: str(words[found[1]]), values)


def _written(answers: list[Values]) -> list[Values]:
    """containerd says its last answer twice, and in each what it said before: times and total of a STAT."""
    told = [
        {k: v for k, v in one.items() if one.get("action", 0) == 0 or k in ("action", "offset", "digest")}
        for one in answers
    ]
    return told[:-1] if len(told) > 1 and told[-1] == told[-2] else told


def _load() -> None:
    for name in _MODULES:
        importlib.import_module(_PROTO + name)


def _method(name: str) -> tuple[Any, Any]:
    service, method = name.split(".")
    package = {"Store": "sandbox", "Controller": "sandbox"}.get(service, service.lower())
    found = descriptor_pool.Default().FindServiceByName(f"{_PACKAGES}{package}.v1.{service}")
    return found, found.methods_by_name[method]


def _short(value: object) -> str:
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
    return text if len(text) < 400 else f"{text[:220]} … {text[-160:]}"
