"""Which files are left out, and when they are too many."""

from __future__ import annotations

import logging
import threading

from train.errors import UserError

log = logging.getLogger(__name__)


class Skips:
    """Counts the files that this rank leaves out, over all parts of the data set. Safe to use from several threads.

    Args:
        limit: how many may be; None: none, and the message says how to change that.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.count = 0
        self._lock = threading.Lock()

    def add(self, name: str, why: str) -> None:
        """Leave out the file ``name``, once for each file.

        Raises:
            UserError: when it may not be left out, or is one more than the limit; the message names it.
        """
        if self.limit is None:
            raise UserError(f"{name}: {why}; repair or remove the file, or set data.on_bad_image=skip")
        with self._lock:
            self.count += 1
            count = self.count
        if count > self.limit:
            raise UserError(
                f"{name}: {why}; data.bad_image_limit={self.limit} files were skipped on this rank before it"
            )
        log.warning("skipped %s: %s (%d of at most %d)", name, why, count, self.limit)
