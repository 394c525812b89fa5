"""Runs the `condkit` command in forked children, and sends them signals where it is told to.

A process of its own (started by `conftest.py` beside it): everything heavy is imported once, then
each line of stdin is a job and each line of stdout its outcome. A child is the real command line
with real files; what is added is a count of what it does to the disk.

A job: `argv`; `watched`, the folder whose changes count; `signal`; and when it is sent: `at` (the
n-th point) or `after` (seconds), or never. `data_limit`: bytes of memory that it may allocate.
An outcome: `code` (negative: the signal), `points` (kinds in order), `seconds`, `printed`,
`ending`: the seconds between a signal sent `after` some time and the end, `resident` and
`allocated`: the most bytes of memory it held, and had asked for.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("before rename", "after rename", "before fsync", "after fsync", "commit", "open", "other")
MOST_POINTS = 100_000
LIMIT_SECONDS = 120


class Points:
    """What a child does to the disk, counted in memory that outlives it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 + MOST_POINTS)
        self._at: int | None = None
        self._signal = signal.SIGKILL

    def start(self, at: int | None, sent: signal.Signals) -> None:
        self._memory[:8] = (0).to_bytes(8, "little")
        self._at, self._signal = at, sent

    def passes(self, kind: str) -> None:
        """One more point; maybe the last thing that this process does."""
        # Threads may meet here: a point is then counted once instead of twice, which does no harm.
        count = int.from_bytes(self._memory[:8], "little") + 1
        self._memory[:8] = count.to_bytes(8, "little")
        self._memory[7 + count] = KINDS.index(kind)
        if count == self._at:
            os.kill(os.getpid(), self._signal)

    def passed(self) -> list[str]:
        count = int.from_bytes(self._memory[:8], "little")
        return [KINDS[kind] for kind in self._memory[8 : 8 + count]]


def watch(points: Points, folder: str) -> None:
    """Count renames, fsyncs, commits, files opened for writing, other changes of `folder`."""

    def around(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            points.passes(f"before {name}")
            answer = function(*arguments, **named)
            points.passes(f"after {name}")
            return answer

        return watched

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.remove", "os.mkdir", "os.rmdir"):
            return
        if folder not in str(arguments[0]):
            return
        if event != "open":
            points.passes("other")
        elif arguments[2] & (os.O_WRONLY | os.O_RDWR):
            points.passes("open")

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect_really(*arguments, **named)
        connection.set_trace_callback(
            lambda statement: points.passes("commit") if "COMMIT" in statement else None
        )
        return connection

    os.replace = around(os.replace, "rename")
    os.rename = around(os.rename, "rename")
    os.fsync = around(os.fsync, "fsync")
    connect_really, sqlite3.connect = sqlite3.connect, connect
    sys.addaudithook(audit)


def warm_up(weights: Path) -> None:
    """Import what a build needs, and take the random weights for the published ones."""
    import dataclasses
    import hashlib

    import cv2  # noqa: F401
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch

    import condkit.cli
    import condkit.pipeline  # noqa: F401
    from condkit.annotators.nets import aux_networks
    from condkit.annotators.registry import get_detector

    torch.set_num_threads(1)
    aux_networks.hed_network()
    pins = get_detector("hed").spec.weights
    data = (weights / pins["controlnet"].name).read_bytes()
    pins["controlnet"] = dataclasses.replace(
        pins["controlnet"], sha256=hashlib.sha256(data).hexdigest(), size=len(data)
    )


def child(job: dict[str, Any], points: Points, printed: int) -> None:
    """The command; never returns."""
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    code = 70
    try:
        from condkit.cli import main

        if (limit := job.get("data_limit")) is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        watch(points, job["watched"])
        sys.argv = ["condkit", *job["argv"]]
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(job: dict[str, Any], points: Points) -> dict[str, Any]:
    sent = signal.Signals[job.get("signal", "SIGKILL")]
    points.start(job.get("at"), sent)
    started, after, told = time.monotonic(), job.get("after"), None
    with tempfile.TemporaryFile() as printed:
        pid = os.fork()
        if pid == 0:
            child(job, points, printed.fileno())
        allocated = 0
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            now = time.monotonic()
            allocated = max(allocated, allocated_by(pid))
            if after is not None and told is None and now >= started + after:
                os.kill(pid, sent)
                told = now
            elif now >= started + LIMIT_SECONDS:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
        over = time.monotonic()
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    return {
        "code": os.waitstatus_to_exitcode(ended[1]),
        "points": points.passed(),
        "seconds": over - started,
        "ending": None if told is None else over - told,
        "printed": text,
        "resident": ended[2].ru_maxrss * 1024,
        "allocated": allocated,
    }


def allocated_by(pid: int) -> int:
    """Bytes of private writable memory of a process: what RLIMIT_DATA limits."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmData:")]
    return 1024 * int(found[0]) if found else 0


def main() -> None:
    warm_up(Path(sys.argv[1]))
    points = Points()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), points)), flush=True)


if __name__ == "__main__":
    main()
