"""The examples of docs/library.md do what stands behind them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.client_worlds import IMAGE
from tests.unit.images.archives import busybox_layer, oci_layout

import containerd_hybrid
from containerd_hybrid.testing.daemon import DaemonProcess
from containerd_hybrid.testing.leaks import remove_cgroups

pytestmark = pytest.mark.root

DOCUMENT = Path(__file__).parents[2] / "docs" / "library.md"
EXAMPLES = re.findall(
    r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
)
# Runs an example in a process of its own, with other defaults than those of a real machine.
RUNNER = """
import sys
import containerd_hybrid as c
address, namespace, root, state, example = sys.argv[1:]
for function in (c.connect, c.connect_async):
    function.__defaults__ = (address, namespace, None)
for function in (c.open, c.open_async):
    function.__defaults__ = (root, state, namespace, None)
exec(compile(open(example).read(), example, "exec"), {"__name__": "__main__"})
"""


def test_every_section_with_code_is_found() -> None:
    assert len(EXAMPLES) == DOCUMENT.read_text().count("```python") == 6


@pytest.mark.parametrize(("title", "example"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_an_example(
    daemon: DaemonProcess, token: str, short_folder: Path, tmp_path: Path, title: str, example: str
) -> None:
    oci_layout([busybox_layer()], IMAGE, Env=["PATH=/bin"]).write(tmp_path / "busybox.tar")
    if "import_archive" not in example:
        with containerd_hybrid.connect(daemon.address, token) as client:
            client.images.import_archive(tmp_path / "busybox.tar")
    (tmp_path / "example.py").write_text(example)
    own = short_folder / "own"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            RUNNER,
            daemon.address,
            token,
            str(own / "root"),
            str(own / "state"),
            "example.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"# → (.*)", example)
    assert promised
    assert done.stdout.splitlines() == promised
    remove_cgroups(token)
