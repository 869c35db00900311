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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from train.dryrun import stand_ins
from train.dryrun.log import MARK, SHOWN, Part, read_parts
from train.recipe.read import load_config
from train.recipe.sections import RunConfig
from train.runtime.errors import EXIT_SIGNAL, OneLineParser, StorageError, UserError, run_command

EXIT_FAILS, EXIT_SLOW, EXIT_UNKNOWN = 1, 2, 3
CARDS_GIB = (32, 64)
SLOW = {"ai_cpu": "AI CPU", "host": "host"}
IMAGENET = (1000, 3)
HELP = """\
Compile a recipe's update and evaluation for Ascend with MindSpore's own Ascend back end, on any x86-64 Linux with a
C++ compiler and without a card, CANN or the data; say which kernels they are made of.

examples:
  python -m train.dryrun --config train/recipes/digits_resnet20.yaml
  python -m train.dryrun --config train/recipes/imagenet_resnet50.yaml --ranks 16 step.precision=bf16
  python -m train.dryrun --config my.yaml model.name=my_models:build --classes 100

exit codes:
  0     compiles, and every operator has a kernel for the device's AI cores
  1     does not compile: what, where and why
  2     compiles, with kernels on the device's AI CPU or on the host: slow ones;
        or, with a line "error: ..." and no table, a mistake in the arguments, the recipe or the environment
  3     cannot judge: something that the simulation does not follow, or that took too long
  5     the disk of the temporary folder is full or fails"""


def main(arguments: list[str] | None = None) -> int:
    try:
        return run_command(lambda: command(parse(arguments)))
    except KeyboardInterrupt:
        return EXIT_SIGNAL + signal.SIGINT


