"""A task of a few seconds with the command line of ``train``: the checkouts of these tests have it as that package.

Its settings are name, runs_dir, resume and ``end``, which says how rank 1 ends: ok; refuse or killed, while rank 0
waits for it; hang. With resume=auto it ends well.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path

import yaml


def main(arguments: list[str]) -> int:
    recipe = Path(arguments[arguments.index("--config") + 1])
    if not recipe.exists():
        return refuse(f"{recipe}: no such file")
    config = {
        "name": "run",
        "runs_dir": "runs",
        "end": "ok",
        "resume": "never",
        **(yaml.safe_load(recipe.read_text()) or {}),
    }
    for key, _, value in (argument.partition("=") for argument in arguments if "=" in argument):
        if key not in config:
            return refuse(f"unknown key {key}")
        config[key] = value
    if "--print-config" in arguments:
        print(yaml.safe_dump(config), end="")
        return 0
    return train(Path(config["runs_dir"], config["name"]), "ok" if config["resume"] == "auto" else config["end"])


def train(run_dir: Path, end: str) -> int:
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    warnings.filterwarnings("ignore", r"getName\(\) is deprecated")  # both as train.runtime.device does
    from mindspore import communication

    communication.init()
    if communication.get_rank() == 0:
        (run_dir / "comparison").mkdir(exist_ok=True)
        (run_dir / "comparison" / "comparison.md").write_text("# One table\n\n| t |\n|---|\n| 5 |\n\n## And more\n")
        (run_dir / "config.yaml").touch()
        print("[WARNING] ME(1:2,MainProcess):2026-01-01-00:00:00.000.000 [file.py:1] a line of the framework")
        print(f"ready: {sys.prefix}, RANK_TABLE_FILE={os.environ.get('RANK_TABLE_FILE')}")
    elif end == "refuse":
        return refuse("rank 1: no data set here")
    elif end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0 if end == "ok" else 600)
    return 0


def refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    code = main(sys.argv[1:])
    Path("/proc/self/comm").write_text(f"ended {code}")  # as a rank of train does
    sys.exit(code)
