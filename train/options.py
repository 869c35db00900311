"""The command lines of this package: a mistake in one is one line, as every other mistake of a user."""

from __future__ import annotations

import argparse
from typing import NoReturn

from train.errors import EXIT_USER_ERROR


class OneLineParser(argparse.ArgumentParser):
    """Ends the command at a mistake with one line and exit code 2; argparse itself prints the usage, too."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}; see {self.prog} --help\n")
