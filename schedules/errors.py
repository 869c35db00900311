"""How a bad argument is refused: its name, its value, the rule; and a file that is none."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from collections.abc import Iterable

MAX_FILE_BYTES = 1 << 30


class BadValue(ValueError):
    """Reads as `key = value: rule`. Where the user wrote the key is added by whoever knows it, see `at`."""

    def __init__(self, key: str, value: object, rule: str) -> None:
        super().__init__(key, value, rule)
        self.key, self.value, self.rule = key, value, rule

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.rule}"

    def at(self, key: str) -> BadValue:
        """The same refusal under the name that the user knows."""
        return BadValue(key, self.value, self.rule)


def known(name: object, names: Iterable[str]) -> str:
    """`did you mean …? known are …`, to follow the name of something unknown."""
    names = sorted(names)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}known are {', '.join(names)}"


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a file that a user names.

    Raises:
        OSError: it cannot be read, is far too large, or a pipe or a device: opening one waits, and reading it may never
            end.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        what = "Is too large" if stat.S_ISREG(found.st_mode) else "Is not a regular file"
        raise OSError(errno.EINVAL, what, os.fspath(path))
    with open(path, "rb") as file:
        return file.read()


def one_line(text: object) -> str:
    """``text`` without line ends and control characters, which a key or a file name may hold, and not endless."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text)[:2000])
