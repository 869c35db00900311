"""A fault with its traceback, of which the reader of a part of their own sees the lines that they wrote."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from pathlib import Path

PACKAGES = tuple(str(Path(__file__).resolve().parents[2] / name) + "/" for name in ("train", "models", "schedules"))
OTHERS = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib"))
IN_GRAPH = re.compile(r"In file (/[^:\n]+):\d+")
"""How MindSpore names a line that it compiles."""


def print_fault(error: BaseException) -> None:
    """Print the traceback of ``error`` on stderr: whole where all of it is ours, else cut to the user's own files.

    An error of MindSpore's compiler has no frame of theirs, but names their line in its text; so that is what is left.
    """
    report = traceback.TracebackException.from_exception(error)
    theirs = any(map(is_own, [frame.filename for frame in report.stack] + IN_GRAPH.findall(str(error))))
    if theirs and (left_out := _cut(report)):
        print(f"({left_out} frames of this program, MindSpore and Python are left out)", file=sys.stderr)
    print("".join(report.format()), end="", file=sys.stderr, flush=True)


def is_own(file: str) -> bool:
    """Whether ``file`` is neither ours, nor of an installed package, nor Python's."""
    return file.startswith("/") and not file.startswith((*PACKAGES, *OTHERS))


def _cut(report: traceback.TracebackException) -> int:
    """Leave of ``report``, and of what led to it, the frames of a user's own files; return how many others were."""
    frames = len(report.stack)
    report.stack[:] = [frame for frame in report.stack if is_own(frame.filename)]
    earlier = [one for one in (report.__cause__, report.__context__) if one is not None]
    return frames - len(report.stack) + sum(map(_cut, earlier))