def command(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.override)
    classes, channels = facts(config, options.classes, options.channels)
    check_batch(config, options.ranks)
    if options.json:
        check_place(options.json)
    package = stand_ins.mindspore_package()
    asked = {
        "recipe": str(Path(options.config).resolve()),
        "overrides": options.override,
        "classes": classes,
        "channels": channels,
    }
    with ended_by_signals():
        parts = compile_parts(asked, options.ranks, package, stand_ins.ready(package), options.timeout)
    adapters = stand_ins.ai_cpu_adapters(package)
    figures = {part.name: part.figures(adapters) for part in parts}
    code, words = verdict(figures)
    print(heading(config, options.ranks, classes, channels))
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
    found = " and ".join(f"{count} on the {where}" for where, count in slow.items() if count)
    gibibytes = max(part["memory_bytes"] for part in figures.values()) / 2**30
    cards = ", ".join(f"{gibibytes / card:.0%} of a card of {card} GiB" for card in CARDS_GIB)
    launches = f"compiles, {figures['update']['launches']} launches an update"
    memory = f"{gibibytes:.2f} GiB ({cards}) without CANN's workspaces and HCCL's buffers"
    if found:
        return EXIT_SLOW, f"{launches}, slow kernels: {found}; {memory}"
    return 0, f"{launches}, nothing on the AI CPU or the host; {memory}"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal end this process as an exception does: what it started is ended, its folders are removed."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(EXIT_SIGNAL + number)

    asked = [one for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def facts(config: RunConfig, classes: int | None, channels: int | None) -> tuple[int, int]:
    """Return the numbers of classes and channels: as asked for, else the source's or the recipe's, else ImageNet's."""
    data = config.data
    known = {
        "digits": (10, 1),
        "cifar10": (10, 3),
        "synthetic": (data.synthetic_classes, 3),
    }.get(data.source, IMAGENET)
    return classes or known[0], channels or len(data.mean or data.std) or known[1]


def check_batch(config: RunConfig, ranks: int) -> None:
    """Refuse what training would refuse: a batch that leaves a rank, or a part of its batch, without images."""
    each, step = config.data.global_batch // ranks, config.step
    needed = step.accumulate * (2 if step.mixup or step.cutmix else 1)  # an image is mixed with another one
    if each < needed:
        raise UserError(
            f"data.global_batch={config.data.global_batch}: {each} images a rank with --ranks {ranks}, and at least "
            f"{needed} needed (step.accumulate, step.mixup, step.cutmix); raise it or lower --ranks"
        )


def compile_parts(asked: dict[str, Any], ranks: int, package: Path, cann: Path, seconds: float) -> list[Part]:
    """Let a process compile what is ``asked`` for at most so many ``seconds``, and return what became of each part.

    Raises:
        UserError: from that process.
        StorageError: where its folder takes no more.
    """
    with tempfile.TemporaryDirectory(prefix="dryrun-") as folder:
        log, record = Path(folder) / "log", Path(folder) / "record"
        record.touch()
        status = run_worker(asked, log, environment(ranks, package, cann, record), seconds)
        require_room(Path(folder))
        lines = log.read_text(errors="replace").splitlines()
        exchanges = Path(folder) / "rank_0/execute_order/comm_execute_order.csv"
        listed = exchanges.read_text().splitlines() if exchanges.exists() else []
        parts = read_parts(lines, record.read_text().splitlines(), listed)
    for line in lines:
        if line.startswith(MARK) and "refused" in (said := json.loads(line[len(MARK) :])):
            raise UserError(said["refused"])
    ended = f"MindSpore's process died of {signal.Signals(-status).name}" if status and status < 0 else None
    if status is None:
        ended = (
            f"not finished after {seconds:g} s (--timeout); a loop on a tensor never ends here: its condition is true"
        )
    if not parts and status and status > 0:  # a fault before anything was compiled: with its traceback
        own = [line for line in lines if not line.startswith("[")]
        print(*own, sep="\n", file=sys.stderr)
        return [Part("update", error=own[-1] if own else f"nothing was compiled (exit status {status})", unknown=False)]
    parts = parts or [Part("update")]
    if ended and parts[-1].error:
        parts[-1].error, parts[-1].unknown = ended, True
    return parts


def run_worker(asked: dict[str, Any], log: Path, variables: dict[str, str], seconds: float) -> int | None:
    """Return the exit status of the process that compiles, None where it was not done in time."""
    with log.open("w") as stream:
        # It works in the log's folder, where MindSpore leaves files of its own; a terminal's Ctrl-C is not for it.
        worker = subprocess.Popen(
            [sys.executable, "-m", "train.dryrun.worker", json.dumps(asked)],
            cwd=log.parent,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
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
        "OMP_NUM_THREADS": "1",
    }


def heading(config: RunConfig, ranks: int, classes: int, channels: int) -> str:
    data = config.data
    each = -(-data.global_batch // ranks)
    return (
        f"{config.model.name}, {classes} classes, images of {channels}×{data.image_size}×{data.image_size}, "
        f"{config.step.precision}; {ranks} rank{'s' * (ranks > 1)}, {each} images each, {stand_ins.SOC}\n"
        "compiled by MindSpore for Ascend; CANN is replaced by stand-ins that compute nothing"
    )


def table(name: str, figures: dict[str, Any]) -> Iterable[str]:
    """Yield the lines of one part."""
    titles = {"update": "one update", "evaluation": "one step of evaluation"}
    yield f"== {titles.get(name, name)}"
    for row in figures["operators"]:
        slow = "  <-- slow" if row["kind"] in ("AI CPU", "host") else ""
        yield f"{row['operator']:32}{row['kernels']:>6}  {row['kind']}{slow}"
    if figures["error"]:
        yield f"{'CANNOT JUDGE' if figures['unknown'] else 'DOES NOT COMPILE'}: {figures['error']}"
        return
    megabytes = sum(figures["exchange_bytes"]) / 1e6
    yield f"launches        {figures['launches']:>6}  of kernels, in the branches taken"
    yield f"exchanges       {figures['exchanges']:>6}  between ranks, {megabytes:.1f} MB from each rank"
    yield f"casts           {figures['casts']:>6}"
    yield f"waits           {figures['host_waits']:>6}  of the host for the device, without the reading of the result"
    yield f"on the AI CPU   {figures['ai_cpu']:>6}"
    yield f"on the host     {figures['host']:>6}"
    gibibytes = figures["memory_bytes"] / 2**30
    yield f"memory          {gibibytes:>6.2f}  GiB by MindSpore's count, without CANN's workspaces"


WRITTEN = b'{\n "verdict": '  # how the file of figures begins


def check_place(path: Path) -> None:
    """Refuse what cannot be written before minutes are spent on it."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "is a folder" if path.is_dir() else "cannot be written there"
        raise UserError(f"--json {path}: {reason}; name a file in a folder that exists")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(WRITTEN)):
        raise UserError(f"--json {path}: is there, and no dry run wrote it; choose another name")


def write_json(path: Path, figures: dict[str, dict[str, Any]], words: str) -> None:
    """Write the figures of the update, and in ``evaluation`` those of the other; ``error`` is the first of either."""
    update, evaluation = figures["update"], figures.get("evaluation")
    error = update["error"] or (evaluation or {}).get("error")
    content = {"verdict": words, **update, "error": error, "evaluation": evaluation}
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
    parser.add_argument("--classes", type=positive, metavar="N", help="where only the data knows them (default: 1000)")
    parser.add_argument("--channels", type=positive, metavar="N", help="of the images, where only the data knows them")
    parser.add_argument("override", nargs="*", metavar="key=value", help="a key of the recipe and its new value")
    return parser.parse_intermixed_args(arguments)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
