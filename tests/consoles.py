"""Consoles that take nothing, or not everything: what a terminal, a pipe and a disk can do to those who print."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

Redirection = tuple[str, dict[str, str]]
"""What a shell appends to the command, and variables."""


@contextlib.contextmanager
def _closed() -> Iterator[Redirection]:
    yield ">&- 2>&-", {}


@contextlib.contextmanager
def _full_disk() -> Iterator[Redirection]:
    yield ">/dev/full 2>&1", {}


@contextlib.contextmanager
def _reader_gone() -> Iterator[Redirection]:
    """As ``| head``, and as ``| tee`` after Ctrl-C."""
    yield "2>&1 | exec true", {}


@contextlib.contextmanager
def _reader_stopped() -> Iterator[Redirection]:
    """A pipe that is full, and whose reader neither reads nor ends; as a pager, or Ctrl-S in a terminal."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 512)
    os.set_blocking(writer, True)
    try:
        yield f">/proc/{os.getpid()}/fd/{writer} 2>&1", {}
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _few_signs() -> Iterator[Redirection]:
    """An encoding that lacks most signs."""
    yield ">shown 2>&1", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


CONSOLES: dict[str, Callable[[], contextlib.AbstractContextManager[Redirection]]] = {
    "closed": _closed,
    "full disk": _full_disk,
    "reader gone": _reader_gone,
    "reader stopped": _reader_stopped,
    "few signs": _few_signs,
}
