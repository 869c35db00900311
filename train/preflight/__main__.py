"""Is this machine, or this cluster, ready to train? ``python -m train.preflight [--config RECIPE] [key=value …]``.

Alone it checks one process; under msrun (``launch/preflight.sh``) every rank checks itself, and together they check
what they exchange and make two updates of the recipe. Rank 0 prints one table; each of its lines holds the worst that
any rank found. For each failure there is one line that says what to do, and the exit code is 2 on every rank; 6 where a
rank did not answer. Nothing stays on disk.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from train.preflight import machine
from train.preflight.findings import Finding, failures, look, table
from train.runtime import device, packages
from train.runtime.console import print_error
from train.runtime.ending import end_with
from train.runtime.errors import EXIT_HUNG, EXIT_USER_ERROR, OneLineParser, RunError, run_command

if TYPE_CHECKING:
    from train.recipe.sections import RunConfig

FREE_GIB = 5.0  # a checkpoint of ResNet-50 with its velocities takes 0.2; several are kept
TIMEOUT = 120.0
UPDATE_PATIENCE = 10
"""Times the time-out: the updates of a recipe compile, and may be long."""


def program() -> NoReturn:
    end_with(main)


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(parse(arguments)), own_name)


def command(options: argparse.Namespace) -> int:
    scheduler = os.environ.get("MS_ROLE") == "MS_SCHED"  # of msrun: runs the same command, and must not print
    found = [] if scheduler else [look("python", machine.python), look("packages", machine.installed)]
    if not all(finding.ok for finding in found):
        return report([found], [own_number()])
    config = read_config(options)
    if scheduler:
        return schedule_ranks(config.device.target if config else "auto")
    chosen = look("device", lambda: machine.choose(**(config.device.model_dump() if config else {})))
    if not chosen.ok:
        return report([[*found, chosen]], [own_number()])
    return check_together(found, config, options)


def check_together(found: list[Finding], config: RunConfig | None, options: argparse.Namespace) -> int:
    """Join the job, do the checks that need it, and report on all ranks.

    Joining comes first: it gives each rank its device, which nothing may have used before. A rank that cannot join, or
    whose device, exchanges or updates fail, can only report on itself.
    """
    from train.preflight.exchanges import EXCHANGES, describe_world, exchange
    from train.runtime import distributed

    try:
        distributed.init()
    except (RuntimeError, RunError) as error:
        text = f"cannot join the job: {machine.first_line(error)}"
        return report([[*found, Finding("ranks", False, text)]], [own_number()])
    found = [*found, look("device", machine.compute)]
    if not found[-1].ok:
        return report([found], [distributed.rank()])
    exchanges = []
    for name in EXCHANGES:
        with time_limit(options.timeout, name):
            exchanges.append(exchange(name))
        if not exchanges[-1].ok:
            return report([[*found, *exchanges]], [distributed.rank()])
    same: dict[str, Any] = {"host": socket.gethostname(), **packages.versions()}
    local = list(look_at_recipe(config, options.free_gib, same))
    with time_limit(options.timeout, "waiting for what the others found"):
        world = distributed.gather_json(same)
    ranks = look("ranks", lambda: describe_world(world))
    own = [*found, ranks, *exchanges, *local]
    # All ranks decide alike: they have the same recipe and each could read the data.
    if config is not None and ranks.ok and all(rank["data"] is not None for rank in world):
        with time_limit(options.timeout * UPDATE_PATIENCE, "updating"):
            own.append(look("update", lambda: updates(config)))
        if not own[-1].ok:
            return report([own], [distributed.rank()])
    with time_limit(options.timeout, "waiting for what the others found"):
        rows = distributed.gather_json([[finding.check, finding.ok, finding.text] for finding in own])
        code = report([[Finding(*cells) for cells in row] for row in rows])
        distributed.barrier()  # a launcher stops the job at the first rank that ends with a failure
    return code


def updates(config: RunConfig) -> str:
    from train.preflight.update import time_updates

    return time_updates(config)


def look_at_recipe(config: RunConfig | None, free_gib: float, same: dict[str, Any]) -> Iterator[Finding]:
    """Check data and disk, and add to ``same`` what all ranks must have in common."""
    if config is None:
        yield look("disk", lambda: machine.disk(".", free_gib))
        return
    from train.recipe.read import to_yaml

    same["recipe"] = hashlib.sha256(to_yaml(config).encode()).hexdigest()[:12]
    same["data"] = None

    def data() -> str:
        text, same["data"] = machine.data(config.data)
        return text

    yield look("data", data)
    yield look("disk", lambda: machine.disk(config.runs_dir, free_gib))


def report(ranks: list[list[Finding]], numbers: list[int] | None = None) -> int:
    """Print the table on rank 0 and all failures; other ranks repeat the last one. Return the exit code."""
    lines = failures(ranks, numbers)
    if own_number() == 0:
        print(*table(ranks, numbers), sep="\n", flush=True)
    elif numbers is None:
        lines = lines[-1:]  # a launcher shows the end of the log of the rank that ended first: no new words there
    for line in lines:
        print_error(line)
    return EXIT_USER_ERROR if lines else 0


@contextlib.contextmanager
def time_limit(seconds: float, doing: str) -> Iterator[None]:
    """End this process with a line and exit code 6 if what is inside takes longer than ``seconds``."""

    def end() -> None:
        text = f"no answer from the other ranks in {seconds:g} s ({doing}): is one gone, or the network blocked?"
        print_error(f"rank {own_number()}: {text}")
        os._exit(EXIT_HUNG)  # the main thread hangs inside the framework

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def schedule_ranks(target: device.Device) -> int:
    """Be msrun's scheduler until the ranks have ended."""
    from train.runtime import distributed

    device.configure(target)
    distributed.init()
    return 0


def read_config(options: argparse.Namespace) -> RunConfig | None:
    if options.config is None:
        return None
    from train.recipe.read import load_config

    return load_config(options.config, options.override)


def own_name() -> str:
    from train.runtime import distributed

    return distributed.own_name()


def own_number() -> int:
    """This process's rank, as msrun says before the ranks have met."""
    return int(os.environ.get("RANK_ID", "0"))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m train.preflight",
        description="Check what a training needs: versions, device, exchanges between ranks, data and disk.",
    )
    parser.add_argument("--config", metavar="RECIPE", help="also check what this recipe needs")
    parser.add_argument(
        "--free-gib", type=float, default=FREE_GIB, help="GiB wanted in runs_dir (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        help=f"seconds to wait for other ranks, {UPDATE_PATIENCE} times as many in an update (default: %(default)s)",
    )
    parser.add_argument("override", nargs="*", metavar="key=value", help="override a key of the recipe")
    options = parser.parse_args(arguments)
    if options.override and options.config is None:
        parser.error(f"{options.override[0]} is a setting over a recipe's: give --config RECIPE, too")
    return options


if __name__ == "__main__":
    program()
