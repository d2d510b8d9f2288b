"""Fixtures of every test, and the checks that no test can forget."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["containerd_hybrid.testing.fixtures"]

_LEAK_CHECKED = {"integration", "recovery"}
# What somebody's shell may say to containerd and its clients.
_WISHES = {
    *("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SNAPSHOTTER"),
    *("DOCKER_CONFIG", "NOTIFY_SOCKET"),
}

# The same examples in every run, and none judged by the time it takes: a busy machine finds no fault.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Nothing that whoever starts the tests passes on is in their way."""
    # A shell lets what runs in its background ignore these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    os.umask(0o022)
    for name in list(os.environ):
        if name in _WISHES or name.startswith("OTEL_"):
            del os.environ[name]


@pytest.fixture(autouse=True)
def _checks(request: pytest.FixtureRequest) -> None:
    """No blocking call on an event loop anywhere; nothing left behind by tests that use the machine."""
    request.getfixturevalue("blocking_guard")
    folder = request.node.path.relative_to(request.config.rootpath).parts[1]
    if folder in _LEAK_CHECKED and not request.node.get_closest_marker("package"):
        request.getfixturevalue("leak_check")
