"""The reader of files that people give us: it opens nothing that it could wait for, and nothing without an end. And a
folder in which no other user can write, for what is believed without being looked at."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_FILE_BYTES = 1 << 30
PRIVATE_FOLDER = "mindspore-resnet"


class NotAFile(OSError):
    """What stands at a path is no file to be read: a pipe, a device, a folder, a link, or far too large.

    An OSError, so that whoever says in his own words that a file cannot be read says it of this, too.
    """


def open_file(path: str | Path, *, links: bool = True) -> BinaryIO:
    """Open the regular file ``path`` to read its bytes.

    Looked at before it is opened: opening a pipe waits for its writer, and opening a device may do something to it.

    Args:
        links: follow a link that stands at ``path``.

    Raises:
        NotAFile: when something else stands there, or the path can be no file's.
        OSError: when there is nothing, or it cannot be read.
    """
    try:
        mode = os.stat(path, follow_symlinks=links).st_mode
    except ValueError as error:  # a null byte, or a sign that the system's encoding lacks
        raise NotAFile(errno.EINVAL, f"not a valid name: {error}", str(path)) from None
    if not stat.S_ISREG(mode):
        raise NotAFile(errno.EINVAL, "is a link" if stat.S_ISLNK(mode) else "is not a regular file", str(path))
    return open(path, "rb")


def read_file(path: str | Path, *, links: bool = True, most: int = MAX_FILE_BYTES) -> bytes:
    """Return what the regular file ``path`` holds.

    Args:
        links: follow a link that stands at ``path``.
        most: how many bytes there may be.

    Raises:
        NotAFile: when something else stands there, or there are more bytes.
        OSError: when there is nothing, or it cannot be read.
    """
    with open_file(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise NotAFile(errno.EFBIG, f"its {size} bytes are more than the {most} allowed", str(path))
        return file.read()


def private_folder() -> Path:
    """Return a folder of ours in the user's cache folder; it is made if need be.

    Raises:
        OSError: when there can be none, or another user could exchange something in it or above it.
    """
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(above) / PRIVATE_FOLDER
    if not folder.is_absolute():
        raise OSError(errno.ENOENT, "you have no home folder", "~/.cache")
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (folder, *folder.parents):
        # What sshd asks of a folder with keys, but for /tmp, where nobody can move what is another's.
        found = path.stat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in (0, os.geteuid()):
            raise OSError(errno.EACCES, "other users can write there", str(path))
    return folder
