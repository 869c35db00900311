"""What the recipes of the guide's page on other tasks cost, each in one process:
``python -m tests.benchmarks.bench_tasks [words masks …] [--updates 500]``.

Printed are the lines of the part and of its recipe, the graphs of the update and of the evaluation, examples/s of whole
updates, from the source to the weights, as a part of what the same update makes of one batch of arrays over and over,
and by how much the process grew from a fifth of the updates to the last.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.jobs import ROOT
from train.new import BLOCK

TASKS = BLOCK.findall((ROOT / "train" / "TASKS.md").read_text(encoding="utf-8"))
RECIPES = {name.removesuffix(".yaml"): text for name, text in TASKS if name.endswith(".yaml")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(RECIPES))
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return measure(options.tasks[0], options.updates)
    print("| task | lines | graphs | examples/s | of plain arrays | MB more |", flush=True)
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for task in options.tasks or RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            command = [sys.executable, "-m", __spec__.name, task, "--inside", "--updates", str(options.updates)]
            subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}, check=True)


def prepare(folder: Path) -> None:
    """Write all recipes, the archives of one and the teacher of another."""
    for name, text in TASKS:
        (folder / name).write_text(text, encoding="utf-8")
    made = "from models import *; from models.weights import *; "
    made += "export_weights(create_model('resnet20', num_classes=10, in_channels=1), 'teacher.safetensors')"
    for command in (["my_tar.py"], ["-c", made]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True)


def measure(task: str, updates: int) -> None:
    from train.recipe.read import load_config
    from train.runtime import device

    config = load_config(f"{task}.yaml", [f"schedule.total={2 * updates}"])
    device.configure(**config.device.model_dump())
    from train.run.job import make_feeder, make_step
    from train.run.opening import open_all

    task, loader, schedule = open_all(config)
    step = make_step(config, task.network, schedule.lr)
    update = make_feeder(config, step)
    marks: list[tuple[float, float]] = []
    for t, batch in enumerate(loader.batches(0, updates)):
        _ = update(batch, t).result
        if t in (updates // 5, updates - 1):
            marks.append((time.perf_counter(), resident()))
    task.score()
    graphs = len(step.compile_cache) + len(task.eval_step.compile_cache)
    began = time.perf_counter()
    for t in range(updates, updates + updates // 5):
        _ = update(batch, t).result
    plain = (updates // 5) * config.data.global_batch / (time.perf_counter() - began)
    (early, before), (late, after) = marks
    speed = (updates - 1 - updates // 5) * config.data.global_batch / (late - early)
    module = f"{config.step.loss if ':' in config.step.loss else config.data.source}".partition(":")[0]
    lines = sum(len(text.splitlines()) for name, text in TASKS if name in (f"{module}.py", f"{task}.yaml"))
    print(f"| {task} | {lines} | {graphs} | {speed:,.0f} | {speed / plain:.0%} | {after - before:+.1f} |", flush=True)


def resident() -> float:
    """Return the memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
