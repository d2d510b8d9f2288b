"""What may be published: the checks of containerd's exchange, with its messages."""

from __future__ import annotations

from containerd_hybrid.errors import InvalidArgumentError
from containerd_hybrid.events.api import Envelope
from containerd_hybrid.model.identifiers import quoted, validate_identifier


def validate_topic(topic: str) -> None:
    """A topic is a slash and identifiers joined by slashes.

    Raises:
        InvalidArgumentError: it is not.
    """
    prefix = f"envelope topic {quoted(topic)}"
    if not topic:
        raise InvalidArgumentError(f"{prefix}: must not be empty: invalid argument")
    if not topic.startswith("/"):
        raise InvalidArgumentError(f"{prefix}: must start with '/': invalid argument")
    if topic == "/":
        raise InvalidArgumentError(f"{prefix}: must have at least one component: invalid argument")
    for component in topic[1:].split("/"):
        try:
            validate_identifier(component)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"{prefix}: failed validation on component {quoted(component)}: {error.message}"
                ": invalid argument"
            ) from error


def validate_envelope(envelope: Envelope) -> None:
    """An event that happened elsewhere must say where and when.

    Raises:
        InvalidArgumentError: namespace, topic or timestamp is missing or malformed.
    """
    try:
        validate_identifier(envelope.namespace)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"event envelope has invalid namespace: {error.message}: invalid argument"
        ) from error
    validate_topic(envelope.topic)
    if not envelope.timestamp:
        raise InvalidArgumentError("timestamp must be set on forwarded event")
