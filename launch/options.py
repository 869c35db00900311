"""The command lines of ``local.sh`` and ``node.sh``; a mistake is one line and exit code 2.

Only the standard library: the arguments are checked before there is an environment.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from supervise import EXIT_USER_ERROR

LOOPBACK = "127.0.0.1"
PORTS = range(1024, 65536)
DEFAULT_PORT = 8118  # msrun's own: the nodes of a job must agree without asking each other


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(kind: str, *arguments: str) -> argparse.Namespace:
    """Parse the arguments of ``local.sh`` or ``node.sh``; ``kind`` is the script's name without the ending."""
    parser = OneLineParser(prog=f"launch/{kind}.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--ranks", required=True, type=positive)
    parser.add_argument("--config", required=True)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--check-arguments", action="store_true", help="stop after parsing")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.set_defaults(nodes=1, node_rank=0, master=LOOPBACK, max_restarts=0)
    if kind == "node":
        parser.add_argument("--nodes", required=True, type=positive)
        parser.add_argument("--node-rank", required=True, type=int)
        parser.add_argument("--master", required=True)
        parser.add_argument("--port", type=port_number, default=DEFAULT_PORT)
    else:
        parser.add_argument("--port", type=port_number, help="a free one if none is given")
        parser.add_argument("--max-restarts", type=count)
    options = parser.parse_intermixed_args(arguments)
    if options.node_rank not in range(options.nodes):
        parser.error(f"argument --node-rank: {options.node_rank} must be from 0 to {options.nodes - 1} (--nodes - 1)")
    for setting in options.settings:
        if "=" not in setting:
            parser.error(f"unexpected argument {setting!r}; settings look like name=trial")
    return options


def count(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}")
    return int(text)


def positive(text: str) -> int:
    return count(text, least=1)


def port_number(text: str) -> int:
    if not text.isdecimal() or int(text) not in PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port from {PORTS[0]} to {PORTS[-1]}")
    return int(text)
