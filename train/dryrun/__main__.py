"""``python -m train.dryrun --config RECIPE``: what Ascend would be asked to do, found out without a card."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from train.dryrun import stand_ins
from train.dryrun.log import MARK, SHOWN, Part, read_parts
from train.recipe.read import load_config
from train.recipe.sections import RunConfig
from train.runtime.errors import OneLineParser, UserError, run_command

EXIT_FAILS, EXIT_SLOW = 1, 2
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
  1     does not compile
  2     compiles, with kernels on the device's AI CPU or on the host: slow ones;
        or, with a line "error: ..." and no table, a mistake in the arguments, the recipe or the environment"""


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(parse(arguments)))


def command(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.override)
    classes, channels = facts(config, options.classes, options.channels)
    check_batch(config, options.ranks)
    package = stand_ins.mindspore_package()
    cann = stand_ins.ready(package)
    asked = {
        "recipe": str(Path(options.config).resolve()),
        "overrides": options.override,
        "classes": classes,
        "channels": channels,
    }
    parts = compile_parts(asked, options.ranks, package, cann)
    adapters = stand_ins.ai_cpu_adapters(package)
    figures = {part.name: part.figures(adapters) for part in parts}
    print(heading(config, options.ranks, classes, channels))
    for name, part in figures.items():
        print("", *table(name, part), sep="\n")
    if options.json:
        write_json(Path(options.json), figures)
    if any(part["error"] for part in figures.values()):
        return EXIT_FAILS
    return EXIT_SLOW if any(part["ai_cpu"] or part["host"] for part in figures.values()) else 0


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
    each = config.data.global_batch // ranks
    if each < config.step.accumulate:
        raise UserError(
            f"data.global_batch={config.data.global_batch}: {each} images a rank with --ranks {ranks}, and at least "
            f"{config.step.accumulate} needed (step.accumulate); raise it or lower --ranks"
        )


def compile_parts(asked: dict[str, Any], ranks: int, package: Path, cann: Path) -> list[Part]:
    """Let a process compile what is ``asked``, and return what became of each part.

    Raises:
        UserError: from that process.
    """
    with tempfile.TemporaryDirectory(prefix="dryrun-") as folder:
        log, record = Path(folder) / "log", Path(folder) / "record"
        record.touch()
        with log.open("w") as stream:
            # It works in this folder, where MindSpore leaves files of its own.
            status = subprocess.run(
                [sys.executable, "-m", "train.dryrun.worker", json.dumps(asked)],
                cwd=folder,
                env=environment(ranks, package, cann, record),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            ).returncode
        lines = log.read_text(errors="replace").splitlines()
        exchanges = Path(folder) / "rank_0/execute_order/comm_execute_order.csv"
        listed = exchanges.read_text().splitlines() if exchanges.exists() else []
        parts = read_parts(lines, record.read_text().splitlines(), listed)
    for line in lines:
        if line.startswith(MARK) and "refused" in (said := json.loads(line[len(MARK) :])):
            raise UserError(said["refused"])
    if not parts:  # a fault before anything was compiled, e.g. in the reader's own model: with its traceback
        own = [line for line in lines if not line.startswith("[")]
        print(*own, sep="\n", file=sys.stderr)
        return [Part("update", error=own[-1] if own else f"nothing was compiled (exit status {status})")]
    if status < 0:
        for part in parts[-1:]:
            part.error = part.error and f"MindSpore's process died of {signal.Signals(-status).name}"
    return parts


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
        yield f"DOES NOT COMPILE: {figures['error']}"
        return
    megabytes = sum(figures["exchange_bytes"]) / 1e6
    yield f"launches        {figures['launches']:>6}  of kernels, in the branches taken"
    yield f"exchanges       {figures['exchanges']:>6}  between ranks, {megabytes:.1f} MB from each rank"
    yield f"casts           {figures['casts']:>6}"
    yield f"waits           {figures['host_waits']:>6}  of the host for the device"
    yield f"on the AI CPU   {figures['ai_cpu']:>6}"
    yield f"on the host     {figures['host']:>6}"
    gibibytes = figures["memory_bytes"] / 2**30
    yield f"memory          {gibibytes:>6.2f}  GiB by MindSpore's count, without CANN's workspaces"


def write_json(path: Path, figures: dict[str, dict[str, Any]]) -> None:
    """Write the figures of the update, and in ``evaluation`` those of the other; ``error`` is the first of either."""
    update, evaluation = figures["update"], figures.get("evaluation")
    error = update["error"] or (evaluation or {}).get("error")
    try:
        path.write_text(json.dumps({**update, "error": error, "evaluation": evaluation}, indent=1) + "\n")
    except OSError as problem:
        raise UserError(f"--json {path}: {problem.strerror}") from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m train.dryrun",
        usage="python -m train.dryrun --config RECIPE [--ranks N] [--json FILE] [key=value ...]",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, e.g. from train/recipes/")
    parser.add_argument("--ranks", type=positive, default=8, metavar="N", help="cards of the job (default: 8)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
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
