"""The command lines of ``local.sh``, ``node.sh`` and ``preflight.sh``; a mistake is one line and exit code 2.

Only the standard library: the arguments are checked before there is an environment.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, NoReturn

from console import one_line, show
from supervise import EXIT_USER_ERROR

LOOPBACK = "127.0.0.1"
PORTS = range(1024, 65536)
MOST_DIGITS = 9  # of a number: Python refuses to read thousands
DEFAULT_PORT = 8118  # msrun's own: the nodes of a job must agree without asking each other


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        show(one_line(f"{self.prog}: {message}; see {self.prog} --help"))
        self.exit(EXIT_USER_ERROR)


def parse(kind: str, *arguments: str) -> argparse.Namespace:
    """Parse the arguments of ``local.sh``, ``node.sh`` or ``preflight.sh``; ``kind`` is its name without the ending."""
    parser = OneLineParser(prog=f"launch/{kind}.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--ranks", required=kind == "local", type=positive)
    parser.add_argument("--config", required=kind != "preflight")
    parser.add_argument("--port", type=port_number)
    parser.add_argument("--bind-core", action=argparse.BooleanOptionalAction)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--check-arguments", action="store_true", help="stop after parsing")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.set_defaults(kind=kind, nodes=1, node_rank=0, master=LOOPBACK, max_restarts=0)
    if kind == "preflight":
        parser.add_argument("--free-gib", type=amount)
        parser.add_argument("--timeout", type=amount)
    if kind == "local":
        parser.add_argument("--max-restarts", type=count)
    else:
        parser.add_argument("--nodes", type=positive, default=None)
        parser.add_argument("--node-rank", type=count, default=None)
        parser.add_argument("--master", default=None)
    options = parser.parse_intermixed_args(arguments)
    if kind != "local":
        fill_from_cluster(parser, options)
        fill_rest(parser, options)
    if options.node_rank not in range(options.nodes):
        parser.error(f"argument --node-rank: {options.node_rank} must be from 0 to {options.nodes - 1} (--nodes - 1)")
    for setting in options.settings:
        if "=" not in setting:
            parser.error(f"unexpected argument {setting!r}; settings look like name=trial")
    if options.settings and options.config is None:
        parser.error(f"{options.settings[0]} is a setting over a recipe's; give --config RECIPE, too")
    return options


def count(text: str, least: int = 0) -> int:
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < least:
        most = f", with {MOST_DIGITS} digits at most" if len(text) > MOST_DIGITS else ""
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}{most}")
    return int(text)


def positive(text: str) -> int:
    return count(text, least=1)


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of at least 0")
    return value


def port_number(text: str) -> int:
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) not in PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port from {PORTS[0]} to {PORTS[-1]}")
    return int(text)


# What MindCluster's Ascend Operator says to each pod ("Environment Variable Description" in its documentation); the
# Slurm script and the plain Kubernetes Job set the same. To MindSpore itself some of these names mean a single process.
FROM_CLUSTER: dict[str, tuple[str, Callable[[str], Any]]] = {
    "ranks": ("MS_LOCAL_WORKER", positive),
    "node_rank": ("MS_NODE_RANK", count),
    "master": ("MS_SCHED_HOST", str),
    "port": ("MS_SCHED_PORT", port_number),
    "all_ranks": ("MS_WORKER_NUM", positive),
}


def fill_from_cluster(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Take from the cluster's variables what was not given as an option."""
    options.all_ranks = None
    for name, (variable, kind) in FROM_CLUSTER.items():
        text = os.environ.get(variable)
        if text and getattr(options, name) is None and not (name == "all_ranks" and options.nodes):
            try:
                setattr(options, name, kind(text))
            except argparse.ArgumentTypeError as error:
                parser.error(f"variable {variable}: {error}")
    if options.all_ranks and options.ranks:
        options.nodes, left = divmod(options.all_ranks, options.ranks)
        if left or not options.nodes:
            whole = f"{options.all_ranks} ranks in all do not fill nodes of {options.ranks} each"
            parser.error(f"variable MS_WORKER_NUM: {whole}")


def fill_rest(parser: OneLineParser, options: argparse.Namespace) -> None:
    """Require what a job of several nodes cannot go without; ``preflight.sh`` is one on this machine by default."""
    require(parser, options, "--ranks")
    if options.kind == "node" or (options.nodes or 1) > 1:
        require(parser, options, "--nodes", "--node-rank", "--master")
        options.port = options.port or DEFAULT_PORT
    else:
        options.nodes, options.node_rank = 1, options.node_rank or 0
        options.master = options.master or LOOPBACK


def require(parser: OneLineParser, options: argparse.Namespace, *names: str) -> None:
    missing = [name for name in names if getattr(options, name[2:].replace("-", "_")) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
