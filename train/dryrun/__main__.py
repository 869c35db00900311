"""``python -m train.dryrun --config RECIPE``: what Ascend would be asked to do, found out without a card."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from train.dryrun import stand_ins
from train.dryrun.kernels import of_the_ai_cpu
from train.dryrun.log import SHOWN, Part, note_places, read_parts
from train.recipe.read import load_config
from train.runtime.errors import EXIT_SIGNAL, OneLineParser, StorageError, UserError, run_command

EXIT_FAILS, EXIT_SLOW, EXIT_UNKNOWN = 1, 2, 3
CARDS_GIB = (32, 64)
STAND_INS = "CANN is replaced by stand-ins that compute nothing"
SLOW = {"ai_cpu": "AI CPU", "host": "host"}
SAVED = "hwopt_d_after_stream_assign"
"""The one state of each graph that MindSpore writes down, with the type and the line of code of each operator."""
LISTED = ("update", "evaluation")
TITLES = {
    "opening": "before the first update: parts of your own are tried, and rank 0's weights sent",
    "update": "one update",
    "evaluation": "one step of evaluation",
    "gathers": "around an evaluation: mean statistics, sums over ranks, and the moving average's step",
    "prediction": "a question to the trained model",
}
HELP = """\
Compile a recipe's update and evaluation for Ascend with MindSpore's own Ascend back end, on any x86-64 Linux with a
C++ compiler and without a card, CANN or the data; say which kernels they are made of.

examples:
  python -m train.dryrun --config train/recipes/digits_resnet20.yaml
  python -m train.dryrun --config train/recipes/imagenet_resnet50.yaml --ranks 16 step.precision=bf16
  python -m train.dryrun --config my.yaml model.name=my_models:build data.source=synthetic

exit codes:
  0     compiles, and every operator has a kernel for the device's AI cores
  1     does not compile: what, where and why
  2     compiles, with kernels on the device's AI CPU or on the host: slow ones;
        or, with a line "error: ..." and no table, a mistake in the arguments, the recipe or the environment
  3     cannot judge: something that the simulation does not follow, or that took too long
  5     the disk of the temporary folder is full or fails"""


def main(arguments: list[str] | None = None) -> int:
    if arguments is None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, end)
    return run_command(lambda: command(parse(arguments)))


def end(number: int, _: object) -> NoReturn:
    """End at a signal as at an exception: the process that compiles is ended, the temporary folder removed."""
    raise SystemExit(EXIT_SIGNAL + number)


def command(options: argparse.Namespace) -> int:
    load_config(options.config, options.override)  # whose mistakes are found at once
    if options.json:
        check_place(options.json)
    package = stand_ins.mindspore_package()
    case: dict[str, Any] = {
        "recipe": str(Path(options.config).resolve()),
        "overrides": options.override,
        "folder": os.getcwd(),
    }
    parts = compile_parts([case], options.ranks, package, stand_ins.ready(package), options.timeout)
    ai_cpu = of_the_ai_cpu(package)
    figures = {part.name: part.figures(ai_cpu) for part in parts}
    code, words = verdict(figures)
    print(*filter(None, (part.about for part in parts)), f"compiled for {stand_ins.SOC}; {STAND_INS}", sep="\n")
    for name, part in figures.items():
        print("", *table(name, part), sep="\n")
    print(f"\n{words}")
    if options.json:
        write_json(options.json, figures, words)
    return code


def verdict(figures: dict[str, dict[str, Any]]) -> tuple[int, str]:
    """Return the exit code, and one line that a person can act on."""
    wrong = [(part["unknown"], f"{name}: {part['error']}") for name, part in figures.items() if part["error"]]
    if wrong:
        unknown, reason = min(wrong, key=lambda one: one[0])  # a fault of the model first
        return (EXIT_UNKNOWN, f"cannot judge: {reason}") if unknown else (EXIT_FAILS, f"does not compile: {reason}")
    slow = {where: sum(part[key] for part in figures.values()) for key, where in SLOW.items()}
    maybe = sum((Counter(part["maybe_ai_cpu"]) for part in figures.values()), Counter())
    unchecked = set().union(*(part["unchecked"] for part in figures.values()))
    found = ", ".join(f"{count} on the {where}" for where, count in slow.items() if count)
    found += f"{', ' * bool(found)}maybe {maybe.total()} on the AI CPU ({', '.join(maybe)})" if maybe else ""
    gibibytes = max(part["memory_bytes"] for part in figures.values()) / 2**30
    cards = ", ".join(f"{gibibytes / card:.0%} of a card of {card} GiB" for card in CARDS_GIB)
    launches = f"compiles, {figures['update']['launches']} launches an update"
    memory = f"{gibibytes:.2f} GiB ({cards}) without CANN's workspaces and HCCL's buffers"
    looked = f"; types not checked for: {', '.join(sorted(unchecked))}" if unchecked else ""
    where = f"slow kernels: {found}" if found else "nothing on the AI CPU or the host"
    return EXIT_SLOW if found else 0, f"{launches}, {where}{looked}; {memory}"


def compile_parts(cases: list[dict[str, Any]], ranks: int, package: Path, cann: Path, seconds: float) -> list[Part]:
    """Let a process compile ``cases`` (see :func:`train.dryrun.worker.compile_case`) for at most so many ``seconds``,
    and return what became of each part of each.

    Raises:
        UserError: from that process.
        StorageError: where its folder takes no more.
    """
    with tempfile.TemporaryDirectory(prefix="dryrun-") as folder:
        log, record = Path(folder) / "log", Path(folder) / "record"
        record.touch()
        status = run_worker(cases, log, environment(ranks, package, cann, record), seconds)
        require_room(Path(folder))
        lines = log.read_text(errors="replace").splitlines()
        exchanges = Path(folder) / "rank_0/execute_order/comm_execute_order.csv"
        listed = exchanges.read_text().splitlines() if exchanges.exists() else []
        parts = read_parts(lines, record.read_text().splitlines(), listed)
        note_places(parts, Path(folder))
    if status == 0:
        return parts
    if status is None:
        reason = f"not finished after {seconds:g} s (--timeout); a loop on a tensor never ends here"
    elif status < 0:
        reason = f"MindSpore's process died of {signal.Signals(-status).name}"
    else:  # a fault outside of what is compiled: with its traceback
        own = [line for line in lines if not line.startswith("[")]
        print(*own, sep="\n", file=sys.stderr)
        reason = own[-1] if own else f"exit status {status}"
    if not parts or not parts[-1].error:
        parts.append(Part("opening"))
    parts[-1].error, parts[-1].unknown = reason, status is None or status < 0
    return parts


def run_worker(cases: list[dict[str, Any]], log: Path, variables: dict[str, str], seconds: float) -> int | None:
    """Return the exit status of the process that compiles, None where it was not done in time."""
    with log.open("w") as stream:
        worker = subprocess.Popen(
            [sys.executable, "-m", "train.dryrun.worker", json.dumps(cases)],
            cwd=log.parent,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
        try:
            return worker.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def require_room(folder: Path) -> None:
    """Raise a :class:`StorageError` where ``folder`` takes no more: what was written there is not all then."""
    try:
        with (folder / "room").open("wb") as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; set TMPDIR to a folder with room") from None


def environment(ranks: int, package: Path, cann: Path, record: Path) -> dict[str, str]:
    """Return the variables of the compiling process: the user's, but for those that MindSpore and CANN read."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MS_", "ASCEND_", "HCCL_"))}
    # The modules that are found here are to be found there, too, from another working folder.
    paths = [str(cann / "python"), *(str(Path(entry).resolve()) for entry in sys.path)]
    return {
        **own,
        **stand_ins.environment(package, cann),
        "STAND_INS_RECORD": str(record),
        "PYTHONPATH": ":".join(paths),
        "MS_SIMULATION_LEVEL": "3",
        "RANK_SIZE": str(ranks),
        "RANK_ID": "0",
        "GLOG_v": "3",
        "MS_SUBMODULE_LOG_v": SHOWN,
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(record.parent),
        "MS_DEV_DUMP_IR_PASSES": SAVED,
        "OMP_NUM_THREADS": "1",
    }


