"""What contract tests of several packages share."""

from __future__ import annotations

from dataclasses import dataclass, field

from containerd_hybrid.events.api import Envelope, Event


@dataclass
class RecordingPublisher:
    """An event publisher that remembers namespace and payload, in order."""

    events: list[tuple[str, Event]] = field(default_factory=list)

    def publish(self, namespace: str, event: Event) -> None:
        self.events.append((namespace, event))

    def forward(self, envelope: Envelope) -> None:
        raise AssertionError("stores forward nothing")
