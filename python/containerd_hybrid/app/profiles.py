"""What ``ctr pprof`` asks a daemon for, told of a Python program, as text.

Go's tools read a format of their own; these pages are for a person, and :func:`sample` writes the "collapsed
stacks" that flame graphs are drawn from (one line a stack, outermost call first, and how often it was seen).
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

_INTERVAL = 0.01
_MOST_FRAMES = 200
_TYPES_SHOWN = 60
# Idle threads wait for work: what they do there is no use of a processor.
_WAITING = {("threading.py", "wait"), ("thread.py", "_worker"), ("selectors.py", "select")}


def sample(seconds: float, stopped: threading.Event) -> str:
    """Look at what every thread is doing a hundred times a second; blocks, so call it in a thread.

    It ends early when ``stopped`` is set, with what was seen.
    """
    own = threading.get_ident()
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stopped.wait(_INTERVAL):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for identity, frame in sys._current_frames().items():
            if identity != own and not _is_waiting(frame):
                seen[";".join([names.get(identity, "unknown"), *_calls(frame)])] += 1
    return "".join(f"{stack} {count}\n" for stack, count in seen.most_common())


def threads() -> str:
    """Every thread of the process: its number in the kernel, its name, and processor time in seconds."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    ticks = os.sysconf("SC_CLK_TCK")
    lines = []
    for task in sorted(Path("/proc/self/task").iterdir(), key=lambda entry: int(entry.name)):
        try:
            head, _, rest = (task / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        fields = rest.split()
        name = names.get(int(task.name), head.partition("(")[2])
        lines.append(f"{task.name} {name} {(int(fields[11]) + int(fields[12])) / ticks:.2f}\n")
    return "".join(lines)


def heap() -> str:
    """Memory as the kernel counts it, and what the collector knows of, by type: number and name."""
    status = Path("/proc/self/status").read_text().splitlines()
    lines = [line for line in status if line.startswith(("VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon"))]
    objects = gc.get_objects()
    counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects)
    lines += [f"objects:\t{len(objects)}", f"collections:\t{[one['collections'] for one in gc.get_stats()]}"]
    lines += [f"{count}\t{name}" for name, count in counts.most_common(_TYPES_SHOWN)]
    return "\n".join([*lines, ""])


def _calls(frame: FrameType | None) -> list[str]:
    calls: list[str] = []
    while frame is not None and len(calls) < _MOST_FRAMES:
        code = frame.f_code
        calls.append(f"{Path(code.co_filename).name}:{code.co_qualname}".replace(";", ","))
        frame = frame.f_back
    return calls[::-1]


def _is_waiting(frame: FrameType) -> bool:
    return (Path(frame.f_code.co_filename).name, frame.f_code.co_name) in _WAITING
