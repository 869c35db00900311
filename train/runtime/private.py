"""A folder in which no other user can write, for what is believed without being looked at."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

FOLDER = "mindspore-resnet"


def private_folder(named: str = "") -> Path:
    """Return the folder ``named``, or one in the user's cache folder; it is made if need be.

    Raises:
        OSError: when there can be none, or another user could exchange something in it or above it.
    """
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(named or Path(above) / FOLDER)
    if not named and not folder.is_absolute():
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