def table(name: str, figures: dict[str, Any]) -> Iterable[str]:
    """Yield the lines of one part."""
    yield f"== {TITLES[name]}"
    for row in figures["operators"]:
        slow = row["kind"] in SLOW.values()
        if slow or name in LISTED:
            yield f"{row['operator']:32}{row['kernels']:>6}  {row['kind']}{'  <-- slow' * slow}"
    if figures["error"]:
        yield f"{'CANNOT JUDGE' if figures['unknown'] else 'DOES NOT COMPILE'}: {figures['error']}"
        return
    if name not in LISTED:
        yield f"{figures['launches']} launches, {figures['exchanges']} exchanges"
        return
    megabytes, gibibytes = sum(figures["exchange_bytes"]) / 1e6, figures["memory_bytes"] / 2**30
    rows = (
        ("launches", figures["launches"], "of kernels, in the branches taken"),
        ("exchanges", figures["exchanges"], f"between ranks, {megabytes:.1f} MB from each rank"),
        ("casts", figures["casts"], ""),
        ("waits", figures["host_waits"], "of the host for the device, without the reading of the result"),
        ("on the AI CPU", figures["ai_cpu"], ""),
        ("maybe there", sum(figures["maybe_ai_cpu"].values()), ", ".join(figures["maybe_ai_cpu"])),
        ("on the host", figures["host"], ""),
        ("not looked up", sum(figures["unchecked"].values()), ", ".join(figures["unchecked"])),
        ("memory", f"{gibibytes:.2f}", "GiB by MindSpore's count, without CANN's workspaces"),
    )
    yield from (f"{title:16}{value:>6}  {words}".rstrip() for title, value, words in rows)


WRITTEN = b'{\n "verdict": '  # how the file of figures begins


def check_place(path: Path) -> None:
    """Refuse what cannot be written before minutes are spent on it."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "is a folder" if path.is_dir() else "cannot be written there"
        raise UserError(f"--json {path}: {reason}; name a file in a folder that exists")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(WRITTEN)):
        raise UserError(f"--json {path}: exists, and no dry run wrote it; choose another name")


def write_json(path: Path, figures: dict[str, dict[str, Any]], words: str) -> None:
    """Write the figures of the update, and by name those of the other parts; ``error`` is the first of all."""
    others = dict(figures)
    update = others.pop("update", {})
    errors = [part["error"] for part in figures.values() if part["error"]]
    content = {"verdict": words, **update, "error": errors[0] if errors else None, **others}
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as problem:
        raise UserError(f"--json {path}: {problem.strerror}") from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m train.dryrun",
        usage="python -m train.dryrun --config RECIPE [--ranks N] [--timeout S] [--json FILE] [key=value ...]",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, e.g. from train/recipes/")
    parser.add_argument("--ranks", type=positive, default=8, metavar="N", help="cards of the job (default: 8)")
    parser.add_argument("--timeout", type=positive, default=1800, metavar="S", help="seconds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("override", nargs="*", metavar="key=value", help="a key of the recipe and its new value")
    return parser.parse_intermixed_args(arguments)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
