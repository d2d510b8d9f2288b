"""Fixtures of every test, and the checks that no test can forget."""

from __future__ import annotations

import signal

import pytest

pytest_plugins = ["containerd_hybrid.testing.fixtures"]

_LEAK_CHECKED = {"integration", "recovery"}


def pytest_configure() -> None:
    """A shell lets what runs in its background ignore these, and everything below would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _checks(request: pytest.FixtureRequest) -> None:
    """No blocking call on an event loop anywhere; nothing left behind by tests that use the machine."""
    request.getfixturevalue("blocking_guard")
    folder = request.node.path.relative_to(request.config.rootpath).parts[1]
    if folder in _LEAK_CHECKED and not request.node.get_closest_marker("package"):
        request.getfixturevalue("leak_check")
